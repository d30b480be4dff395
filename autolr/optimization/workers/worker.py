"""What runs in a worker: it opens the payload once and then evaluates one candidate after the other."""

import os
import socket
from dataclasses import dataclass

from autolr.errors import AutolrError
from autolr.machine import locks
from autolr.optimization.workers.dispatcher import Task
from autolr.optimization.workers.payload import Fetch, Payload
from autolr.optimization.workers.watchdog import Watchdog
from autolr.types import Evaluation

OPEN_SECONDS = 600.0
"""For which a worker that starts may be silent, at least: loading a model has no batches that give signs of life."""


@dataclass(frozen=True)
class Reply:
    """What a worker says; nothing at all where it found no task.

    Attributes:
        trial: the number of the task's trial; None: it had no task.
        evaluation: what it found; None where it failed.
        reason: why the candidate cannot be evaluated.
        broken: why this worker cannot work.
    """

    trial: int | None = None
    evaluation: Evaluation | None = None
    reason: str | None = None
    broken: str | None = None

    @property
    def idle(self) -> bool:
        """Whether there was no task for it."""
        return self.trial is None and self.broken is None


class Worker:
    """Evaluates candidates; a watchdog ends it where it hangs.

    What goes wrong while the payload is opened is said in each reply.

    Args:
        payload: what the study's workers are given.
        fetch: reads a file of the driver's node.
    """

    def __init__(self, payload: Payload, fetch: Fetch) -> None:
        self._broken: str | None = None
        timeout = payload.problem.spec.crew.timeout
        self._watchdog = Watchdog(os.getpid(), timeout)
        self._cores = (
            None if payload.problem.spec.run.device.startswith("cuda") else locks.pin_to_cores(payload.threads)
        )
        opening = Watchdog(os.getpid(), max(timeout, OPEN_SECONDS))
        opening.tick()
        try:
            self._evaluator = payload.open(fetch, opening.tick)
        except (AutolrError, OSError, RuntimeError) as error:
            self._broken = f"on {socket.gethostname()}: {type(error).__name__}: {error}"
        finally:
            opening.close()

    @property
    def broken(self) -> bool:
        """Whether it cannot work."""
        return self._broken is not None

    def run(self, task: Task | None) -> Reply:
        """Evaluate the candidate of a task; None: there is none."""
        if self._broken is not None or task is None:
            return Reply(broken=self._broken)
        self._watchdog.tick()
        try:
            evaluation = self._evaluator.evaluate(task.candidate, self._watchdog.tick, task.race, task.halved)
        except (AutolrError, RuntimeError) as error:
            # RuntimeError: what torch raises when a model does not run, out of memory included.
            return Reply(task.trial, reason=f"{type(error).__name__}: {error}")
        finally:
            self._watchdog.rest()
        return Reply(task.trial, evaluation)

    def close(self) -> None:
        """End the watch."""
        self._watchdog.close()
