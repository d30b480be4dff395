"""Latency budgets are met on the clock or not at all: the front is timed here, the checkpoint in a new process."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from autolr.bank import Bank
from autolr.clock import Timing
from autolr.config import Budget
from autolr.data.example import EXAMPLE_MODEL
from autolr.errors import AutolrError
from autolr.progress import Progress
from autolr.search.inputs import Inputs
from autolr.search.tuning import time_candidates
from autolr.types import Candidate

MOST_MEMBERS = 8
"""Members of the front that are timed: the best in quality."""
PRECISION = 0.01
_SECONDS = 60.0


def latency_budgets(inputs: Inputs) -> list[Budget]:
    """Return the budgets that are times."""
    return [budget for budget in inputs.spec.parsed_budgets if budget.quantity == "latency"]


def time_members(
    inputs: Inputs, bank: Bank, trials: Sequence[FrozenTrial], progress: Progress
) -> dict[int, dict[str, Any]]:
    """Time the best trials of a front in turn with the dense model.

    Returns:
        Trial number -> the timing in its plain form, with ``within``: whether it meets every latency budget.
    """
    best = sorted(trials, key=lambda trial: trial.values[0], reverse=inputs.spec.search.objective != "divergence")
    chosen = {str(t.number): Candidate.from_json(t.user_attrs["candidate"]) for t in best[:MOST_MEMBERS]}
    progress.start(f"time {len(chosen)} members of the front against the dense model")
    timed = time_candidates(inputs, bank, chosen, PRECISION, _SECONDS, progress)
    return {int(name): describe_timing(inputs, timing) for name, timing in timed.items() if name != "dense"}


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
