"""What runs in a worker: an actor that loads the model once and evaluates one candidate in each of Tune's trials."""

import os
import socket
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from autolr import slots
from autolr.errors import AutolrError
from autolr.search.crew.dispatch import Task
from autolr.search.crew.shipment import Shipment
from autolr.search.crew.watchdog import Watchdog

TRIAL, EVALUATION, REASON, BROKEN = "trial", "evaluation", "reason", "broken"
"""Keys of a result: the trial's number and one of: what was found; why it failed; why this worker cannot work."""


class Worker(tune.Trainable):
    """Evaluates candidates; reused from one trial to the next."""

    def setup(self, config: dict[str, Any], shipment: Shipment | None = None, driver_node: str = "") -> None:
        """Open the shipment; what goes wrong is reported with the first result."""
        assert shipment is not None
        self._task: Task = config["task"]
        self._broken: str | None = None
        self._watchdog = Watchdog(os.getpid(), shipment.spec.crew.timeout)
        self._cores = slots.pin_to_cores(shipment.threads) if not shipment.spec.run.device.startswith("cuda") else None

        def fetch(path: Path) -> bytes:
            there = NodeAffinitySchedulingStrategy(driver_node, soft=False)
            content: bytes = ray.get(_read.options(scheduling_strategy=there).remote(str(path)))
            return content

        try:
            self._objective = shipment.open(fetch)
        except (AutolrError, OSError, RuntimeError) as error:
            self._broken = f"{type(error).__name__}: {error}"

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up the next task."""
        self._task = new_config["task"]
        return True

    def step(self) -> dict[str, Any]:
        """Evaluate the task."""
        task, found = self._task, {TRIAL: self._task.trial, "done": True}
        if self._broken is not None:
            return found | {BROKEN: f"on {socket.gethostname()}: {self._broken}"}
        self._watchdog.tick()
        try:
            evaluation = self._objective.evaluate(task.candidate, self._watchdog.tick, task.heat, task.halved)
        except (AutolrError, RuntimeError) as error:
            # RuntimeError: what torch raises when a model does not run, out of memory included.
            return found | {REASON: f"{type(error).__name__}: {error}"}
        finally:
            self._watchdog.rest()
        return found | {EVALUATION: evaluation}

    def cleanup(self) -> None:
        """End the watch."""
        self._watchdog.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing: a task is run from its beginning or not at all."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Load nothing."""


@ray.remote(num_cpus=0)
def _read(path: str) -> bytes:
    return Path(path).read_bytes()
