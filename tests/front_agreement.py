"""Whether two fronts are equal within the scores' errors."""

from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float, float]
"""(cost, score, standard error of the score); both are minimised."""


@dataclass(frozen=True)
class Agreement:
    """How far two fronts lie apart.

    Attributes:
        worst: by how many standard errors a member of one is better than whatever the other has at its cost or below.
        shared: points that are members of both.
        members: of the first and of the second.
    """

    worst: float
    shared: int
    members: tuple[int, int]


def compared(first: Sequence[Point], second: Sequence[Point]) -> Agreement:
    """Compare two fronts.

    What is cheaper than everything of the other front is compared with the cheapest there.

    Example:
        >>> a, b = [(0.4, 0.30, 0.01), (0.5, 0.20, 0.01)], [(0.4, 0.31, 0.01), (0.5, 0.20, 0.01)]
        >>> agreement = compared(a, b)
        >>> round(agreement.worst, 2), agreement.shared
        (0.71, 1)
    """
    worst = max(_beaten_by(first, second), _beaten_by(second, first))
    shared = sum(any(abs(a[0] - b[0]) < 1e-9 and abs(a[1] - b[1]) <= 1e-4 for b in second) for a in first)
    return Agreement(worst, shared, (len(first), len(second)))


def _beaten_by(front: Sequence[Point], other: Sequence[Point]) -> float:
    """Return by how many errors the best of a front is better than the other."""
    gaps = [0.0]
    cheapest = min(cost for cost, _, _ in other)
    for cost, score, error in front:
        there = min((p for p in other if p[0] <= max(cost, cheapest) + 1e-9), key=lambda p: p[1])
        gaps.append((there[1] - score) / max((error**2 + there[2] ** 2) ** 0.5, 1e-9))
    return max(gaps)
