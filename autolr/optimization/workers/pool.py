"""Which worker has which tasks: handed out as workers answer, handed out anew when one is gone."""

from collections.abc import Callable
from dataclasses import dataclass, field

from autolr.errors import AutolrError
from autolr.optimization.workers.dispatcher import Dispatcher, Task
from autolr.optimization.workers.worker import Reply

QUICK_SECONDS = 2.0
"""A worker whose last task took less has the next one waiting: handing it out takes a twentieth of a second."""
MOST_STILLBORN = 6
"""Workers in a row that may die before they have reported once."""
LOST_AFTER = 3
"""Times in a row that a worker finds no task before what it was handed is handed to it again."""


@dataclass
class WorkerState:
    """One worker, from its start to its end.

    Attributes:
        tasks: what it was handed and has not answered, by the trials' numbers.
        here: whether it has reported; one that still starts is handed nothing.
        quick: whether its last task was so short that a second one should wait for it.
        idle: how often in a row it found no task.
    """

    tasks: dict[int, Task] = field(default_factory=dict)
    here: bool = False
    quick: bool = False
    idle: int = 0


@dataclass
class WorkerPool:
    """The workers of one study.

    Attributes:
        dispatcher: has the study's tasks.
        put: lays a task ready for a worker, by its name.
    """

    dispatcher: Dispatcher
    put: Callable[[str, Task], object]
    _workers: dict[str, WorkerState] = field(default_factory=dict)
    _stillborn: int = 0

    def add(self, name: str) -> None:
        """Count one more worker, which is about to start."""
        self._workers[name] = WorkerState()

    def feed_all(self) -> None:
        """Hand tasks to all workers that lack one."""
        for name, worker in self._workers.items():
            self._feed(name, worker)

    def take(self, name: str, reply: Reply, seconds: float) -> None:
        """Take what a worker says, and hand it the next task.

        Args:
            name: of the worker.
            reply: what it says.
            seconds: that its last task took.

        Raises:
            AutolrError: it cannot work, or several trials in a row failed.
        """
        worker = self._workers[name]
        worker.here, self._stillborn = True, 0
        worker.idle = worker.idle + 1 if reply.idle else 0
        if reply.broken is not None:
            raise AutolrError(f"a worker cannot work {reply.broken}; mend that, then go on with the study")
        if reply.trial is not None and worker.tasks.pop(reply.trial, None) is not None:
            worker.quick = seconds < QUICK_SECONDS
            if reply.evaluation is None:
                self.dispatcher.fail(reply.trial, str(reply.reason))
            else:
                self.dispatcher.take(reply.trial, reply.evaluation)
        if worker.idle >= LOST_AFTER:  # what was laid ready for it is lost
            worker.idle = 0
            for task in worker.tasks.values():
                self.put(name, task)
        self._feed(name, worker)

    def remove(self, name: str) -> None:
        """Forget a worker that has ended in good order."""
        self._workers.pop(name)

    def lost(self, name: str) -> None:
        """Hand the tasks of a worker that died to others.

        Raises:
            AutolrError: several workers in a row died as they started, or several trials in a row failed.
        """
        worker = self._workers.pop(name)
        for number in worker.tasks:
            self.dispatcher.lost(number)
        self._stillborn += not worker.here
        if self._stillborn == MOST_STILLBORN:
            raise AutolrError(f"{self._stillborn} workers in a row died as they started; see Ray's logs")

    def _feed(self, name: str, worker: WorkerState) -> None:
        while worker.here and len(worker.tasks) < 1 + worker.quick:
            task = self.dispatcher.next()
            if task is None:
                return
            worker.tasks[task.trial], worker.idle = task, 0
            self.put(name, task)
