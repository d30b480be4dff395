"""The trial queue of a study: which trials are to be run, and what becomes of those that were.

One Optuna study is the truth. No trial is lost, doubled or left over, whichever process dies when.
"""

import threading
import time
from collections.abc import Callable

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from autolr.errors import AutolrError, command
from autolr.probes.scorer import mean_accuracy
from autolr.problem import LoadedProblem
from autolr.records import Candidate
from autolr.scores import PROBE
from autolr.search.optuna_access import storage_of
from autolr.search.preparation import Prepared
from autolr.search.racing.incumbents import Incumbents
from autolr.search.racing.race import Race
from autolr.search.sampler.fixed_space import quiet_optuna
from autolr.search.study.candidates import CandidateIndex, Claim
from autolr.search.study.create import create_study
from autolr.search.study.database import alone
from autolr.search.study.first_candidates import enqueue_first_candidates
from autolr.search.study.folder import StudyFolder
from autolr.search.study.front import scored, write_front
from autolr.search.study.proposals import Proposals, proposals_at_once
from autolr.search.study.record import Recorder
from autolr.search.study.takeover import OwnTrials, SharedTrials, Trials
from autolr.search.study.trial_record import DEATHS, SURPLUS, TrialRecord
from autolr.tasks.scorer import Answers
from autolr.types import Evaluation, Score

MAX_FAILURES_IN_A_ROW = 5


class TrialQueue:
    """The trials of one study.

    Proposing takes long and happens in a thread of its own where there are workers; all else is short, and done under a
    lock.

    Args:
        inputs: the opened inputs.
        prepared: what the trials share.
        folder: where everything is written.
        rescore: answers a candidate's logits anew, where a file is lost.

    Attributes:
        study: Optuna's.
        trials: which of its trials are this process's.
        incumbents: what was scored on everything.
    """

    def __init__(
        self, inputs: LoadedProblem, prepared: Prepared, folder: StudyFolder, rescore: Callable[[Candidate], Answers]
    ) -> None:
        quiet_optuna()
        self.inputs, self.prepared, self.folder = inputs, prepared, folder
        self.candidates = CandidateIndex()
        self.incumbents = Incumbents(inputs, prepared.scorer, folder.path / "trials", rescore)
        self._proposals = Proposals(inputs, prepared.space, self.candidates)
        self._batch = proposals_at_once(inputs)
        self.study: optuna.Study = create_study(folder, inputs, self._proposals.sampler(self._at_once))
        self._recorder = Recorder(self.study, inputs, folder, self.incumbents, _dense_scores(prepared))
        self.trials: Trials = (OwnTrials if inputs.spec.storage is None else SharedTrials)(
            self.study, lambda: self.wanted
        )
        self._taken_up: set[int] = set()
        """Trials whose results are among the candidates and incumbents."""
        self._failures_in_a_row = 0
        self._lock = threading.RLock()
        with alone(storage_of(self.study), folder.study_name):
            self._first = enqueue_first_candidates(self.study, inputs, prepared, self._proposals)
        self._take_up_results()

    def close(self) -> None:
        """Let others know at once that this process works no more; they take over what it has left running."""
        self.trials.stop()

    @property
    def wanted(self) -> int:
        """How many trials the finished study has: the first candidates alone, where there is nothing to search."""
        trials = self.inputs.spec.trials
        return trials if self.prepared.space.distributions() else min(trials, self._first)

    def completed(self) -> int:
        """Return how many trials are scored: on everything, or until they were stopped."""
        return len(scored(self.study))

    def claim(self) -> Claim | None:
        """Take the next trial: one that a dead process left, one from the queue, or a new proposal.

        A trial whose candidate was scored before is recorded with those scores, and the next is taken.

        Returns:
            The trial; None when as many as are wanted are finished or under way.
        """
        self.trials.check()
        while True:
            with self._lock:
                if (released := self.candidates.released()) is not None:
                    return released
            try:
                claim = self._next()
            except UpdateFinishedTrialError:  # it took so long that another process closed the trial
                continue
            if claim is None:
                return None
            with self._lock:
                original = self.candidates.scored.get(claim.candidate.digest)
                if original is not None:
                    self._tell(claim, self._recorder.copied(claim, original))
                elif self.candidates.begin(claim):
                    return claim

    def race(self, claim: Claim) -> Race | None:
        """Return the race that a claimed trial's candidate has to run; None: it is scored on everything."""
        with self._lock:
            return self.incumbents.race(claim.candidate)

    def record(self, claim: Claim, evaluation: Evaluation) -> None:
        """Write what a trial found to disk, then tell the study; so too those that waited for the same candidate."""
        digest = claim.candidate.digest
        with self._lock:
            self._tell(claim, self._recorder.evaluated(claim, evaluation))
            number = self.candidates.scored.get(digest)
            if number is None:  # the trial was another process's
                self.candidates.give_up(digest)
                return
            for other in self.candidates.finish(digest):
                self._tell(other, self._recorder.copied(other, number))

    def fail(self, claim: Claim, reason: str) -> None:
        """Close a trial that failed.

        Raises:
            AutolrError: several trials in a row failed.
        """
        with self._lock:
            self.trials.close(claim.trial, self._recorder.failed(claim, reason).to_json())
            self.candidates.failed.add(claim.candidate.digest)
            self._failures_in_a_row += 1
            self.candidates.give_up(claim.candidate.digest)
        if self._failures_in_a_row == MAX_FAILURES_IN_A_ROW:
            reasons = command("status", self.folder.path)
            raise AutolrError(f"{MAX_FAILURES_IN_A_ROW} trials in a row failed; see the reasons in {reasons}")

    def _next(self) -> Claim | None:
        """Return the next trial with its candidate, which may be scored already; None where no more are wanted."""
        trial = self.trials.next()
        if trial is None:
            return None
        with self._lock:
            self._take_up_results()
        began = time.perf_counter()
        candidate = self._proposals.candidate(trial)
        return Claim(trial, candidate, time.perf_counter() - began)

    def _tell(self, claim: Claim, record: TrialRecord) -> None:
        if not self._recorder.tell(claim, record):
            return
        self.trials.done(claim.trial)
        self._failures_in_a_row = 0
        self._take_up(record)
        write_front(self.folder, self.study, self.inputs.spec)

    def _take_up_results(self) -> None:
        """Take up what finished trials found, those of other processes too."""
        for trial in scored(self.study):
            if trial.number not in self._taken_up:
                self._take_up(TrialRecord.of(trial))
        for trial in self.study.get_trials(deepcopy=False, states=[TrialState.FAIL]):
            if DEATHS not in trial.user_attrs and SURPLUS not in trial.user_attrs:
                self.candidates.failed.add(trial.user_attrs.get("digest", ""))

    def _take_up(self, record: TrialRecord) -> None:
        self._taken_up.add(record.number)
        self.candidates.scored.setdefault(record.digest, record.number)
        if not record.stopped and record.same_as is None:
            self.incumbents.add(record.number, record.candidate, record.values[0], record.feasible)

    def _at_once(self) -> int:
        """How many candidates to propose together; no more than there are trials to come."""
        to_come = self.wanted - self.trials.active() - self.trials.waiting()
        return min(self._batch, to_come + 1)  # the one asked for is active already


def _dense_scores(prepared: Prepared) -> dict[str, Score]:
    scores = prepared.scorer.compare(prepared.scorer.dense)
    if prepared.probe is not None:
        scores[PROBE.name] = mean_accuracy(prepared.probe.dense)
    return scores
