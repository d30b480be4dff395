"""How many workers one driver keeps busy: the real queue, sampler and dispatcher, with workers that only sleep.

    python studies/workers/simulate.py SECONDS WORKERS... # 10 8 32 128; writes simulate.json beside this file

Each simulated worker waits for a time drawn around SECONDS (log-normal, 20 %) and returns scores that grow with how
much a candidate cuts off. The study is the embedded example's at 0.5x FLOPs; 8 trials for each worker, journal file.
"""

import heapq
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from autolr.optimization.preparation import build_bank, prepare
from autolr.optimization.study.folder import StudyFolder
from autolr.optimization.study.queue import TrialQueue
from autolr.optimization.workers.dispatcher import Dispatcher, ready_ahead
from autolr.problem import open_inputs
from autolr.progress import Silent
from autolr.spec.study import make_spec
from autolr.types import Evaluation

TRIALS_EACH = 8


def evaluation(inputs, prepared, candidate, seconds, rng) -> Evaluation:
    """Return what an evaluation might have found: noise on the dense model's logits that grows with what is cut."""
    cost = inputs.costs.cost(candidate)
    weight = {u.name: 1 + u.depth for u in inputs.units.units}
    cut = sum(weight[name] / (1 + choice["rank"]) for name, choice in candidate.choices)
    logits = prepared.scorer.dense + 0.2 * cut * torch.from_numpy(rng.standard_normal(prepared.scorer.dense.shape))
    logits = logits.float()
    return Evaluation(candidate, cost, prepared.scorer.compare(logits), {"compress": 0.0, "score": seconds}, logits)


def simulate(workers: int, seconds: float, folder: Path, bank: Path) -> dict[str, float]:
    trials = TRIALS_EACH * workers
    plain = {"budgets": ["0.5x-flops"], "trials": trials, "run": {"threads": 1}, "crew": {"workers": workers}}
    # Ranks in steps of one: so small a model has too few different candidates otherwise.
    spec = make_spec(plain | {"search": {"multiple": 1}}, "simulation")
    study = StudyFolder(folder)
    study.bank = bank
    with study.locked():
        inputs = open_inputs(spec, Silent())
        study.write_spec(spec, inputs.fingerprint)
        prepared = prepare(inputs, build_bank(inputs, bank, Silent()), Silent())
        queue = TrialQueue(inputs, prepared, study, lambda _: prepared.scorer.dense)
        dispatcher = Dispatcher(queue, ready_ahead(workers))
        rng = np.random.default_rng(0)
        dispatcher.start()
        began = time.monotonic()
        due: list[tuple[float, int, object, float]] = []  # when, trial, candidate, seconds
        busy, last, waits = 0.0, began, []
        free = [began] * workers  # since when each free worker waits
        while queue.completed() < trials:
            now = time.monotonic()
            while due and due[0][0] <= now:
                _, trial, candidate, taken = heapq.heappop(due)
                dispatcher.take(trial, evaluation(inputs, prepared, candidate, taken, rng))
                free.append(now)
            while free and (task := dispatcher.next()) is not None:
                taken = seconds * float(rng.lognormal(0.0, 0.2))
                last = time.monotonic()
                waits.append(last - free.pop(0))
                heapq.heappush(due, (last + taken, task.trial, task.candidate, taken))
                busy += taken
            time.sleep(0.005)
        dispatcher.stop()
    # Until the last task is handed out every worker has something to do, if it is given something.
    left = sum(max(0.0, when - last) for when, *_ in due)
    whole = workers * (last - began)
    return {
        "workers": workers,
        "seconds": seconds,
        "trials": trials,
        "proposals at once": queue._batch,
        "busy": 1 - sum(waits) / whole,
        "median wait": float(np.median(waits)),
        "longest wait": max(waits),
        "until the last is handed out": last - began,
        "left": left,
        "busy seconds": busy,
    }


def main(seconds: float, counts: list[int]) -> None:
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for workers in counts:
            rows.append(simulate(workers, seconds, Path(scratch) / str(workers), Path(scratch) / "bank"))
            print(json.dumps(rows[-1]), flush=True)
            Path(__file__).with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main(float(sys.argv[1]), [int(count) for count in sys.argv[2:]])
