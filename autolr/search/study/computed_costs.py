"""The prices that a sampler need not model: in the space ``per-layer`` they are a sum over the layers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from autolr.problem import LoadedProblem
from autolr.search.sampler.encoding import Array, Params
from autolr.search.sampler.outcome_models import DeterministicOutcomes
from autolr.search.spaces import Space
from autolr.search.spaces.per_layer import PerLayerSpace

RATIO = 1
"""The study's objective that is the ratio of the first budget's quantity."""


def computed_costs(space: Space, inputs: LoadedProblem) -> DeterministicOutcomes | None:
    """Return the ratio and each budget's excess as functions of the parameters.

    None where a price is known only after a knapsack or a bisection: thousands of parameter sets are asked about for
    one proposal. There the sampler models it; it is linear in the parameters, or nearly so.

    Args:
        space: of the study.
        inputs: the opened inputs.
    """
    if not isinstance(space, PerLayerSpace):
        return None
    costs, budgets = inputs.costs, inputs.spec.parsed_budgets
    quantities = [budget.quantity for budget in budgets]
    base = np.array([float(costs.base.get(quantity)) for quantity in quantities])
    dense = float(costs.dense.get(quantities[0]))
    limits = np.array([float(budget.limit(costs.dense)) for budget in budgets])
    savings: dict[tuple[str, Any, int], Array] = {}

    def saved(name: str, params: Params) -> Array:
        entry = (name, params.get(f"method/{name}"), params[f"rank/{name}"])
        if entry not in savings:
            choice = space.choice(name, params)
            saving = costs.saving(name, choice) if choice else dict.fromkeys(quantities, 0)
            savings[entry] = np.array([float(saving[quantity]) for quantity in quantities])
        return savings[entry]

    def compute(sets: Sequence[Params]) -> Array:
        amounts = np.array([base - sum(saved(name, params) for name in space.units) for params in sets])
        return np.concatenate([amounts[:, :1] / dense, amounts / limits - 1.0], axis=1)

    return DeterministicOutcomes(compute, (RATIO, *(budget.text for budget in budgets)))
