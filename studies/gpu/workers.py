"""Part 3: four workers on one GPU beside one, in trials a minute.

A worker is a process that opens the study's payload as Ray's workers do, and evaluates candidates one after another for
as long as all others do: what the GPU and the processor give, without the driver's proposals and without Ray.
"""

import multiprocessing as mp
import time
from typing import Any

import numpy as np
import torch
from common import Part, Phases, study_spec

from autolr.bank import Bank
from autolr.forms.low_rank import low_rank
from autolr.optimization.preparation import build_bank, prepare
from autolr.optimization.workers.payload import Payload
from autolr.problem import open_inputs
from autolr.types import Candidate

COUNTS = (1, 4)
OPENING = 60.0
"""Seconds that a worker may take to start."""


def candidates(bank: Bank, count: int = 16) -> list[Candidate]:
    """Return candidates that compress every layer, to random ranks."""
    rng = np.random.default_rng(0)
    units = [unit for unit in bank.units if not unit.matrices]
    return [
        Candidate.of({u.name: low_rank("kfac", int(rng.integers(1, u.break_even))) for u in units})
        for _ in range(count)
    ]


def work(payload: Payload, given: list[Candidate], seconds: float, start: Any, done: Any) -> None:
    """Open the payload, wait for the others, evaluate; send (trials, seconds, peak bytes)."""
    objective = payload.open(lambda path: path.read_bytes())
    objective.evaluate(given[0], lambda: None)
    start.wait(OPENING)
    began, trials = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        objective.evaluate(given[trials % len(given)], lambda: None)
        trials += 1
    peak = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
    done.put((trials, time.monotonic() - began, peak))


def rate(payload: Payload, given: list[Candidate], count: int, seconds: float) -> dict[str, float]:
    """Return what so many workers do together."""
    context = mp.get_context("spawn")
    start, done = context.Barrier(count + 1), context.Queue()
    processes = [context.Process(target=work, args=(payload, given, seconds, start, done)) for _ in range(count)]
    began = time.monotonic()
    for process in processes:
        process.start()
    try:
        start.wait(OPENING)
        opened = time.monotonic() - began
        told = [done.get(timeout=seconds + OPENING) for _ in processes]
    finally:
        for process in processes:
            process.join(5.0)
            if process.is_alive():
                process.kill()
    return {
        "workers": count,
        "trials_a_minute": round(60 * sum(trials / taken for trials, taken, _ in told), 1),
        "trials": sum(trials for trials, _, _ in told),
        "seconds_to_open": round(opened, 1),
        "peak_bytes_each": max(peak for *_, peak in told),
    }


def main() -> None:
    part = Part.told()
    progress = Phases(part)
    counts = (1, 2) if part.rehearse else COUNTS
    crew = {"workers": max(counts), "gpus_per_worker": 1 / max(counts)}
    search = {"space": "per-layer", "multiple": 2 if part.rehearse else 8}  # nothing is proposed: the quickest space
    spec = study_spec(part, part.device, crew=crew, search=search)
    inputs = open_inputs(spec, progress)
    bank = build_bank(inputs, part.scratch / "search" / "bank", progress)
    payload = Payload.of(inputs, prepare(inputs, bank, progress), threads=1)
    given, rows = candidates(bank), []
    each = 3.0 if part.rehearse else max(5.0, min(15.0, part.left() / len(counts) - 15.0))
    for count in counts:
        progress.start(f"{count} workers")
        rows.append(rate(payload, given, count, each))
        part.write(rows=rows)
    progress.end()
    part.write(rows=rows, ratio=round(rows[-1]["trials_a_minute"] / rows[0]["trials_a_minute"], 3))


if __name__ == "__main__":
    main()
