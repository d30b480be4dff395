"""Error curves x cost -> the predicted-best candidate at any budget, as a multiple-choice knapsack.

For each unit u a menu of options j (dense, or a method at a rank) with predicted loss ``l_uj`` and cost ``c_uj``:

    minimise  Σ_u l_u,j(u)   subject to   Σ_u c_u,j(u) ≤ limit, for each budgeted quantity

solved by HiGHS to a proven relative gap. Dense is on every menu, with loss 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from autolr.errors import BudgetError
from autolr.types import Candidate, Choice

DEFAULT_GAP = 1e-3
"""Relative gap at which a solution is accepted: far below what the curves themselves get wrong."""


@dataclass(frozen=True)
class Menu:
    """What can be done to one unit.

    Attributes:
        unit: its name.
        choices: one for each option; None is the dense layer.
        loss: (n,) predicted loss of each option, nats per example, ≥ 0.
        cost: quantity -> (n,) cost of each option relative to the dense layer, ≤ 0 where it saves.
    """

    unit: str
    choices: tuple[Choice | None, ...]
    loss: np.ndarray
    cost: Mapping[str, np.ndarray]

    def scaled(self, factor: float) -> "Menu":
        """Return the menu with every loss multiplied by a factor > 0."""
        return Menu(self.unit, self.choices, self.loss * factor, self.cost)

    def pruned(self, quantities: Sequence[str]) -> "Menu":
        """Return the menu without options that another one beats in loss and in every named quantity."""
        table = np.column_stack([*(self.cost[q] for q in quantities), self.loss])
        order = np.lexsort(table.T[::-1])
        kept = _staircase(self.loss[order]) if len(quantities) == 1 else _unbeaten(table[order])
        index = np.sort(order[kept])
        cost = {q: c[index] for q, c in self.cost.items()}
        return Menu(self.unit, tuple(self.choices[k] for k in index), self.loss[index], cost)


def _staircase(loss: np.ndarray) -> np.ndarray:
    """Return which options, sorted by cost, have a lower loss than every cheaper one, (n,) bool."""
    best = np.minimum.accumulate(loss)
    return np.concatenate([[True], loss[1:] < best[:-1]])


def _unbeaten(table: np.ndarray) -> np.ndarray:
    """Return which rows, sorted lexicographically, no earlier kept row is at most equal to in every column."""
    kept = np.zeros(len(table), dtype=bool)
    for index, row in enumerate(table):
        kept[index] = not (table[kept] <= row).all(1).any()
    return kept


@dataclass(frozen=True)
class Allocation:
    """The solution of one knapsack.

    Attributes:
        candidate: what to do to each unit.
        loss: its predicted loss, the sum over units.
        bound: proven lower bound on the loss of any candidate within the budget.
    """

    candidate: Candidate
    loss: float
    bound: float


def allocate(menus: Sequence[Menu], limits: Mapping[str, float], gap: float = DEFAULT_GAP) -> Allocation:
    """Solve the knapsack.

    Args:
        menus: one for each unit.
        limits: quantity -> the largest sum of relative costs allowed, that is (budget − dense), ≤ 0 where it must save.
        gap: relative optimality gap to prove.

    Raises:
        BudgetError: not even the cheapest options meet a limit.

    Example:
        >>> menu = Menu("a", (None, Choice("svd", 4)), np.array([0.0, 1.0]), {"flops": np.array([0.0, -10.0])})
        >>> allocate([menu], {"flops": -5.0}).candidate.as_dict()
        {'a': Choice(method='svd', rank=4, rows=0)}
    """
    quantities = sorted(limits)
    for quantity in quantities:
        lowest = sum(float(menu.cost[quantity].min()) for menu in menus)
        if lowest > limits[quantity]:
            raise BudgetError(
                f"{quantity} can be cut by {-lowest:.4g} at most, the budget needs {-limits[quantity]:.4g}"
            )
    pruned = [menu.pruned(quantities) for menu in menus]
    sizes = [len(menu.choices) for menu in pruned]
    loss = np.concatenate([menu.loss for menu in pruned])
    n = len(loss)
    one_each = csr_array((np.ones(n), (np.repeat(np.arange(len(sizes)), sizes), np.arange(n))))
    constraints = [LinearConstraint(one_each, 1, 1)]
    for quantity in quantities:
        cost = np.concatenate([menu.cost[quantity] for menu in pruned])
        scale = max(float(np.abs(cost).max()), 1e-300)
        constraints.append(LinearConstraint(cost[None, :] / scale, -np.inf, limits[quantity] / scale))
    top = max(float(loss.max()), 1e-300)
    solved = milp(
        loss / top, integrality=np.ones(n), bounds=Bounds(0, 1), constraints=constraints, options={"mip_rel_gap": gap}
    )
    if solved.x is None:
        raise BudgetError(f"no candidate meets all the budgets at once: {dict(limits)} ({solved.message})")
    picked: dict[str, Choice] = {}
    total, start = 0.0, 0
    for menu, size in zip(pruned, sizes, strict=True):
        index = int(np.argmax(solved.x[start : start + size]))
        start += size
        total += float(menu.loss[index])
        choice = menu.choices[index]
        if choice is not None:
            picked[menu.unit] = choice
    return Allocation(Candidate.of(picked), total, min(total, float(solved.mip_dual_bound) * top))
