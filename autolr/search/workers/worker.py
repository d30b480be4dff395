"""What runs in a worker: an actor that loads the model once and then evaluates one candidate after the other.

To Tune it is a single trial, with a candidate's result in each iteration. One of Tune's trials for each candidate would
be no good where candidates are quick: a worker that still starts is given up as soon as an older one is free.
"""

import os
import socket
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from autolr.errors import AutolrError
from autolr.machine import locks as slots
from autolr.search.workers.dispatcher import Task
from autolr.search.workers.payload import Shipment
from autolr.search.workers.watchdog import Watchdog

SHIFT = "shift"
"""Key of a worker's configuration: the name of its box."""
TRIAL, EVALUATION, REASON, BROKEN, IDLE = "trial", "evaluation", "reason", "broken", "idle"
"""Keys of a result: the trial's number with what was found, or why it failed; why this worker cannot work; that its box
is empty."""
OPEN_SECONDS = 600.0
"""For which a worker that starts may be silent, at least: loading a model has no batches that give signs of life."""
WAIT_SECONDS = 1.0
"""For which a worker looks into its box before it says that it is idle."""


class Worker(tune.Trainable):
    """Evaluates the candidates in its box."""

    def setup(
        self, config: dict[str, Any], shipment: Shipment | None = None, board: Any = None, driver_node: str = ""
    ) -> None:
        """Open the shipment; what goes wrong is reported with the first result."""
        assert shipment is not None
        self._shift, self._board = config[SHIFT], board
        self._broken: str | None = None
        self._wait = 0.0
        self._watchdog = Watchdog(os.getpid(), shipment.spec.crew.timeout)
        self._cores = slots.pin_to_cores(shipment.threads) if not shipment.spec.run.device.startswith("cuda") else None

        def fetch(path: Path) -> bytes:
            there = NodeAffinitySchedulingStrategy(driver_node, soft=False)
            content: bytes = ray.get(_read.options(scheduling_strategy=there).remote(str(path)))
            return content

        opening = Watchdog(os.getpid(), max(shipment.spec.crew.timeout, OPEN_SECONDS))
        opening.tick()
        try:
            self._objective = shipment.open(fetch, opening.tick)
        except (AutolrError, OSError, RuntimeError) as error:
            self._broken = f"{type(error).__name__}: {error}"
        finally:
            opening.close()

    def step(self) -> dict[str, Any]:
        """Evaluate the next task."""
        if self._broken is not None:
            return {BROKEN: f"on {socket.gethostname()}: {self._broken}"}
        task: Task | None = ray.get(self._board.get.remote(self._shift, self._wait))
        self._wait = WAIT_SECONDS  # the first look only says that the worker is there
        if task is None:
            return {IDLE: True}
        found: dict[str, Any] = {TRIAL: task.trial}
        self._watchdog.tick()
        try:
            evaluation = self._objective.evaluate(task.candidate, self._watchdog.tick, task.race, task.halved)
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
