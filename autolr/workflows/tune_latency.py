"""Brings predicted latency to the clock where it matters: at the budget.

The table is right on average over models of all sizes. The candidates of a search are all alike, of one size and with
the ranks that the knapsack chooses, and what the table gets wrong of one it gets wrong of all. So the knapsack's own
solution is exported and timed as the winner will be, and the predictions are multiplied by how far off they were.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

from autolr.allocation.knapsack import allocate
from autolr.bank import Bank
from autolr.cost.price import check_reachable, read_times, store_times
from autolr.problem import LoadedProblem
from autolr.progress import Progress
from autolr.records import Candidate
from autolr.results import FrontMember, RelativeCost, Variant
from autolr.search.curve_scales import make_menus
from autolr.workflows.export import EXPORT_FORMAT, export
from autolr.workflows.verify_latency import time_checkpoint

CLOSE = 0.01
"""The predictions are taken as they are when the solution is this near to its prediction."""
_ROUNDS = 3


def tune(inputs: LoadedProblem, bank: Bank, file: Path, progress: Progress) -> LoadedProblem:
    """Return the inputs with latency predictions tuned at the budget; done once for a study.

    Args:
        inputs: with or without a latency budget.
        bank: decompositions, complete.
        file: where the table is kept.
        progress: told what is under way.
    """
    table = inputs.costs.latency
    stored = read_times(file)
    if table is None or stored.get("tuned"):
        return inputs
    menus = make_menus(inputs, bank, progress)
    for _ in range(_ROUNDS):
        candidate = allocate(menus, inputs.relative_limits).candidate
        factor = _measured_share(inputs, bank, candidate, progress) / table.share(candidate)
        table = table.scaled(factor)
        inputs = replace(inputs, costs=inputs.costs.with_latency(table))
        check_reachable(inputs.spec.parsed_budgets, inputs.costs)
        menus = make_menus(inputs, bank, progress)
        if abs(factor - 1) < CLOSE:
            break
    store_times(file, stored["key"], stored["rewrites"], table, tuned=True)
    return inputs


def _measured_share(inputs: LoadedProblem, bank: Bank, candidate: Candidate, progress: Progress) -> float:
    cost = RelativeCost.of(inputs.costs.cost(candidate), inputs.costs.dense)
    member = FrontMember(0, "the knapsack's solution", Variant(candidate), cost, {}, {})
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "solution"
        export(inputs, bank, member, None, None, directory, EXPORT_FORMAT, progress)
        return time_checkpoint(inputs, directory, progress).ratio
