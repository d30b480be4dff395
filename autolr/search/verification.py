"""Latency budgets are met on the clock or not at all: a checkpoint is timed as its user would, in a new process."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autolr.clock import Timing
from autolr.config import Budget
from autolr.data.example import EXAMPLE_MODEL
from autolr.errors import AutolrError
from autolr.progress import Progress
from autolr.search.inputs import Inputs

PRECISION = 0.01
SECONDS = 45.0


def latency_budgets(inputs: Inputs) -> list[Budget]:
    """Return the budgets that are times."""
    return [budget for budget in inputs.spec.parsed_budgets if budget.quantity == "latency"]


def describe_timing(inputs: Inputs, timing: Timing) -> dict[str, Any]:
    """Return a timing in its plain form, with whether it meets every latency budget of the study."""
    milliseconds = 1e3 * timing.median
    within = all(
        timing.ratio <= budget.value if budget.relative else milliseconds <= budget.value
        for budget in latency_budgets(inputs)
    )
    return {
        "ms": milliseconds,
        "ms_quartiles": [1e3 * timing.low, 1e3 * timing.high],
        "ratio": timing.ratio,
        "ratio_interval": [timing.ratio_low, timing.ratio_high],
        "rounds": timing.rounds,
        "settled": timing.settled,
        "within": within,
    }


def time_checkpoint(inputs: Inputs, checkpoint: Path, progress: Progress) -> dict[str, Any]:
    """Time an exported checkpoint against the dense model in a new process, as ``autolr bench`` does.

    Raises:
        AutolrError: the process failed.
    """
    progress.start(f"time {checkpoint} against the dense model in a new process")
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
        "--max-seconds": SECONDS,
    }
    flags = [text for name, value in options.items() if value is not None for text in (name, str(value))]
    flags += ["--trust-remote-code"] if spec.run.trust_remote_code else []
    flags += ["--offline"] if spec.run.offline else []
    program = "from autolr.cli import app; app()"
    command = [sys.executable, "-c", program, "bench", dense, str(checkpoint), "--json", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our own program
    if done.returncode != 0:
        raise AutolrError(f"timing {checkpoint} failed with exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    small = json.loads(done.stdout)["models"][1]
    timing = Timing(**{name: small[name] for name in asdict(_EMPTY)})
    return describe_timing(inputs, timing)


_EMPTY = Timing(0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0, settled=False)
