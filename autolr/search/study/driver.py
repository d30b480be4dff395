"""The search loop in this process: claim, evaluate, record, with everything durable after each step."""

import time
from dataclasses import dataclass, field

from autolr.errors import AutolrError, Stopped
from autolr.problem import LoadedProblem
from autolr.progress import Progress
from autolr.search.preparation import Prepared
from autolr.search.study.candidates import Claim
from autolr.search.study.evaluator import Objective
from autolr.search.study.folder import StudyFolder
from autolr.search.study.queue import TrialQueue
from autolr.tasks.class_scorer import Logits
from autolr.types import Candidate

IDLE_SECONDS = 0.2
"""Between two looks for work, while other processes run the study's last trials."""
LOOK_SECONDS = 0.1
"""Between two counts of the finished trials."""


@dataclass
class Driver:
    """Runs a study's trials in this process.

    Attributes:
        inputs: the opened inputs.
        prepared: what the trials share.
        folder: where everything is written; locked by the caller.
        progress: told of each trial, and may stop the search.
    """

    inputs: LoadedProblem
    prepared: Prepared
    folder: StudyFolder
    progress: Progress
    queue: TrialQueue = field(init=False)

    def __post_init__(self) -> None:
        self.objective = Objective(self.inputs, self.prepared.bank, self.prepared.scorer, self.prepared.probe)
        self.queue = TrialQueue(self.inputs, self.prepared, self.folder, self._rescore)

    def run(self) -> None:
        """Run trials until as many as the specification asks for are complete.

        Raises:
            Stopped: the time limit passed or the user interrupted.
            AutolrError: several trials in a row failed.
        """
        pace = Pace(self.queue, self.progress)
        while not pace.finished():
            claim = self.queue.claim()
            if claim is not None:
                self._step(claim)
            elif not pace.finished():
                time.sleep(IDLE_SECONDS)

    def _step(self, claim: Claim) -> None:
        """Evaluate one trial and tell the study."""
        try:
            evaluation = self.objective.evaluate(claim.candidate, self.progress.check, self.queue.race(claim))
        except Stopped:
            raise
        except (AutolrError, RuntimeError) as error:
            # RuntimeError: what torch raises when a model does not run, out of memory included.
            self.queue.fail(claim, f"{type(error).__name__}: {error}")
        else:
            self.queue.record(claim, evaluation)

    def _rescore(self, candidate: Candidate) -> Logits:
        logits = self.objective.evaluate(candidate, self.progress.check).logits
        assert logits is not None
        return logits


@dataclass
class Pace:
    """How far a search is, and whether it may go on."""

    queue: TrialQueue
    progress: Progress
    _began: float = field(default_factory=time.monotonic)
    _done: int = 0
    _looked: float = float("-inf")

    def __post_init__(self) -> None:
        self.progress.start(f"search: {self.queue.wanted} trials")

    def finished(self) -> bool:
        """Report the share done and tell whether it is everything.

        Raises:
            Stopped: the time limit passed or the user interrupted.
        """
        if time.monotonic() - self._looked > LOOK_SECONDS:  # counting may ask a database
            self._done, self._looked = self.queue.completed(), time.monotonic()
        wanted = self.queue.wanted
        self.progress.update(min(self._done / wanted, 1.0))
        if self._done < wanted:
            self.check()
        return self._done >= wanted

    def check(self) -> None:
        """Raise if the search should end here.

        Raises:
            Stopped: the time limit passed or the user interrupted.
        """
        limit = self.queue.inputs.spec.time_limit
        if limit is not None and time.monotonic() - self._began > limit:
            done = self.queue.completed()
            raise Stopped(f"the time limit of {limit:g} s has passed after {done} of {self.queue.wanted} trials")
        self.progress.check()
