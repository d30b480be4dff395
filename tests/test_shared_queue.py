"""Two processes on a queue of trials in a database, as a state machine: they claim, record, fail, die and come back.

A process is a queue that signs with the number of a real process, which is killed when it is to die.
"""

import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from database_fixture import Server, server
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
from optuna.trial import TrialState
from test_trial_queue import ENDED, Queue, opened_inputs

from autolr.optimization.study.candidates import Claim
from autolr.optimization.study.database import without_password
from autolr.optimization.study.folder import StudyFolder
from autolr.optimization.study.heartbeats import _machine, _started
from autolr.optimization.study.queue import MAX_FAILURES_IN_A_ROW, TrialQueue
from autolr.optimization.study.takeover import MAX_RETRIES
from autolr.optimization.study.trial_record import DEATHS

__all__ = ["server"]  # a fixture
TRIALS = 8
WHO = st.sampled_from([0, 1])


class Worker:
    """One of the processes that share the study."""

    def __init__(self, queue: TrialQueue) -> None:
        self.queue = queue
        self.held: list[Claim] = []
        self.in_a_row = 0
        self.body = subprocess.Popen(["sleep", "1000"])
        pid = self.body.pid
        queue.trials.heartbeat.me = f"{_machine()} {pid} {_started(pid)} test"

    def die(self) -> None:
        self.body.kill()
        self.body.wait()
        self.queue.trials.heartbeat._stop.set()


class SharedQueue(RuleBasedStateMachine):
    """Two processes, each with a folder of its own, on one study in a database."""

    inputs, prepared, server = None, None, None
    evaluation, logits = Queue.evaluation, Queue.logits

    @initialize()
    def begin(self) -> None:
        self.temporary = tempfile.TemporaryDirectory()
        spec = self.inputs.spec.model_copy(update={"storage": without_password(self.server.database())})
        self.inputs_here = replace(self.inputs, spec=spec)
        self.recorded: set[str] = set()
        self.slow: list[tuple[TrialQueue, Claim]] = []
        self.workers = [self.opened(who) for who in (0, 1)]

    def opened(self, who: int) -> Worker:
        folder = StudyFolder(Path(self.temporary.name) / str(who) / "study")
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.write_spec(self.inputs_here.spec, {})
        return Worker(TrialQueue(self.inputs_here, self.prepared, folder, self.logits))

    def by_state(self, *states: TrialState) -> list:
        return self.workers[0].queue.study.get_trials(deepcopy=False, states=states)

    @rule(who=WHO)
    def claim(self, who: int) -> None:
        worker = self.workers[who]
        claim = worker.queue.claim()
        if claim is not None:
            assert claim.candidate.digest not in self.recorded
            worker.held.append(claim)

    @precondition(lambda self: any(worker.held for worker in self.workers))
    @rule(which=st.integers(0, 20))
    def record(self, which: int) -> None:
        worker, claim = self.one_of_the_held(which)
        worker.queue.record(claim, self.evaluation(claim.candidate))
        self.recorded.add(claim.candidate.digest)
        worker.in_a_row = 0

    @precondition(lambda self: any(worker.held for worker in self.workers))
    @rule(which=st.integers(0, 20))
    def fail(self, which: int) -> None:
        worker, claim = self.one_of_the_held(which)
        if worker.in_a_row + 2 < MAX_FAILURES_IN_A_ROW:
            worker.queue.fail(claim, "it was to fail")
            worker.in_a_row += 1
        else:
            worker.held.append(claim)

    def one_of_the_held(self, which: int) -> tuple[Worker, Claim]:
        held = [(worker, claim) for worker in self.workers for claim in worker.held]
        worker, claim = held[which % len(held)]
        worker.held.remove(claim)
        return worker, claim

    @rule(who=WHO)
    def die_and_come_back(self, who: int) -> None:
        dead = self.workers[who]
        dead.die()
        self.slow += [(dead.queue, claim) for claim in dead.held]
        self.workers[who] = self.opened(who)

    @precondition(lambda self: self.slow)
    @rule(which=st.integers(0, 20))
    def record_although_given_up(self, which: int) -> None:
        """One that seemed dead was only slow: what it finds counts once, or not at all."""
        queue, claim = self.slow.pop(which % len(self.slow))
        queue.record(claim, self.evaluation(claim.candidate))

    @invariant()
    def nothing_under_way_is_held_twice(self) -> None:
        digests = [claim.trial.number for worker in getattr(self, "workers", ()) for claim in worker.held]
        assert len(digests) == len(set(digests))

    @invariant()
    def there_are_never_more_than_wanted(self) -> None:
        if hasattr(self, "workers"):
            assert len(self.by_state(*ENDED)) <= TRIALS

    def teardown(self) -> None:
        if not hasattr(self, "workers"):
            return
        for worker in self.workers:
            for claim in worker.held:
                worker.queue.record(claim, self.evaluation(claim.candidate))
        for worker in (*self.workers, self.workers[0]):  # what the second let go, the first takes up
            while (claim := worker.queue.claim()) is not None:
                worker.queue.record(claim, self.evaluation(claim.candidate))
        assert len(self.by_state(*ENDED)) == TRIALS
        assert not self.by_state(TrialState.RUNNING)
        own = [t.user_attrs["digest"] for t in self.by_state(*ENDED) if "same_as" not in t.user_attrs]
        assert len(own) == len(set(own))
        assert all(t.user_attrs.get(DEATHS, 0) <= MAX_RETRIES for t in self.by_state(*ENDED))
        for worker in self.workers:
            worker.die()
        self.temporary.cleanup()


@pytest.mark.slow
def test_two_processes_lose_double_and_leave_over_no_trial(
    server: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    inputs, prepared = opened_inputs(tmp_path_factory.mktemp("queue"), TRIALS)
    machine = type("OpenedQueue", (SharedQueue,), {"inputs": inputs, "prepared": prepared, "server": server})
    long = settings(max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(machine, settings=long)
