"""Latency budgets are met on the clock or not at all: a checkpoint is timed as its user would, in a new process."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from statistics import median

from autolr.data.example import EXAMPLE_MODEL
from autolr.errors import AutolrError
from autolr.problem import LoadedProblem
from autolr.progress import Progress
from autolr.results import LatencyCheck
from autolr.results.bench import Timing
from autolr.spec.budgets import Budget

PRECISION = 0.01
"""Half-width of the ratio's interval that each process stops at, as a share of the ratio."""
PROCESSES = 5
"""At most."""
_CLEAR = 2
"""Processes that are enough where all their intervals are clear of the budgets."""
SECONDS = 5.0
"""That each process times, at most."""


def latency_budgets(inputs: LoadedProblem) -> list[Budget]:
    """Return the budgets that are times."""
    return [budget for budget in inputs.spec.parsed_budgets if budget.quantity == "latency"]


def meets_latency(inputs: LoadedProblem, ratio: float, milliseconds: float) -> bool:
    """Tell whether a time meets every latency budget of the study."""
    return all(
        ratio <= budget.value if budget.relative else milliseconds <= budget.value for budget in latency_budgets(inputs)
    )


def time_checkpoint(
    inputs: LoadedProblem, checkpoint: Path, progress: Progress, processes: int = PROCESSES, seconds: float = SECONDS
) -> LatencyCheck:
    """Time an exported checkpoint against the dense model in new processes, as ``autolr bench`` does.

    One process knows its ratio to a per cent and still differs from the next by several: what else the machine does
    meanwhile slows many small operations more than few large ones. So there are some, and their median counts. No more
    are started once their median is settled: two are enough where their intervals are clear of the budgets and on one
    side of them, and otherwise as many on one side as are more than half.

    Args:
        inputs: the opened inputs.
        checkpoint: its directory.
        progress: told what is under way.
        processes: how many at most.
        seconds: that each takes at most, beside loading.

    Raises:
        AutolrError: a process failed.
    """
    progress.start(f"time {checkpoint} against the dense model in up to {processes} new processes")
    spec, conditions = inputs.spec, inputs.costs.dense.conditions
    dense = spec.model or str(EXAMPLE_MODEL)
    options = {
        "--batch-size": conditions.batch_size,
        "--seq-len": conditions.seq_len,
        "--device": spec.run.device,
        "--dtype": spec.run.dtype,
        "--threads": spec.run.threads,
        "--lengths": ",".join(map(str, conditions.lengths)) or None,
        "--precision": PRECISION,
        "--max-seconds": seconds,
    }
    flags = [text for name, value in options.items() if value is not None for text in (name, str(value))]
    flags += ["--trust-remote-code"] if spec.run.trust_remote_code else []
    flags += ["--offline"] if spec.run.offline else []
    command = [sys.executable, "-m", "autolr", "bench", dense, str(checkpoint), "--json", *flags]
    timed: list[Timing] = []
    while len(timed) < processes and not _decided(inputs, timed, processes):
        progress.check()
        timed.append(_run(command, checkpoint))
        progress.update(len(timed) / processes)
    ratios = [timing.ratio for timing in timed]
    ratio, milliseconds = median(ratios), 1e3 * median(timing.median for timing in timed)
    return LatencyCheck(
        ms=milliseconds,
        ratio=ratio,
        ratio_range=(min(ratios), max(ratios)),
        processes=tuple((timing.ratio, timing.ratio_low, timing.ratio_high) for timing in timed),
        within=meets_latency(inputs, ratio, milliseconds),
    )


def _decided(inputs: LoadedProblem, timed: Sequence[Timing], processes: int) -> bool:
    """Tell whether further processes would leave the median on the same side of the budgets."""
    verdicts = [meets_latency(inputs, timing.ratio, 1e3 * timing.median) for timing in timed]
    if max(verdicts.count(True), verdicts.count(False)) > processes // 2:
        return True
    return len(timed) >= _CLEAR and (all(_ends(inputs, timed)) or not any(_ends(inputs, timed)))


def _ends(inputs: LoadedProblem, timed: Sequence[Timing]) -> list[bool]:
    """Return whether the budgets are met at both ends of each ratio's interval."""
    return [
        meets_latency(inputs, ratio, 1e3 * timing.median * ratio / timing.ratio)
        for timing in timed
        for ratio in (timing.ratio_low, timing.ratio_high)
    ]


def _run(command: Sequence[str], checkpoint: Path) -> Timing:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our own program
    if done.returncode != 0:
        raise AutolrError(f"timing {checkpoint} failed with exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    small = json.loads(done.stdout)["models"][1]
    return Timing(**{field.name: small[field.name] for field in fields(Timing)})
