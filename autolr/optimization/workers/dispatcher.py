"""Between a study and its workers: candidates are proposed ahead in a thread, and handed out as workers ask."""

import threading
from collections import deque
from dataclasses import dataclass, field

from autolr.optimization.racing.race import Race
from autolr.optimization.study.candidates import Claim
from autolr.optimization.study.queue import TrialQueue
from autolr.types import Candidate, Evaluation

MAX_TRIES = 3
"""Workers that a candidate may take down, or lose, before it counts as failed."""
_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Task:
    """What a worker is to evaluate.

    Attributes:
        trial: its number.
        candidate: the candidate.
        race: that it runs; None: it is scored on everything.
        halved: a worker was lost over it: run each batch in two halves.
    """

    trial: int
    candidate: Candidate
    race: Race | None
    halved: bool


@dataclass
class Dispatcher:
    """Hands out a study's trials and takes what comes back; but for proposing, all in the thread that calls it.

    Attributes:
        queue: the study's.
        ahead: how many candidates to have ready.
    """

    queue: TrialQueue
    ahead: int
    _ready: deque[Claim] = field(default_factory=deque)
    _out: dict[int, Claim] = field(default_factory=dict)
    _tries: dict[int, int] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _stopped: bool = False
    _error: BaseException | None = None
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to propose."""
        self._thread = threading.Thread(target=self._propose, name="autolr proposals", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Propose no more; what was handed out and did not come back stays in the study as running."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def next(self, wait: float = 0.0) -> Task | None:
        """Return the next task; None if there is none yet.

        Args:
            wait: how many seconds to wait for one.

        Raises:
            AutolrError: proposing failed; or whatever it failed with.
        """
        with self._changed:
            if not self._ready:
                self._changed.wait_for(lambda: self._ready or self._error, timeout=wait)
            if self._error is not None:
                raise self._error
            if not self._ready:
                return None
            claim = self._ready.popleft()
            self._changed.notify_all()
        number = claim.trial.number
        self._out[number] = claim
        return Task(number, claim.candidate, self.queue.race(claim), self._tries.get(number, 0) > 0)

    def take(self, trial: int, evaluation: Evaluation) -> None:
        """Record what a worker found."""
        self.queue.record(self._out.pop(trial), evaluation)

    def fail(self, trial: int, reason: str) -> None:
        """Record that a candidate cannot be evaluated.

        Raises:
            AutolrError: several trials in a row failed.
        """
        self.queue.fail(self._out.pop(trial), reason)

    def lost(self, trial: int) -> None:
        """Hand a task out again, whose worker died, hung or vanished with its node; it fails after ``MAX_TRIES``.

        Raises:
            AutolrError: several trials in a row failed.
        """
        if trial not in self._out:  # it came back before its worker died
            return
        tries = self._tries[trial] = self._tries.get(trial, 0) + 1
        if tries == MAX_TRIES:
            self.fail(trial, f"{tries} workers were lost over it: out of memory, killed, hung, or gone with their node")
            return
        with self._changed:
            self._ready.appendleft(self._out.pop(trial))

    def _propose(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped or len(self._ready) < self.ahead)
                    if self._stopped:
                        return
                claim = self.queue.claim()
                with self._changed:
                    if claim is None:
                        self._changed.wait_for(lambda: self._stopped, timeout=_LOOK_SECONDS)
                    else:
                        self._ready.append(claim)
                        self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001  a thread's boundary: the caller raises it, whatever it is
            with self._changed:
                self._error = error
                self._changed.notify_all()


def ready_ahead(workers: int) -> int:
    """Return how many candidates to have ready: enough that no worker waits, few enough that most results count.

    Example:
        >>> [ready_ahead(workers) for workers in (2, 8, 128)]
        [2, 2, 42]
    """
    return max(2, workers // 3)
