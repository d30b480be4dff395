"""The search loop with many workers: Ray Tune runs the trials, through a searcher around the study.

Of Tune's own ways to talk to a study none keeps it right: a failed trial must be told as failed, a stopped one never as
complete, and one whose worker died must be run again. Here Tune has the workers, and the queue has the study.

No other file knows Ray, but for the look at a cluster's nodes.
"""

import asyncio
import logging
import os
import socket
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from autolr.errors import UsageError
from autolr.machine import locks
from autolr.machine.temporary import passing_folder
from autolr.optimization.study.driver import Driver, Pace
from autolr.optimization.workers.dispatcher import Dispatcher, Task, ready_ahead
from autolr.optimization.workers.payload import Payload
from autolr.optimization.workers.pool import WorkerPool
from autolr.optimization.workers.worker import Worker

WORKER, REPLY = "worker", "reply"
"""Keys of a worker's configuration, its name, and of what it reports."""
WAIT_SECONDS = 1.0
"""For which a worker waits for a task before it says that it is idle."""
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


class Board:
    """Where a worker finds its next task: a queue for each, filled by the driver ahead of time; an actor of Ray."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Queue[Task]] = defaultdict(asyncio.Queue)

    async def put(self, worker: str, task: Task) -> None:
        """Lay a task ready for a worker."""
        await self._tasks[worker].put(task)

    async def get(self, worker: str, wait: float) -> Task | None:
        """Return a worker's next task; None if none comes within ``wait`` seconds."""
        try:
            return await asyncio.wait_for(self._tasks[worker].get(), wait)
        except TimeoutError:
            return None


def make_board() -> Any:
    """Start the board, without CPUs of its own; when it dies it is started anew, empty."""
    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Board).remote()


class RayWorker(tune.Trainable):
    """A worker as Tune runs it: a single trial, with a candidate's result in each iteration.

    One of Tune's trials for each candidate would be no good where candidates are quick: a worker that still starts is
    given up as soon as an older one is free.
    """

    def setup(
        self, config: dict[str, Any], payload: Payload | None = None, board: Any = None, driver_node: str = ""
    ) -> None:
        """Open the payload; what goes wrong is reported with the first result."""
        assert payload is not None
        self._name, self._board, self._wait = config[WORKER], board, 0.0

        def fetch(path: Path) -> bytes:
            there = NodeAffinitySchedulingStrategy(driver_node, soft=False)
            content: bytes = ray.get(_read.options(scheduling_strategy=there).remote(str(path)))
            return content

        self._worker = Worker(payload, fetch)

    def step(self) -> dict[str, Any]:
        """Evaluate the next task."""
        if self._worker.broken:
            return {REPLY: self._worker.run(None)}
        task: Task | None = ray.get(self._board.get.remote(self._name, self._wait))
        self._wait = WAIT_SECONDS  # the first look only says that the worker is there
        return {REPLY: self._worker.run(task)}

    def cleanup(self) -> None:
        """End the watch."""
        self._worker.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing: a task is run from its beginning or not at all."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Load nothing."""


@ray.remote(num_cpus=0)
def _read(path: str) -> bytes:
    return Path(path).read_bytes()


class StudySearcher(Searcher):
    """Gives Tune the workers, the workers the study's trials, and tells the study what came of them.

    What goes wrong here is kept in ``error`` and ends the run: Tune would only log it.
    """

    def __init__(self, dispatcher: Dispatcher, pace: Pace, board: Any) -> None:
        super().__init__()
        self.pace, self.board = pace, board
        self.pool = WorkerPool(dispatcher, board.put.remote)
        self.error: BaseException | None = None

    def suggest(self, trial_id: str) -> Any:
        """Return the configuration of one more worker; Tune asks for as many as there are to be."""
        if self.over():
            return Searcher.FINISHED
        self.pool.add(trial_id)
        return {WORKER: trial_id}

    def over(self) -> bool:
        """Hand out tasks, and tell whether to end: everything is done, the time is over, or something went wrong."""
        with self._errors_held():
            if self.error is None and not self.pace.finished():
                self.pool.feed_all()
                return False
        return True

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Take what a worker found and hand it the next task."""
        if self.error is None:
            with self._errors_held():
                self.pool.take(trial_id, result[REPLY], result["time_this_iter_s"])

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Hand the tasks of a worker that died to others."""
        if not error or self.error is not None:
            self.pool.remove(trial_id)
            return
        with self._errors_held():
            self.pool.lost(trial_id)

    @contextmanager
    def _errors_held(self) -> Iterator[None]:
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
        settings = self.inputs.spec.crew
        pace = Pace(self.queue, self.progress)
        if pace.finished():
            return
        with cluster(settings.ray_address, settings.workers, self.threads, self.gpus):
            self.dispatcher = Dispatcher(self.queue, ready_ahead(settings.workers))
            self.dispatcher.start()
            try:
                self._tune(StudySearcher(self.dispatcher, pace, make_board()))
            finally:
                self.dispatcher.stop()

    @property
    def threads(self) -> int:
        """CPU threads of a worker: as told, else an equal share of this machine's."""
        settings, told = self.inputs.spec.crew, self.inputs.spec.run.threads
        return told or (1 if settings.ray_address else max(1, (os.cpu_count() or 1) // settings.workers))

    @property
    def gpus(self) -> float:
        """GPUs of a worker, as told, else one where the models run on a GPU."""
        told = self.inputs.spec.crew.gpus_per_worker
        return told if told is not None else float(self.inputs.spec.run.device.startswith("cuda"))

    def _tune(self, searcher: StudySearcher) -> None:
        workers = self.inputs.spec.crew.workers
        payload = Payload.of(self.inputs, self.prepared, self.threads)
        node = ray.get_runtime_context().get_node_id()
        trainable = tune.with_parameters(RayWorker, payload=payload, board=searcher.board, driver_node=node)
        resources = {"cpu": self.threads} | ({"gpu": self.gpus} if self.gpus else {})
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(workers)  # all workers start at once
        with passing_folder(locks.own_folder(), "tune-") as folder:
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
