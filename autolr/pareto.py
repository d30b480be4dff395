"""Dominance and hypervolume. Everything is minimised.

Symbols:
    n: points; m: objectives.
    values (n, m): a point dominates another when it is nowhere larger and somewhere smaller. A point with a NaN neither
        dominates nor is on a front; equal points do not dominate each other.
    reference (m,): the corner that bounds the hypervolume.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Point = npt.NDArray[Any] | Sequence[float | int]
Table = npt.NDArray[Any] | Sequence[Sequence[float | int]]


def _as_table(values: Table) -> Array:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2:
        raise ValueError(f"values must have the shape (n, m), got {table.shape}")
    return table


def non_dominated(values: Table) -> npt.NDArray[np.bool_]:
    """Return which points no other dominates, (n, m) -> (n,); of equal points all or none.

    Example:
        >>> non_dominated([[0, 2], [1, 1], [1, 2], [2, 0], [1, 1]]).tolist()
        [True, True, False, True, True]
    """
    table = _as_table(values)
    valid = ~np.isnan(table).any(axis=1)
    mask = np.zeros(len(table), dtype=bool)
    index = np.flatnonzero(valid)
    if not len(index):
        return mask
    unique, inverse = np.unique(table[index], axis=0, return_inverse=True)  # sorted: nothing dominates an earlier row
    mask[index] = (_sweep(unique) if table.shape[1] == 2 else _filter(unique))[inverse.ravel()]
    return mask


def _sweep(rows: Array) -> npt.NDArray[np.bool_]:
    """Non-dominance of distinct rows (n, 2) sorted by the first, then the second objective."""
    best_before = np.minimum.accumulate(np.concatenate([[np.inf], rows[:-1, 1]]))
    keep: npt.NDArray[np.bool_] = rows[:, 1] < best_before
    keep[0] = True  # also where its second objective is infinite
    return keep


def _filter(rows: Array) -> npt.NDArray[np.bool_]:
    """Non-dominance of distinct rows (n, m) sorted lexicographically."""
    keep = np.ones(len(rows), dtype=bool)
    for i in range(len(rows)):
        if keep[i]:
            keep[i + 1 :] &= ~(rows[i] <= rows[i + 1 :]).all(axis=1)
    return keep


def hypervolume(values: Table, reference: Point) -> float:
    """Return the exact volume that the points dominate, up to the reference point.

    Two objectives: the area under the staircase, any n. One: a length. More: BoTorch's dimension sweep (Fonseca,
    Paquete and López-Ibáñez 2006).

    Args:
        values: (n, m); points not below the reference in every objective add nothing, nor do points with a NaN.
        reference: (m,) finite.

    Returns:
        The volume, 0 without points; infinite when a point that counts has an objective at minus infinity.

    Raises:
        ValueError: the shapes do not agree or the reference is not finite.

    Example:
        >>> hypervolume([[0, 2], [1, 1], [2, 0]], (3, 3))
        6.0
    """
    corner = np.asarray(reference, dtype=np.float64)
    table = np.asarray(values, dtype=np.float64).reshape(-1, len(corner)) if not np.size(values) else _as_table(values)
    if table.shape[1] != len(corner):
        raise ValueError(
            f"the reference must have one entry for each of {table.shape[1]} objectives, got {len(corner)}"
        )
    if not np.isfinite(corner).all():
        raise ValueError(f"the reference must be finite, got {corner.tolist()}")
    table = table[(table < corner).all(axis=1)]
    if not len(table):
        return 0.0
    if np.isneginf(table).any():
        return float("inf")
    table = np.unique(table[non_dominated(table)], axis=0)
    if table.shape[1] == 1:
        return float(corner[0] - table[0, 0])
    if table.shape[1] == 2:
        heights = np.concatenate([[corner[1]], table[:-1, 1]]) - table[:, 1]
        return float((heights * (corner[0] - table[:, 0])).sum())
    return _botorch_hypervolume(table, corner)


def _botorch_hypervolume(table: Array, corner: Array) -> float:
    import torch
    from botorch.utils.multi_objective.hypervolume import Hypervolume

    return float(Hypervolume(ref_point=torch.from_numpy(-corner)).compute(torch.from_numpy(-table)))
