"""What budgets can reach and what a search would take, from a few seconds of measurement."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from autolr.allocation.modes import allocate_modes
from autolr.bank import Bank
from autolr.cost.price import lowest_costs
from autolr.errors import BudgetError
from autolr.model.inputs import Batch
from autolr.optimization.curve_scales import SCALE_EXAMPLES, stored_menus
from autolr.optimization.study.folder import StudyFolder
from autolr.problem import LoadedProblem, open_inputs
from autolr.progress import Progress
from autolr.results.estimate import BudgetEstimate, Estimate, LatencyEstimate
from autolr.results.member import FINALISTS
from autolr.spec.study import StudySpec
from autolr.statistics.calibrate import pass_count
from autolr.statistics.stream import workspace_bytes
from autolr.tasks.forward import run_batches
from autolr.types import Unit
from autolr.workflows.finalists import recovery_of

_STATS_BYTES = 8


def estimate_study(spec: StudySpec, folder_path: Path, progress: Progress) -> Estimate:
    """Return, for each budget, what is reachable, and the search's time and disk; quality too where a bank exists.

    Args:
        spec: what would be searched.
        folder_path: of the study; where its bank is complete, predicted divergences are given.
        progress: told what is under way.

    Raises:
        UsageError: something given cannot be used.
    """
    folder = StudyFolder(folder_path)
    asked = [budget.quantity for budget in spec.parsed_budgets]
    loose = tuple(dict.fromkeys(f"1x-{quantity}" for quantity in ("flops", *asked)))  # none is refused on opening
    known = folder.latency_file if folder.latency_file.is_file() else None
    inputs = open_inputs(spec.model_copy(update={"budgets": loose}), progress, known)
    progress.start("time the dense model on a few batches")
    seconds = _times(inputs)
    predicted = _predicted(spec, inputs, folder)
    lowest = lowest_costs(inputs.costs)
    rows = []
    for budget in spec.parsed_budgets:
        quantity, limit = budget.quantity, budget.limit(inputs.costs.dense)
        dense = inputs.costs.dense.get(quantity)
        rows.append(BudgetEstimate(budget.text, quantity, dense, limit, lowest[quantity], predicted.get(budget.text)))
    return Estimate(
        model=spec.model or "embedded example",
        layers=len(inputs.units.units),
        left_dense=dict(inputs.units.excluded),
        budgets=tuple(rows),
        seconds={name: round(value, 1) for name, value in seconds.items()},
        disk_bytes=_disk(inputs),
        passing_bytes=_passing(inputs),
        latency=_clock(inputs),
    )


def _clock(inputs: LoadedProblem) -> LatencyEstimate | None:
    """Return how well latency is predicted, where a budget asks for it."""
    table = inputs.costs.latency
    if table is None:
        return None
    median, worst = float(np.median(table.errors)), float(table.errors.max())
    return LatencyEstimate(table.dense_ms, median, worst, inputs.costs.dense.conditions)


def _times(inputs: LoadedProblem) -> dict[str, float]:
    """Return the predicted seconds of each stage, from a timed batch and a timed decomposition."""
    batches = inputs.batches("search")
    chosen = [batches[len(batches) // 2]]
    _pass(inputs.model, chosen)  # warm-up
    started = time.perf_counter()
    _pass(inputs.model, chosen)
    per_example = (time.perf_counter() - started) * len(batches) / len(inputs.parts.search)
    parts, spec = inputs.parts, inputs.spec
    gradients = any("gradients" in m.needs for m in inputs.bank_methods)
    # Heuristic: a backward pass for each class but one costs two forward passes, the Grams about one each.
    per_pass = 2 + 3 * inputs.task.backward_passes * gradients
    units = inputs.units.units
    passes = 1 if spec.run.stream else pass_count(units, gradients=gradients)
    calibrated = len(parts.calibration) * per_pass * passes
    scored = min(SCALE_EXAMPLES, len(parts.calibration)) * len(units) * len(inputs.methods)
    probed = {part: sum(len(t.train) + len(t.test) for t in tasks) for part, tasks in inputs.probes.items()}
    # Heuristic: a member's refit takes some four passes, the dense and the compressed model's and their products.
    recovery, examples = recovery_of(spec), len(parts.calibration)
    refits = 0 if recovery is None else 4 * FINALISTS * min(recovery.examples or examples, examples)
    seconds = {
        "calibrate": calibrated * per_example,
        "decompose": _decompose_seconds(inputs.units.units) * len(inputs.methods),
        "scale curves": scored * per_example,
        "search": spec.trials * (len(parts.search) + probed.get("search", 0)) * per_example,
        "refit": refits * per_example,
        "select and report": (
            10 * (len(parts.selection) + probed.get("selection", 0)) + 2 * (len(parts.report) + probed.get("report", 0))
        )
        * per_example,
    }
    return {**seconds, "total": sum(seconds.values())}


def _pass(model: nn.Module, batches: Sequence[Batch]) -> None:
    """Run the model and keep one number of each row."""
    run_batches(model, batches, lambda logits, _, start: logits.flatten(1)[:, :1])


def _decompose_seconds(units: Sequence[Unit]) -> float:
    """Time one decomposition of the median layer and scale it by the layers' arithmetic."""

    def work(unit: Unit) -> float:
        return float(unit.out_features * unit.in_features * min(unit.out_features, unit.in_features))

    middle = sorted(units, key=work)[len(units) // 2]
    matrix = torch.randn(middle.out_features, middle.in_features, dtype=torch.float64)
    started = time.perf_counter()
    torch.linalg.svd(matrix, full_matrices=False)
    return (time.perf_counter() - started) * sum(work(unit) for unit in units) / work(middle)


def _disk(inputs: LoadedProblem) -> int:
    """Return the bytes of the bank and of one checkpoint."""
    units = inputs.units.units
    factors = sum(4 * u.break_even * (u.in_features + u.out_features) for u in units) * len(inputs.methods)
    gradients = any("gradients" in m.needs for m in inputs.bank_methods)
    stats = sum(_STATS_BYTES * (u.in_features**2 + (u.out_features**2 if gradients else 0)) for u in units)
    return factors + stats + inputs.costs.dense.memory


def _passing(inputs: LoadedProblem) -> int:
    """Return the bytes on disk while a model is calibrated block by block; none otherwise."""
    width = getattr(inputs.model.config.get_text_config(), "hidden_size", None)
    if not inputs.spec.run.stream or width is None:
        return 0
    blocks = max(unit.block for unit in inputs.units.units) + 1
    return workspace_bytes(inputs.batches("calibration"), width, blocks + 1, 1)


def _predicted(spec: StudySpec, inputs: LoadedProblem, folder: StudyFolder) -> dict[str, float]:
    """Return budget -> the knapsack's predicted divergence, if the study's bank is complete and of these inputs."""
    bank = Bank(folder.bank, inputs.model, inputs.units.all, inputs.calibration_key)
    menus = stored_menus(inputs, bank) if bank.complete(inputs.bank_methods) else None
    if menus is None:
        return {}
    found = {}
    for budget in spec.parsed_budgets:
        change = budget.limit(inputs.costs.dense) - inputs.costs.base.get(budget.quantity)
        try:
            found[budget.text] = allocate_modes(menus, inputs.costs.units, {budget.quantity: change}).loss
        except BudgetError:
            continue
    return found
