"""The candidates a search begins with: the dense model, uniform compression, the knapsack's own solutions."""

from collections.abc import Mapping, Sequence

from autolr.cost import CostTable
from autolr.errors import BudgetError
from autolr.types import Candidate, Choice, Unit


def uniform_candidate(
    units: Sequence[Unit], method: str, multiple: int, costs: CostTable, limits: Mapping[str, float]
) -> Candidate:
    """Return the candidate that cuts every unit to the same share of its weights and just meets the budgets.

    Args:
        units: what is compressed.
        method: by which method.
        multiple: ranks are multiples of it, rounded down.
        costs: prices the candidate.
        limits: quantity -> the largest allowed amount.

    Raises:
        BudgetError: not even rank 0 everywhere meets the budgets.
    """

    def at(share: float) -> Candidate:
        choices = {}
        for unit in units:
            rank = int(share * unit.out_features * unit.in_features / (unit.out_features + unit.in_features))
            rank -= rank % multiple
            if rank < unit.break_even:
                choices[unit.name] = Choice(method, rank)
        return Candidate.of(choices)

    def fits(candidate: Candidate) -> bool:
        cost = costs.cost(candidate)
        return all(cost.get(quantity) <= limit for quantity, limit in limits.items())

    low, high = 0.0, 1.0
    if not fits(at(low)):
        raise BudgetError(f"uniform compression cannot meet the budgets {dict(limits)}, not even at rank 0")
    for _ in range(30):  # bisection to far below one rank
        middle = (low + high) / 2
        low, high = (middle, high) if fits(at(middle)) else (low, middle)
    return at(low)
