"""What a study's model costs, and whether its budgets can be reached.

Where a budget is a time, the model is first rewritten exactly (see :mod:`autolr.checkpoint.runtime.rewrites`), and the
times that latency is predicted from are measured once: they are kept beside the study, and for others on this machine.
"""

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from autolr.checkpoint.runtime.rewrites import REWRITES, applied
from autolr.cost import CostTable, measure_costs
from autolr.cost.choose_rewrites import reapply, rewrite
from autolr.cost.kept_times import TIMES_VERSION, keep_machine_times, machine_times, read_times, store_times
from autolr.cost.latency_model import LatencyTable
from autolr.cost.measure_latency import measure_latency
from autolr.errors import BudgetError, UsageError
from autolr.forms.base import Form
from autolr.forms.embedding import embedding
from autolr.forms.low_rank import low_rank
from autolr.progress import Progress
from autolr.spec.budgets import Budget, check_priced
from autolr.spec.study import StudySpec
from autolr.types import Unit

LATENCY_MARGIN = 0.04
"""Share of a latency budget that candidates leave free: what a measurement of the same checkpoint differs from the next
by on a shared machine. Without it half of them would be over when they are measured again."""


def price(
    model: PreTrainedModel,
    units: Sequence[Unit],
    forms: Sequence[Form],
    spec: StudySpec,
    seq_len: int,
    latency_file: Path | None,
    progress: Progress,
) -> CostTable:
    """Return what candidates cost; where a budget is a time, rewrite the model in place and measure times first.

    Args:
        model: the dense model.
        units: its compressible layers.
        forms: what they may become.
        spec: budgets and conditions.
        seq_len: tokens that costs are stated for.
        latency_file: where times are kept; None: they are not.
        progress: told what is under way.

    Raises:
        UsageError: a length cannot be used.
    """
    run = spec.run
    if run.lengths and max(run.lengths) > seq_len:
        raise UsageError(f"lengths {list(run.lengths)} go beyond --seq-len {seq_len}; raise it or shorten them")
    shape = (run.batch_size, seq_len, run.threads, run.lengths)
    costs = measure_costs(model, units, *shape)
    if all(budget.quantity != "latency" for budget in spec.parsed_budgets):
        return costs
    key = _key(model, units, costs, forms)
    stored = read_times(latency_file)
    if stored.get("key") == key:
        reapply(model, stored["rewrites"])
        return measure_costs(model, units, *shape).with_latency(LatencyTable.from_json(stored["table"], costs.units))
    conditions = costs.dense.conditions
    table = None if run.remeasure else machine_times(model, units, forms, key, conditions, progress)
    if table is None:
        rewrite(model, units, conditions, progress)
        costs = measure_costs(model, units, *shape)
        table = measure_latency(model, units, forms, costs.rows, conditions, progress)
        progress.note(_precision_of(table))
        keep_machine_times(key, applied(model), table, progress)
    if latency_file is not None:
        store_times(latency_file, key, applied(model), table, tuned=False)
    return measure_costs(model, units, *shape).with_latency(table)


def _precision_of(table: LatencyTable) -> str:
    return (
        f"a dense pass takes {table.dense_ms:.2f} ms; the latency of {len(table.checks)} whole models was "
        f"predicted, each from the others, within {100 * float(np.median(table.errors)):.1f} % (median; worst "
        f"{100 * float(table.errors.max()):.1f} %)"
    )


def _key(model: PreTrainedModel, units: Sequence[Unit], costs: CostTable, forms: Sequence[Form]) -> str:
    """Return a digest of all that times are measured under."""
    described: list[Any] = [
        asdict(costs.dense.conditions),
        sorted(costs.rows.items()),
        [asdict(u) for u in units],
        REWRITES,
        [[form.name, form.version] for form in forms],
        TIMES_VERSION,
    ]
    versions = [version(name) for name in ("torch", "transformers")]
    target = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else _processor()
    described += [versions, target, torch.get_num_threads(), type(model).__name__]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def _processor() -> str:
    """Return the processor's name; on Linux the platform module knows the architecture at most."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line for line in lines if line.startswith("model name")), platform.processor())


def budget_limits(budgets: tuple[Budget, ...], costs: CostTable) -> dict[str, float]:
    """Return quantity -> largest amount a candidate is given; of a time a little less than is allowed."""
    limits: dict[str, float] = {}
    for budget in budgets:
        check_priced(budget, costs.dense)
        limit = budget.limit(costs.dense) * (1 - LATENCY_MARGIN if budget.quantity == "latency" else 1)
        limits[budget.quantity] = min(limit, limits.get(budget.quantity, float("inf")))
    return limits


def lowest_costs(costs: CostTable) -> dict[str, int | float]:
    """Return quantity -> what remains when every unit is at rank 0."""
    smallest = {"matrix": low_rank("", 0), "embedding": embedding("", 0, 0)}
    candidate = [costs.saving(name, smallest[unit.of]) for name, unit in costs.units.items() if unit.of in smallest]
    return {q: costs.base.get(q) - sum(saving[q] for saving in candidate) for q in candidate[0]}


def check_reachable(budgets: tuple[Budget, ...], costs: CostTable) -> None:
    """Raise if a budget is below what remains when every unit is at rank 0.

    Raises:
        BudgetError: with the floor and the nearest budget that can be reached.
    """
    lowest, limits = lowest_costs(costs), budget_limits(budgets, costs)
    for budget in budgets:
        floor, dense = lowest[budget.quantity], costs.dense.get(budget.quantity)
        if floor > limits[budget.quantity]:
            share = floor / dense / (1 - LATENCY_MARGIN if budget.quantity == "latency" else 1)
            nearest = -(-share * 1000 // 1) / 1000
            raise BudgetError(
                f"budget {budget.text} is not reachable: with all {len(costs.units)} compressible layers at "
                f"rank 0 the model still {_has(budget.quantity, floor)}, {floor / dense:.3f}x of dense; "
                f"the nearest reachable budget is {nearest:.3f}x-{budget.quantity}{_why(budget.quantity)}"
            )


def _has(quantity: str, amount: float) -> str:
    """Return what a model has of a quantity, with its unit."""
    if quantity == "latency":
        return f"takes {amount:.4g} ms"
    return f"has {amount:.4g} {'bytes of ' if quantity == 'memory' else ''}{quantity}"


def _why(quantity: str) -> str:
    margin = f", since {LATENCY_MARGIN:.0%} of a budget in time is left free for the clock's scatter"
    return margin if quantity == "latency" else ""
