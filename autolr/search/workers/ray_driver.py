"""The search loop with many workers: Ray Tune runs the trials, through a searcher around the study.

Of Tune's own ways to talk to a study none keeps it right: a failed trial must be told as failed, a stopped one never as
complete, and one whose worker died must be run again. Here Tune has the workers, and the queue has the study.
"""

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from autolr.errors import AutolrError, UsageError
from autolr.machine import locks as slots
from autolr.machine.temporary import passing_folder
from autolr.search.study.driver import Driver, Pace
from autolr.search.workers.board import make_board
from autolr.search.workers.dispatcher import Dispatcher, Task
from autolr.search.workers.payload import Shipment
from autolr.search.workers.worker import BROKEN, EVALUATION, IDLE, REASON, SHIFT, TRIAL, Worker

_QUICK_SECONDS = 2.0
"""A worker whose last task took less has the next one waiting: handing it out takes a twentieth of a second."""
MOST_STILLBORN = 6
"""Workers in a row that may die before they have reported once."""
_LOST_AFTER = 3
"""Times in a row that a worker finds its box empty before what it was handed is handed to it again."""
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}
"""What is durable is in the study, so Tune need not write files of its own; and the terminal is autolr's."""


@dataclass
class Shift:
    """One worker, from its start to its end.

    Attributes:
        tasks: what it was handed and has not answered, by the trials' numbers.
        here: whether it has reported; one that still starts is handed nothing.
        quick: whether its last task was so short that a second one should wait in its box.
        idle: how often in a row it found its box empty.
    """

    tasks: dict[int, Task] = field(default_factory=dict)
    here: bool = False
    quick: bool = False
    idle: int = 0


class StudySearcher(Searcher):
    """Gives Tune the workers, the workers the study's trials, and tells the study what came of them.

    What goes wrong here is kept in ``error`` and ends the run: Tune would only log it.
    """

    def __init__(self, dispatcher: Dispatcher, pace: Pace, board: Any) -> None:
        super().__init__()
        self.dispatcher, self.pace, self.board = dispatcher, pace, board
        self.error: BaseException | None = None
        self._shifts: dict[str, Shift] = {}
        self._stillborn = 0

    def suggest(self, trial_id: str) -> Any:
        """Return the configuration of one more worker; Tune asks for as many as there are to be."""
        if self.over():
            return Searcher.FINISHED
        self._shifts[trial_id] = Shift()
        return {SHIFT: trial_id}

    def over(self) -> bool:
        """Hand out tasks, and tell whether to end: everything is done, the time is over, or something went wrong."""
        with self._kept_errors():
            if self.error is None and not self.pace.finished():
                for name, shift in self._shifts.items():
                    self._feed(name, shift)
                return False
        return True

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Take what a worker found and hand it the next task."""
        shift = self._shifts[trial_id]
        shift.here, self._stillborn = True, 0
        shift.idle = shift.idle + 1 if IDLE in result else 0
        with self._kept_errors():
            if self.error is not None:
                return
            if BROKEN in result:
                raise AutolrError(f"a worker cannot work {result[BROKEN]}; mend that, then go on with the study")
            if TRIAL in result and shift.tasks.pop(result[TRIAL], None) is not None:
                shift.quick = result["time_this_iter_s"] < _QUICK_SECONDS
                if REASON in result:
                    self.dispatcher.fail(result[TRIAL], result[REASON])
                else:
                    self.dispatcher.take(result[TRIAL], result[EVALUATION])
            if shift.idle >= _LOST_AFTER:  # the board was started anew
                shift.idle = 0
                for task in shift.tasks.values():
                    self.board.put.remote(trial_id, task)
            self._feed(trial_id, shift)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Hand the tasks of a worker that is gone to others."""
        shift = self._shifts.pop(trial_id)
        with self._kept_errors():
            if error and self.error is None:
                for number in shift.tasks:
                    self.dispatcher.lost(number)
                self._stillborn += not shift.here
                if self._stillborn == MOST_STILLBORN:
                    raise AutolrError(f"{self._stillborn} workers in a row died as they started; see Ray's logs")

    def _feed(self, name: str, shift: Shift) -> None:
        while shift.here and len(shift.tasks) < 1 + shift.quick:
            task = self.dispatcher.next()
            if task is None:
                return
            shift.tasks[task.trial], shift.idle = task, 0
            self.board.put.remote(name, task)

    @contextmanager
    def _kept_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001  whatever it is, it is raised when Tune has ended
            self.error = error

    def __getstate__(self) -> dict[str, Any]:
        """Give Tune nothing to write down."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study is on disk."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class _Stopper(tune.Stopper):
    """Asks the searcher, at each of Tune's steps, whether to end."""

    def __init__(self, searcher: StudySearcher) -> None:
        self._searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """Tell whether to end."""
        return self._searcher.over()


@dataclass
class RayDriver(Driver):
    """Runs a study's trials in workers; everything else as :class:`Driver` does."""

    dispatcher: Dispatcher = field(init=False)

    def run(self) -> None:
        """Run trials until as many as the specification asks for are complete.

        Raises:
            Stopped: the time limit passed or the user interrupted.
            AutolrError: several trials in a row failed, or a worker cannot work.
        """
        crew = self.inputs.spec.crew
        pace = Pace(self.queue, self.progress)
        if pace.finished():
            return
        with cluster(crew.ray_address, crew.workers, self.threads, self.gpus):
            self.dispatcher = Dispatcher(self.queue, ready_ahead(crew.workers))
            self.dispatcher.start()
            try:
                self._tune(StudySearcher(self.dispatcher, pace, make_board()))
            finally:
                self.dispatcher.stop()

    @property
    def threads(self) -> int:
        """CPU threads of a worker: as told, else an equal share of this machine's."""
        crew, told = self.inputs.spec.crew, self.inputs.spec.run.threads
        return told or (1 if crew.ray_address else max(1, (os.cpu_count() or 1) // crew.workers))

    @property
    def gpus(self) -> float:
        """GPUs of a worker, as told, else one where the models run on a GPU."""
        told = self.inputs.spec.crew.gpus_per_worker
        return told if told is not None else float(self.inputs.spec.run.device.startswith("cuda"))

    def _tune(self, searcher: StudySearcher) -> None:
        workers = self.inputs.spec.crew.workers
        shipment = Shipment.of(self.inputs, self.prepared, self.threads)
        node = ray.get_runtime_context().get_node_id()
        trainable = tune.with_parameters(Worker, shipment=shipment, board=searcher.board, driver_node=node)
        resources = {"cpu": self.threads} | ({"gpu": self.gpus} if self.gpus else {})
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(workers)  # all workers start at once
        with passing_folder(slots.own_folder(), "tune-") as folder:
            controller = tune.Tuner(
                tune.with_resources(trainable, resources),
                tune_config=tune.TuneConfig(search_alg=searcher, num_samples=-1, max_concurrent_trials=workers),
                run_config=tune.RunConfig(
                    storage_path=str(folder),
                    verbose=0,
                    stop=_Stopper(searcher),
                    failure_config=tune.FailureConfig(max_failures=0),
                ),
            )
            controller.fit()
        if searcher.error is not None:
            raise searcher.error


def _check_reachable(address: str) -> None:
    """Refuse an address that nobody answers at, which Ray itself would try for minutes.

    Raises:
        UsageError: with the address.
    """
    if address.startswith("ray://"):
        raise UsageError(
            f"--ray-address {address!r} is Ray Client's, which Tune does not work through; run autolr on the cluster's "
            "head with --ray-address auto, or submit it there: ray job submit -- autolr search ..."
        )
    host, _, port = address.rpartition(":")
    if address == "auto" or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise UsageError(f"no Ray cluster at {address!r}: {error}") from error


def ready_ahead(workers: int) -> int:
    """Return how many candidates to have ready: enough that no worker waits, few enough that most results count.

    Example:
        >>> [ready_ahead(workers) for workers in (2, 8, 128)]
        [2, 2, 42]
    """
    return max(2, workers // 3)


@contextmanager
def cluster(address: str | None, workers: int, threads: int, gpus: float) -> Iterator[None]:
    """Be connected to a Ray cluster while a block runs: a given one, or one of this machine that ends with it.

    Raises:
        UsageError: there is no cluster at the address, or it has no room for a single worker.
    """
    os.environ.update({name: value for name, value in _QUIET.items() if name not in os.environ})
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if address in (None, "local"):
        ray.init(
            address="local", num_cpus=max(os.cpu_count() or 1, workers * threads), include_dashboard=False, **quiet
        )
    else:
        _check_reachable(address)
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(f"no Ray cluster at {address!r}: {str(error).splitlines()[0]}") from error
    try:
        there = ray.cluster_resources()  # type: ignore[no-untyped-call]
        if there.get("CPU", 0) < threads or there.get("GPU", 0) < min(gpus, 1.0):
            raise UsageError(
                f"a worker needs {threads} CPUs and {gpus:g} GPUs, the cluster has {there.get('CPU', 0):g} and "
                f"{there.get('GPU', 0):g}; see --threads and --gpus-per-worker"
            )
        yield
    finally:
        ray.shutdown()
