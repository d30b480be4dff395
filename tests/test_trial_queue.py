"""The queue of trials as a state machine: claims, records, failures, deaths and resumptions in any order.

The model of it is a few sets: what was claimed, by a process that lives, and what was finished. Whatever happens, no
trial is lost, doubled or left over, and a study that is worked to its end has as many trials as were asked for.
"""

import tempfile
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from nli_fixture import write_inputs
from optuna.trial import TrialState
from test_search import spec_of

from autolr.optimization.preparation import Prepared, build_bank, prepare
from autolr.optimization.study.candidates import Claim
from autolr.optimization.study.folder import StudyFolder
from autolr.optimization.study.queue import MAX_FAILURES_IN_A_ROW, TrialQueue
from autolr.problem import LoadedProblem, open_inputs
from autolr.progress import Silent
from autolr.types import Candidate, Evaluation

TRIALS = 9
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


class Queue(RuleBasedStateMachine):
    """One process at a time works on a study's folder, dies, and is followed by another."""

    inputs, prepared = None, None

    @initialize()
    def begin(self) -> None:
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = StudyFolder(Path(self.temporary.name) / "study")
        self.folder.path.mkdir()
        self.wanted = TRIALS
        self.held: list[Claim] = []
        self.evaluated: list[str] = []
        self.failed: set[str] = set()
        self.in_a_row = 0
        self.open()

    def open(self) -> None:
        """Begin the study, or go on with it."""
        spec = self.inputs.spec.model_copy(update={"trials": self.wanted})
        inputs = replace(self.inputs, spec=spec)
        self.folder.write_spec(spec, {})
        self.queue = TrialQueue(inputs, self.prepared, self.folder, self.logits)

    def logits(self, candidate: Candidate) -> torch.Tensor:
        """What a candidate answers: the dense model's answers, disturbed by as much as its digest says."""
        dense = self.prepared.scorer.dense
        if not candidate.choices:
            return dense
        seed = zlib.crc32(candidate.digest.encode())
        noise = torch.randn(dense.shape, generator=torch.Generator().manual_seed(seed))
        return dense + 0.1 * (1 + seed % 7) * noise

    def evaluation(self, candidate: Candidate) -> Evaluation:
        answers = self.logits(candidate)
        scores = self.prepared.scorer.compare(answers)
        return Evaluation(candidate, self.inputs.costs.cost(candidate), scores, {"score": 0.1}, answers)

    def by_state(self, *states: TrialState) -> list:
        return self.queue.study.get_trials(deepcopy=False, states=states)

    @rule()
    def claim(self) -> None:
        claim = self.queue.claim()
        if claim is not None:
            self.held.append(claim)
            return
        assert len(self.by_state(*ENDED)) + len(self.by_state(TrialState.RUNNING)) >= self.queue.wanted

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 20))
    def record(self, which: int) -> None:
        claim = self.held.pop(which % len(self.held))
        self.evaluated.append(claim.candidate.digest)
        self.queue.record(claim, self.evaluation(claim.candidate))
        self.in_a_row = 0

    @precondition(lambda self: self.held and self.in_a_row + 2 < MAX_FAILURES_IN_A_ROW)
    @rule(which=st.integers(0, 20))
    def fail(self, which: int) -> None:
        claim = self.held.pop(which % len(self.held))
        self.failed.add(claim.candidate.digest)
        self.queue.fail(claim, "it was to fail")
        self.in_a_row += 1

    @rule(torn=st.booleans(), more=st.sampled_from([0, 0, 2]))
    def die_and_resume(self, torn: bool, more: int) -> None:
        """Nothing is said at the end; the last line of the journal may be unfinished."""
        self.held.clear()
        self.in_a_row = 0
        self.wanted += more
        if torn:
            with self.folder.journal.open("a") as journal:
                journal.write('{"op_code": 4, "worker_id"')
        self.open()

    @invariant()
    def what_is_under_way_is_different(self) -> None:
        digests = [claim.candidate.digest for claim in getattr(self, "held", ())]
        assert len(digests) == len(set(digests))

    @invariant()
    def nothing_is_evaluated_twice(self) -> None:
        evaluated = getattr(self, "evaluated", [])
        assert len(evaluated) == len(set(evaluated))

    @invariant()
    def what_is_finished_has_a_file_and_its_own_scores(self) -> None:
        if not hasattr(self, "queue"):
            return
        files = self.folder.trial_files()
        for trial in self.by_state(*ENDED):
            assert trial.number in files
            candidate = Candidate.from_json(trial.user_attrs["candidate"])
            assert trial.user_attrs["digest"] == candidate.digest
            assert trial.values[0] == pytest.approx(self.evaluation(candidate).scores["divergence"].value)

    def teardown(self) -> None:
        if not hasattr(self, "queue"):
            return
        for claim in self.held:  # what is under way is finished
            self.queue.record(claim, self.evaluation(claim.candidate))
        while (claim := self.queue.claim()) is not None:
            assert claim.candidate.digest not in self.evaluated
            self.queue.record(claim, self.evaluation(claim.candidate))
        assert len(self.by_state(*ENDED)) == self.queue.wanted
        assert not self.by_state(TrialState.RUNNING, TrialState.WAITING)
        own = [t.user_attrs["digest"] for t in self.by_state(*ENDED) if "same_as" not in t.user_attrs]
        assert len(own) == len(set(own))
        numbers = [trial.number for trial in self.queue.study.get_trials(deepcopy=False)]
        assert numbers == list(range(len(numbers)))
        self.temporary.cleanup()


def opened_inputs(folder: Path, trials: int) -> tuple[LoadedProblem, Prepared]:
    """Return a small study's opened inputs and what its trials share."""
    spec = spec_of(
        write_inputs(folder / "inputs"),
        trials=trials,
        search={
            "methods": ["svd"],
            "multiple": 2,
            "sampler": "random",
            "racing": False,
        },
    )
    inputs = open_inputs(spec, Silent())
    return inputs, prepare(inputs, build_bank(inputs, folder / "bank", Silent()), Silent())


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> type[Queue]:
    inputs, prepared = opened_inputs(tmp_path_factory.mktemp("queue"), TRIALS)
    return type("OpenedQueue", (Queue,), {"inputs": inputs, "prepared": prepared})


def test_no_trial_is_lost_doubled_or_left_over(machine: type[Queue]) -> None:
    quick = settings(
        max_examples=4,
        stateful_step_count=20,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=quick)


@pytest.mark.slow
def test_no_trial_is_lost_doubled_or_left_over_in_many_orders(machine: type[Queue]) -> None:
    long = settings(max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(machine, settings=long)
