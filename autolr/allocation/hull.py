"""The multiple-choice knapsack under one limit, by convex hulls: a near-optimal pick and a proven bound.

Symbols, for each of n menus: ``cost`` (k,) rising and ``loss`` (k,) strictly falling. On the lower convex hull of a
menu each step buys less loss for its cost than the step before, so taking steps in the order of their worth solves the
linear relaxation; the step that no longer fits, taken in part, gives the lower bound.

Source: Sinha & Zoltners 1979, Operations Research 27(3); Kellerer, Pferschy & Pisinger 2004, Knapsack Problems, ch. 11.
"""

from collections.abc import Iterator, Sequence

import numpy as np

Costs = Sequence[np.ndarray]
Losses = Sequence[np.ndarray]
_ROUNDINGS = 64
"""How many times the resolution of float64 the sum of the largest losses is thought to be wrong by."""


def lower_hull(cost: np.ndarray, loss: np.ndarray) -> list[int]:
    """Return the indices of the points on the lower convex hull, from the cheapest to the dearest.

    Args:
        cost: (k,) strictly rising.
        loss: (k,) strictly falling.

    Example:
        >>> lower_hull(np.array([0.0, 1.0, 2.0]), np.array([4.0, 3.0, 0.0]))
        [0, 2]
    """
    hull: list[int] = []
    x, y = cost.tolist(), loss.tolist()  # numbers of Python's: these loops are most of a knapsack's time
    for k in range(len(x)):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (y[b] - y[a]) * (x[k] - x[a]) < (y[k] - y[a]) * (x[b] - x[a]):
                break
            hull.pop()
        hull.append(k)
    return hull


def relax(costs: Costs, losses: Losses, limit: float) -> tuple[list[int], float, float]:
    """Return a pick that meets the limit and a lower bound on the loss of every pick that does.

    Args:
        costs: of each menu's options, strictly rising.
        losses: of the same options, strictly falling.
        limit: on the sum of the picked costs; the cheapest options must meet it.

    Returns:
        The picked option of each menu, the bound, and what the last of the limit is worth: the loss that one more unit
        of cost would save; 0 where the limit does not bind.

    Example:
        >>> picked, bound, worth = relax([np.array([-4.0, -2.0, 0.0])] * 2, [np.array([4.0, 1.0, 0.0])] * 2, -4.0)
        >>> picked, round(bound, 9), worth
        ([1, 1], 2.0, 0.5)
    """
    hulls = [lower_hull(cost, loss) for cost, loss in zip(costs, losses, strict=True)]
    picked = [0] * len(costs)
    left = limit - sum(float(cost[0]) for cost in costs)
    bound = sum(float(loss[0]) for loss in losses)
    full, last, blocked = False, 0.0, set()
    for worth, price, menu, end in _steps(costs, losses, hulls):
        if not full:  # the relaxation takes steps until one does not fit, and that one in part
            full = price > left
            last = worth if full else 0.0
            bound -= worth * min(price, left)
        if price <= left and menu not in blocked:
            left -= price
            picked[menu] = end
        else:
            blocked.add(menu)
    _spend(costs, losses, picked, limit)
    return picked, bound - rounding(losses), last


def rounding(losses: Losses) -> float:
    """Return what sums and differences of such losses may be wrong by: where they cancel, more than what is left.

    Example:
        >>> rounding([np.array([1.0, 0.0])] * 4) < 1e-12
        True
    """
    return _ROUNDINGS * float(np.finfo(float).eps) * sum(float(np.abs(loss).max()) for loss in losses)


def could_be_better(cost: np.ndarray, loss: np.ndarray, worth: float, gap: float) -> np.ndarray:
    """Return which of a menu's options may be part of a pick that is better than the one known, (k,) bool.

    Costs priced at what the limit is worth, every pick loses at least the bound and what its options are worse by than
    the best of their menus; so an option that is worse by more than the gap is in no better pick.

    Args:
        cost: (k,).
        loss: (k,).
        worth: of the limit, from :func:`relax`.
        gap: between the loss of the pick that is known and the bound, what rounding may make of both included.

    Example:
        >>> could_be_better(np.array([-4.0, -2.0, 0.0]), np.array([4.0, 1.0, 0.0]), 0.5, 0.5)
        array([False,  True,  True])
    """
    priced = loss + worth * cost
    kept: np.ndarray = priced - priced.min() <= gap + 1e-9 * (np.abs(priced).max() + gap)
    return kept


def _steps(costs: Costs, losses: Losses, hulls: Sequence[list[int]]) -> Iterator[tuple[float, float, int, int]]:
    """Yield (loss saved per cost, cost, menu, option stepped to) for every step along every hull, the best first."""
    price = np.concatenate([np.diff(cost[hull]) for cost, hull in zip(costs, hulls, strict=True)])
    worth = np.concatenate([-np.diff(loss[hull]) for loss, hull in zip(losses, hulls, strict=True)]) / price
    menu = np.repeat(np.arange(len(hulls)), [len(hull) - 1 for hull in hulls])
    end = np.concatenate([hull[1:] for hull in hulls]).astype(int)
    order = np.argsort(-worth, kind="stable")  # equal ones by menu, and along its hull
    return zip(*(column[order].tolist() for column in (worth, price, menu, end)), strict=True)


def _spend(costs: Costs, losses: Losses, picked: list[int], limit: float) -> None:
    """Spend what is left of the limit, in place: the best single change first, or a change paid for by another menu."""
    menus = range(len(costs))
    for _ in range(4 * len(costs)):
        left = limit - sum(float(costs[m][picked[m]]) for m in menus)
        change = _best_change(costs, losses, picked, left)
        if change is None:
            return
        giver, menu, option = change
        if giver >= 0:
            picked[giver] -= 1
        picked[menu] = option


def _best_change(costs: Costs, losses: Losses, picked: Sequence[int], left: float) -> tuple[int, int, int] | None:
    """Return (menu that goes one option down, or -1; menu that goes up; its option) of what lowers the loss most."""
    counts = [len(cost) - k - 1 for cost, k in zip(costs, picked, strict=True)]
    if not any(counts):
        return None
    price = np.concatenate([cost[k + 1 :] - cost[k] for cost, k in zip(costs, picked, strict=True)])
    gain = np.concatenate([loss[k] - loss[k + 1 :] for loss, k in zip(losses, picked, strict=True)])
    menu = np.repeat(np.arange(len(costs)), counts)
    order = np.argsort(price, kind="stable")
    price, gain, menu = price[order], gain[order], menu[order]
    top = np.maximum.accumulate(gain)
    place = np.maximum.accumulate(np.where(gain == top, np.arange(len(gain)), 0))  # of the best step up to each price
    best, change = 1e-15, None
    for giver in range(-1, len(costs)):
        freed, paid = (0.0, 0.0) if giver < 0 else _step_down(costs[giver], losses[giver], picked[giver])
        end = int(np.searchsorted(price, left + freed, side="right"))
        if end == 0 or top[end - 1] - paid <= best:
            continue
        step = int(place[end - 1])
        if menu[step] == giver:  # the best of another menu
            others = np.where(menu[:end] == giver, -np.inf, gain[:end])
            step = int(others.argmax())
            if others[step] - paid <= best:
                continue
        best, change = float(gain[step] - paid), (giver, step)
    if change is None:
        return None
    giver, step = change
    start = sum(counts[: menu[step]])
    return giver, int(menu[step]), int(picked[menu[step]] + 1 + order[step] - start)


def _step_down(cost: np.ndarray, loss: np.ndarray, index: int) -> tuple[float, float]:
    """Return what one option cheaper frees and what it costs in loss; nothing and infinity at the cheapest."""
    if index == 0:
        return 0.0, float("inf")
    return float(cost[index] - cost[index - 1]), float(loss[index - 1] - loss[index])
