"""Error curves x cost -> the predicted-best candidate at any budget, as a multiple-choice knapsack.

For each unit u a menu of options j (dense, or a method at a rank) with predicted loss ``l_uj`` and cost ``c_uj``:

    minimise  Σ_u l_u,j(u)   subject to   Σ_u c_u,j(u) ≤ limit, for each budgeted quantity

solved to a proven relative gap: by convex hulls where there is one budget and they come within the gap, by dynamic
programming where that is quick, else by HiGHS.
Dense is on every menu, with loss 0. HiGHS works with absolute tolerances of 1e-6, on the losses as on the limits; both
are scaled here so that neither is felt (see ``_SMALL`` and ``_TIGHTER``).
"""

import ctypes
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from autolr.allocation.dynamic_program import solve
from autolr.allocation.hull import could_be_better, relax
from autolr.errors import BudgetError
from autolr.machine.shared_change import shared_change
from autolr.types import Candidate, Choice

DEFAULT_GAP = 5e-3
"""Relative gap at which a solution is accepted: far below what the curves themselves get wrong."""
_TOLERANCE = 2e-6
"""What HiGHS may be wrong by in its bound, absolutely: its feasibility tolerance and its absolute gap."""
_SMALL = 0.01
"""A solution this small beside the largest loss is solved again without the options that alone are worse than it."""
_TIGHTER = (0.0, 1e-5, 1e-3)
"""By how much of the largest cost a limit is lowered in turn, until the solution meets the limit itself exactly."""


Option = tuple[tuple[str, Choice], ...]
"""(unit, choice) of each unit that is compressed."""


@dataclass(frozen=True)
class Menu:
    """What can be done to one unit, or to several whose options exclude one another.

    Attributes:
        name: of the unit, or of the units.
        options: what each option does: a choice for each unit that it compresses; none is the dense model.
        loss: (n,) predicted loss of each option, nats per example, ≥ 0.
        cost: quantity -> (n,) cost of each option relative to the dense layer, ≤ 0 where it saves.
    """

    name: str
    options: tuple[Option, ...]
    loss: np.ndarray
    cost: Mapping[str, np.ndarray]

    @classmethod
    def of_unit(
        cls, unit: str, choices: Sequence[Choice | None], loss: np.ndarray, cost: Mapping[str, np.ndarray]
    ) -> "Menu":
        """Return the menu of one unit; None is its dense layer."""
        return cls(unit, tuple(() if choice is None else ((unit, choice),) for choice in choices), loss, cost)

    @property
    def choices(self) -> tuple[Choice | None, ...]:
        """Of one unit's menu: the choice of each option; None is the dense layer."""
        return tuple(option[0][1] if option else None for option in self.options)

    def scaled(self, factor: float) -> "Menu":
        """Return the menu with every loss multiplied by a factor > 0."""
        return replace(self, loss=self.loss * factor)

    def pruned(self, quantities: Sequence[str]) -> "Menu":
        """Return the menu without options that another one beats in loss and in every named quantity."""
        return self.kept(unbeaten(self.loss, [self.cost[q] for q in quantities]))

    def kept(self, index: np.ndarray) -> "Menu":
        """Return the menu with the options at some places only."""
        cost = {q: c[index] for q, c in self.cost.items()}
        return Menu(self.name, tuple(map(self.options.__getitem__, index.tolist())), self.loss[index], cost)


def unbeaten(loss: np.ndarray, costs: Sequence[np.ndarray]) -> np.ndarray:
    """Return the places of the options that no other one beats in loss and in every cost, rising.

    Args:
        loss: (n,).
        costs: (n,) each.

    Example:
        >>> unbeaten(np.array([0.0, 2.0, 1.0]), [np.array([0.0, -1.0, -1.0])])
        array([0, 2])
    """
    columns = [*costs, loss]
    order = np.lexsort(columns[::-1])
    kept = _staircase(loss[order]) if len(costs) == 1 else _unbeaten(np.column_stack(columns)[order])
    return np.sort(order[kept])


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
        cost: quantity -> its cost relative to the dense model, of every quantity that the menus have.
    """

    candidate: Candidate
    loss: float
    bound: float
    cost: Mapping[str, float]


def allocate(menus: Sequence[Menu], limits: Mapping[str, float], gap: float = DEFAULT_GAP) -> Allocation:
    """Solve the knapsack.

    Args:
        menus: of units that do not share a module; see :mod:`autolr.allocation.modes`.
        limits: quantity -> the largest sum of relative costs allowed, that is (budget − dense), ≤ 0 where it must save.
        gap: relative optimality gap to prove.

    Returns:
        A candidate that meets every limit exactly, not only within the solver's tolerance.

    Raises:
        BudgetError: not even the cheapest options meet a limit, or no candidate meets all of them at once.

    Example:
        >>> rank_4 = Choice.of("low-rank", "svd", rank=4)
        >>> menu = Menu.of_unit("a", [None, rank_4], np.array([0.0, 1.0]), {"flops": np.array([0.0, -10.0])})
        >>> allocate([menu], {"flops": -5.0}).candidate.to_json()
        {'a': {'method': 'svd', 'rank': 4, 'rows': 0}}
    """
    quantities = sorted(limits)
    for quantity in quantities:
        lowest = sum(float(menu.cost[quantity].min()) for menu in menus)
        if lowest > limits[quantity]:
            raise BudgetError(
                f"{quantity} can be cut by {-lowest:.4g} at most, the budget needs {-limits[quantity]:.4g}"
            )
    pruned = [menu.pruned(quantities) for menu in menus]
    if len(quantities) == 1:
        quick = _quickly(pruned, quantities[0], limits[quantities[0]], gap)
        if quick is not None:
            return quick
    bound = None
    for slack in _TIGHTER:
        solved = _minimise(pruned, limits, slack, gap)
        if solved is None:
            break
        picked, proven = solved
        bound = proven if bound is None else bound
        if all(sum(menu.cost[q][k] for menu, k in zip(pruned, picked, strict=True)) <= limits[q] for q in quantities):
            return _allocation(pruned, picked, bound)
    raise BudgetError(f"no candidate meets all the budgets at once: {dict(limits)}")


def _quickly(menus: Sequence[Menu], quantity: str, limit: float, gap: float) -> Allocation | None:
    """Return the relaxation's pick if it is within the gap of its own bound, else what dynamic programming finds.

    Milliseconds, not a second; None where neither applies.
    """
    orders = [np.argsort(menu.cost[quantity], kind="stable") for menu in menus]
    costs = [menu.cost[quantity][order] for menu, order in zip(menus, orders, strict=True)]
    losses = [menu.loss[order] for menu, order in zip(menus, orders, strict=True)]
    places, bound, worth = relax(costs, losses, limit)
    picked = [int(order[place]) for order, place in zip(orders, places, strict=True)]
    total = _total(menus, picked)
    if not _within(menus, picked, quantity, limit):  # rounding in the sums; the solver checks exactly
        return _exactly(menus, quantity, limit)
    if total - bound <= gap * total:
        return _allocation(menus, picked, bound)
    few = [could_be_better(menu.cost[quantity], menu.loss, worth, total - bound) for menu in menus]
    return _exactly([menu.kept(np.flatnonzero(mask)) for menu, mask in zip(menus, few, strict=True)], quantity, limit)


def _exactly(menus: Sequence[Menu], quantity: str, limit: float) -> Allocation | None:
    """Return the best pick where dynamic programming is quicker than a solver."""
    picked = solve([menu.cost[quantity] for menu in menus], [menu.loss for menu in menus], limit)
    if picked is None or not _within(menus, picked, quantity, limit):
        return None
    return _allocation(menus, picked, _total(menus, picked))


def _within(menus: Sequence[Menu], picked: Sequence[int], quantity: str, limit: float) -> bool:
    return bool(sum(float(menu.cost[quantity][k]) for menu, k in zip(menus, picked, strict=True)) <= limit)


def _allocation(menus: Sequence[Menu], picked: Sequence[int], bound: float) -> Allocation:
    loss = _total(menus, picked)
    chosen = (menu.options[index] for menu, index in zip(menus, picked, strict=True))
    cost = {q: sum(float(m.cost[q][k]) for m, k in zip(menus, picked, strict=True)) for q in menus[0].cost}
    candidate = Candidate.of(dict(pair for option in chosen for pair in option))
    return Allocation(candidate, loss, max(0.0, min(loss, bound)), cost)


def _total(menus: Sequence[Menu], picked: Sequence[int]) -> float:
    return float(sum(menu.loss[index] for menu, index in zip(menus, picked, strict=True)))


def _minimise(
    menus: Sequence[Menu], limits: Mapping[str, float], slack: float, gap: float
) -> tuple[list[int], float] | None:
    """Return the picked option of each menu and a lower bound on the loss, or None if the limits cannot be met."""
    top = max(float(menu.loss.max()) for menu in menus)
    while True:
        kept = [np.flatnonzero(menu.loss <= top) for menu in menus]
        solved = _solve(menus, kept, limits, top or 1.0, slack, gap)
        if solved is None:
            return None
        picked, bound = solved
        total = _total(menus, picked)
        if total == 0 or total >= _SMALL * top:
            return picked, bound
        top = total


def _solve(
    menus: Sequence[Menu],
    kept: Sequence[np.ndarray],
    limits: Mapping[str, float],
    top: float,
    slack: float,
    gap: float,
) -> tuple[list[int], float] | None:
    sizes = [len(index) for index in kept]
    n = sum(sizes)
    one_each = csr_array((np.ones(n), (np.repeat(np.arange(len(sizes)), sizes), np.arange(n))))
    constraints = [LinearConstraint(one_each, 1, 1)]
    for quantity, limit in limits.items():
        cost = np.concatenate([menu.cost[quantity][index] for menu, index in zip(menus, kept, strict=True)])
        row, largest = _scaled(cost, limit)
        constraints.append(LinearConstraint(row[None, :], -np.inf, largest - slack))
    loss = np.concatenate([menu.loss[index] for menu, index in zip(menus, kept, strict=True)])
    with _stdout_to_stderr():
        solved = milp(
            loss / top,
            integrality=np.ones(n),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": gap},
        )
    if solved.x is None:
        return None
    ends = np.cumsum(sizes)
    parts = np.split(solved.x, ends[:-1])
    picked = [int(index[np.argmax(part)]) for index, part in zip(kept, parts, strict=True)]
    return picked, max(0.0, float(solved.mip_dual_bound) - _TOLERANCE) * top


@shared_change
@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send what C code prints to stderr: HiGHS has a debug line that it prints now and then, whatever its options say.

    It must not end up in the JSON of a command, so the file descriptor is turned, not ``sys.stdout``.
    """
    if sys.stdout is None:  # closed by whoever started the process: nothing can be spoiled
        yield
        return
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(saved, 1)
        os.close(saved)


def _scaled(cost: np.ndarray, limit: float) -> tuple[np.ndarray, float]:
    """Return a constraint ``cost ≤ limit`` with the largest cost 1.

    Whole numbers get half of their common unit to spare, so that a sum at the limit is inside and the next one outside
    of it by more than the solver's tolerance.
    """
    if (cost == np.rint(cost)).all():
        unit = max(int(np.gcd.reduce(cost.astype(np.int64))), 1)
        limit = (np.floor(limit / unit) + 0.5) * unit
    scale = float(np.abs(cost).max()) or 1.0
    return cost / scale, limit / scale
