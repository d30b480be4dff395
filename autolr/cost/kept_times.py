"""Times that were measured before: a study's own, and this machine's, which its studies share.

A study keeps to the times it began with, since its candidates were chosen by them. A new one takes those that another
study has measured on the same machine under the same conditions, after a look at the clock.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from autolr.checkpoint.runtime import rewrites
from autolr.cost.choose_rewrites import reapply
from autolr.cost.latency_model import LatencyTable
from autolr.cost.measure_latency import random_candidates, time_candidates
from autolr.forms.base import Form
from autolr.machine.atomic import read_json, write_atomically
from autolr.machine.private_folder import cache_folder
from autolr.progress import Progress
from autolr.results.bench import Timing
from autolr.types import Conditions, Unit

TIMES_VERSION = 2
"""Raised whenever times are measured or stored in another way."""
LEAST_ERROR = 0.05
"""The share by which times may be off in any case: what the same model differs by from one minute to the next."""
_SECONDS = 4.0
_PRECISION = 0.02
_FOLDER = "latency"
_FIELDS = frozenset({"key", "rewrites", "tuned", "table"})


def store_times(file: Path, key: str, names: Sequence[str], table: LatencyTable, tuned: bool) -> None:
    """Keep times in a file.

    Args:
        file: where.
        key: of what they were measured under.
        names: of the rewrites that the model had.
        table: the times.
        tuned: whether they are tuned at a study's budget.
    """
    measured = datetime.now(UTC).isoformat(timespec="seconds")
    stored = {"key": key, "measured": measured, "rewrites": list(names), "tuned": tuned, "table": table.to_json()}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(stored, indent=1) + "\n")


def read_times(file: Path | None) -> dict[str, Any]:
    """Return what :func:`store_times` kept; empty if there is nothing, or it is damaged."""
    stored = (None if file is None else read_json(file)) or {}
    return stored if stored.keys() >= _FIELDS else {}


def keep_machine_times(key: str, names: Sequence[str], table: LatencyTable, progress: Progress) -> None:
    """Keep times for other studies on this machine; a note says where that cannot be done."""
    try:
        store_times(_machine_file(key), key, names, table, tuned=False)
    except OSError as error:
        progress.note(f"the times are kept for this study alone: {error}")


def machine_times(
    model: PreTrainedModel,
    units: Sequence[Unit],
    forms: Sequence[Form],
    key: str,
    conditions: Conditions,
    progress: Progress,
) -> LatencyTable | None:
    """Return the times that another study has measured on this machine, where they still hold; rewrite the model.

    They hold where two whole models take what is predicted, within the worst error that was seen when they were
    measured and what the clock scatters by now. Otherwise a note says so, and the model is as it was.

    Args:
        model: the dense model, without rewrites; it is given those that the times were measured with.
        units: its compressible layers.
        forms: what they may become.
        key: of what times are measured under.
        conditions: batch, length, threads.
        progress: told what is under way.
    """
    try:
        stored = read_times(_machine_file(key))
    except OSError:
        return None
    if stored.get("key") != key:
        return None
    table = LatencyTable.from_json(stored["table"], {unit.name: unit for unit in units})
    reapply(model, stored["rewrites"])
    progress.start("compare the times of layers that this machine's studies share with the clock")
    candidates = random_candidates(units, 4, seed=1, forms=forms)[1::2]
    dense, *timed = time_candidates(model, candidates, units, conditions, _PRECISION, _SECONDS, progress)
    progress.update(1.0)
    off = max(_difference(table.share(c), timing) for c, timing in zip(candidates, timed, strict=True))
    allowed = max(LEAST_ERROR, float(table.errors.max()))
    since = stored.get("measured", "an unknown date")
    if off > allowed:
        rewrites.undo(model)
        progress.note(
            f"times that were measured on {since} are measured anew: two models differ from them by up to "
            f"{100 * off:.1f} %, more than {100 * allowed:.1f} %"
        )
        return None
    progress.note(
        f"layers are not timed again: times of {since} hold, two models differ from them by up to {100 * off:.1f} %; "
        f"--remeasure times them all the same"
    )
    return replace(table, dense_ms=1e3 * dense.median)


def _difference(predicted: float, timing: Timing) -> float:
    """Return by what share a prediction is off the nearest time that the clock's scatter allows."""
    nearest = min(max(predicted, timing.ratio_low), timing.ratio_high)
    return abs(predicted / nearest - 1)


def _machine_file(key: str) -> Path:
    folder = cache_folder() / _FOLDER
    folder.mkdir(exist_ok=True)
    return folder / f"{key[:32]}.json"
