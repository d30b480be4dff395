"""The multiple-choice knapsack under one limit by dynamic programming: exact, where costs are small whole numbers.

``best[c]`` is the least loss of the menus so far at a cost of at most ``c`` units. Small models have few ranks to
choose from, so that the linear relaxation is far from any pick there; and their costs have a large common divisor.

Source: Kellerer, Pferschy & Pisinger 2004, Knapsack Problems, section 11.5.
"""

from collections.abc import Sequence

import numpy as np

MOST_WORK = 20_000_000
"""Additions (options times units of cost) that are quicker than a solver."""


def solve(costs: Sequence[np.ndarray], losses: Sequence[np.ndarray], limit: float) -> list[int] | None:
    """Return the option of each menu with the least total loss within the limit.

    Args:
        costs: of each menu's options.
        losses: of the same options, ≥ 0.
        limit: on the sum of the picked costs.

    Returns:
        The picked options; None where costs are not whole numbers, the table would be large, or nothing is within.

    Example:
        >>> solve([np.array([-4.0, -2.0, 0.0])] * 2, [np.array([4.0, 1.0, 0.0])] * 2, -4.0)
        [1, 1]
    """
    everything = np.concatenate(costs)
    if not (everything == np.rint(everything)).all() or np.abs(everything).sum() >= 2**53:
        return None
    extra = [cost.astype(np.int64) - int(cost.min()) for cost in costs]
    divisor = int(np.gcd.reduce(np.concatenate(extra))) or 1
    room = int(np.floor(limit - sum(float(cost.min()) for cost in costs))) // divisor
    room = min(room, sum(int(one.max()) for one in extra) // divisor)
    if room < 0 or (room + 1) * len(everything) > MOST_WORK:
        return None
    best, taken = np.zeros(room + 1), []
    for units, loss in zip(extra, losses, strict=True):
        reached, choice = np.full(room + 1, np.inf), np.zeros(room + 1, dtype=np.int32)
        for option, unit in enumerate(units // divisor):
            if unit > room:
                continue
            total = best[: room + 1 - unit] + loss[option]
            better = total < reached[unit:]
            reached[unit:][better] = total[better]
            choice[unit:][better] = option
        best = reached
        taken.append(choice)
    picked: list[int] = []
    left = room
    for units, choice in zip(reversed(extra), reversed(taken), strict=True):
        option = int(choice[left])
        picked.append(option)
        left -= int(units[option]) // divisor
    return picked[::-1]
