"""Brings predicted latency to the clock where it matters: at the budget.

The table is right on average over models of all sizes. The candidates of a search are all alike, of one size and with
the ranks that the knapsack chooses, and what the table gets wrong of one it gets wrong of all. So the knapsack's own
solution is timed, and the predictions are multiplied by what was found.
"""

import json
from dataclasses import replace
from pathlib import Path

from torch import nn

from autolr import rewrites
from autolr.allocate import allocate
from autolr.bank import Bank
from autolr.clock import Timing
from autolr.compress import compress_
from autolr.cost.timing import shared_copy, time_models
from autolr.progress import Progress
from autolr.search.inputs import Inputs
from autolr.search.preparation import limits_of, make_menus
from autolr.search.pricing import check_reachable, store_table
from autolr.types import Candidate

CLOSE = 0.01
"""The predictions are taken as they are when the solution is this near to its prediction."""
_ROUNDS = 3
_SECONDS = 30.0


def tune(inputs: Inputs, bank: Bank, file: Path, progress: Progress) -> Inputs:
    """Return the inputs with latency predictions tuned at the budget; done once for a study.

    Args:
        inputs: with or without a latency budget.
        bank: decompositions, complete.
        file: where the table is kept.
        progress: told what is under way.
    """
    table = inputs.costs.latency
    stored = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if table is None or stored.get("tuned"):
        return inputs
    menus = make_menus(inputs, bank, progress)
    progress.start("time the knapsack's solution at the budget")
    for done in range(_ROUNDS):
        candidate = allocate(menus, limits_of(inputs)).candidate
        timing = time_candidates(inputs, bank, {"solution": candidate}, CLOSE / 2, _SECONDS, progress)["solution"]
        factor = timing.ratio / table.share(candidate)
        table = table.scaled(factor)
        inputs = replace(inputs, costs=inputs.costs.with_latency(table))
        check_reachable(inputs.spec.parsed_budgets, inputs.costs)
        menus = make_menus(inputs, bank, progress)
        progress.update((done + 1) / _ROUNDS)
        if abs(factor - 1) < CLOSE:
            break
    store_table(file, stored.get("key", ""), table, tuned=True)
    return inputs


def time_candidates(
    inputs: Inputs,
    bank: Bank,
    candidates: dict[str, Candidate],
    precision: float,
    max_seconds: float,
    progress: Progress,
) -> dict[str, Timing]:
    """Time whole compressed models in turn with the dense one, under the study's conditions; ratios refer to that."""
    plain = shared_copy(inputs.model)
    rewrites.undo(plain)
    models: dict[str, nn.Module] = {"dense": plain}
    for name, candidate in candidates.items():
        models[name] = shared_copy(inputs.model)
        compress_(models[name], candidate, bank)
    return time_models(models, inputs.costs.dense.conditions, precision, max_seconds, progress)
