"""The search loop with many workers: Ray Tune runs the trials, through a searcher around the study.

Of Tune's own ways to talk to a study none keeps it right: a failed trial must be told as failed, a stopped one never as
complete, and one whose worker died must be run again. Here Tune has the workers, and the ledger has the study.
"""

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from autolr.errors import AutolrError, UsageError
from autolr.search.crew.dispatch import Dispatcher
from autolr.search.crew.shipment import Shipment
from autolr.search.crew.trainable import BROKEN, EVALUATION, REASON, TRIAL, Worker
from autolr.search.driver import Driver, Pace

_WAIT_SECONDS = 1.0
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


class StudySearcher(Searcher):
    """Gives Tune the study's trials, one by one, and tells the study what came of them.

    What goes wrong here is kept in ``error`` and ends the run: Tune would only log it.
    """

    def __init__(self, dispatcher: Dispatcher, pace: Pace) -> None:
        super().__init__()
        self.dispatcher, self.pace = dispatcher, pace
        self.error: BaseException | None = None
        self._tasks: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        """Return a task; None while there is none; FINISHED when the study is."""
        try:
            if self.pace.finished():
                return Searcher.FINISHED
            task = self.dispatcher.next(_WAIT_SECONDS if self.dispatcher.idle else 0.0)
        except (AutolrError, OSError, RuntimeError, ValueError) as error:
            self.error = error
            return Searcher.FINISHED
        if task is None:
            return None
        self._tasks[trial_id] = task.trial
        return {"task": task}

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study what came of a trial."""
        number = self._tasks.pop(trial_id)
        if self.error is not None:
            return
        try:
            if error or result is None or TRIAL not in result:
                self.dispatcher.lost(number)
            elif BROKEN in result:
                raise AutolrError(f"a worker cannot work {result[BROKEN]}; mend that, then go on with the study")
            elif REASON in result:
                self.dispatcher.fail(number, result[REASON])
            else:
                self.dispatcher.take(number, result[EVALUATION])
        except (AutolrError, OSError, RuntimeError, ValueError) as failure:
            self.error = failure

    def __getstate__(self) -> dict[str, Any]:
        """Give Tune nothing to write down."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study is on disk."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class _Stopper(tune.Stopper):
    """Ends the run when something went wrong, the time is over, or the user says so."""

    def __init__(self, searcher: StudySearcher) -> None:
        self._searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """Tell whether to end."""
        if self._searcher.error is None:
            try:
                self._searcher.pace.check()
            except AutolrError as error:
                self._searcher.error = error
        return self._searcher.error is not None


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
        pace = Pace(self.ledger, self.progress)
        if pace.finished():
            return
        with cluster(crew.ray_address, crew.workers, self.threads, self.gpus):
            self.dispatcher = Dispatcher(self.ledger, ready_ahead(crew.workers))
            self.dispatcher.start()
            try:
                self._tune(StudySearcher(self.dispatcher, pace))
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
        trainable = tune.with_parameters(Worker, shipment=shipment, driver_node=ray.get_runtime_context().get_node_id())
        resources = {"cpu": self.threads} | ({"gpu": self.gpus} if self.gpus else {})
        # As many trials may wait for a worker as there are workers. With Tune's own limit of one the trial that waits
        # for the second worker to start is given to the first one instead, and the second never starts.
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(workers)
        scratch = Path(tempfile.mkdtemp(prefix="autolr-tune-"))
        try:
            controller = tune.Tuner(
                tune.with_resources(trainable, resources),
                tune_config=tune.TuneConfig(
                    search_alg=searcher, num_samples=-1, max_concurrent_trials=workers, reuse_actors=True
                ),
                run_config=tune.RunConfig(
                    storage_path=str(scratch),
                    verbose=0,
                    stop=_Stopper(searcher),
                    failure_config=tune.FailureConfig(max_failures=0),
                ),
            )
            controller.fit()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
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
