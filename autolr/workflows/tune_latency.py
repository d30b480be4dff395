"""Brings predicted latency to the clock where it matters: at the budget.

The table is right on average over models of all sizes. The candidates of a search are all alike, of one size and with
the ranks that the knapsack chooses, and what the table gets wrong of one it gets wrong of all. So layers of the
knapsack's own solution, with random weights, are timed in turn with the dense model alone, as the winner will be, and
the predictions are multiplied by how far off they were.
"""

from dataclasses import replace
from pathlib import Path

from autolr.allocation.modes import allocate_modes
from autolr.bank import Bank
from autolr.cost.kept_times import read_times, store_times
from autolr.cost.measure_latency import time_candidates
from autolr.cost.price import check_reachable
from autolr.optimization.curve_scales import make_menus
from autolr.problem import LoadedProblem
from autolr.progress import Progress
from autolr.records import Candidate
from autolr.results.bench import Timing

CLOSE = 0.01
"""Nothing more is timed when the solution is this near to its prediction, or as near as the clock's scatter tells."""
_ROUNDS = 3
_PRECISION = 0.01
_SECONDS = 5.0


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
        candidate = allocate_modes(menus, inputs.costs.units, inputs.relative_limits).candidate
        timed = _time_solution(inputs, candidate, progress)
        factor, scatter = timed.ratio / table.share(candidate), (timed.ratio_high - timed.ratio_low) / 2 / timed.ratio
        table = table.scaled(factor)
        inputs = replace(inputs, costs=inputs.costs.with_latency(table))
        check_reachable(inputs.spec.parsed_budgets, inputs.costs)
        menus = make_menus(inputs, bank, progress)
        if abs(factor - 1) < max(CLOSE, scatter):
            break
    store_times(file, stored["key"], stored["rewrites"], table, tuned=True)
    return inputs


def _time_solution(inputs: LoadedProblem, candidate: Candidate, progress: Progress) -> Timing:
    """Return a candidate's time / the dense model's; each call gives its layers other places in memory."""
    progress.start("time the knapsack's solution against the dense model")
    conditions = inputs.costs.dense.conditions
    _, timed = time_candidates(inputs.model, [candidate], inputs.units.all, conditions, _PRECISION, _SECONDS, progress)
    progress.update(1.0)
    return timed
