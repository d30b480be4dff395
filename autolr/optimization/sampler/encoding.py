"""Parameters of an Optuna search space as points on a grid, and points as features of a Gaussian process.

Symbols:
    p: number of parameters of the space, in the order of their names.
    d: number of features; a numeric parameter gives one, a categorical one of k choices gives k.
    point (p,): a numeric parameter's position in [0, 1] (of the logarithm, where the distribution is logarithmic),
        always on the grid of its steps; a categorical parameter's choice index.
    features (d,): positions shifted to [-1/2, 1/2], and choices one-hot, scaled so that two choices lie one apart.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Whole = npt.NDArray[np.int64]
Params = dict[str, Any]
Point = Mapping[str, Any]
"""Name -> value of each parameter of a space, as Optuna has it: a number, a string, a bool or None."""
_ONE_HOT = 1.0 / math.sqrt(2.0)  # two different choices are then at distance 1, as far apart as a numeric range's ends


class _Numeric:
    """One Int or Float parameter: positions in [0, 1] and back."""

    def __init__(self, distribution: IntDistribution | FloatDistribution) -> None:
        self.is_int = isinstance(distribution, IntDistribution)
        self.log = distribution.log
        self.step = distribution.step
        self.low, self.high = float(distribution.low), float(distribution.high)
        self.n_levels = 0 if self.step is None else round((self.high - self.low) / self.step) + 1
        self._ends = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        half = 0.5 if self.is_int and self.log else 0.0
        self._wide = (math.log(self.low - half), math.log(self.high + half)) if self.log else self._ends

    def position(self, value: Array) -> Array:
        """Return the position of each value, (n,) -> (n,)."""
        start, end = self._ends
        scaled = np.log(value) if self.log else np.asarray(value, dtype=np.float64)
        return np.asarray((scaled - start) / (end - start) if end > start else np.zeros_like(scaled))

    def value(self, position: Array) -> Array:
        """Return the value nearest to each position, on the grid and in the range, (n,) -> (n,)."""
        start, end = self._ends
        scaled = start + position * (end - start)
        return self._on_grid(np.exp(scaled) if self.log else scaled)

    def spread(self, uniform: Array) -> Array:
        """Return positions such that uniform numbers give each level the same share, (n,) -> (n,)."""
        if self.n_levels and not self.log:
            level = np.minimum(np.floor(uniform * self.n_levels), self.n_levels - 1)
            return np.asarray(level / max(self.n_levels - 1, 1))
        start, end = self._wide
        scaled = start + uniform * (end - start)
        return self.position(self._on_grid(np.exp(scaled) if self.log else scaled))

    def _on_grid(self, value: Array) -> Array:
        if self.step is not None:
            value = self.low + np.round((value - self.low) / self.step) * self.step
        return np.asarray(np.clip(value, self.low, self.high))


class Encoding:
    """The grid of one search space.

    Example:
        >>> space = {"rank": IntDistribution(1, 5), "method": CategoricalDistribution(("svd", "afm"))}
        >>> encoding = Encoding(space)
        >>> encoding.names, encoding.encode([{"rank": 2, "method": "svd"}]).tolist()
        (['method', 'rank'], [[0.0, 0.25]])
        >>> encoding.decode(np.array([1.0, 0.4]))
        {'method': 'afm', 'rank': 3}
    """

    def __init__(self, space: Mapping[str, BaseDistribution]) -> None:
        self.names = sorted(space)
        self._parts: list[_Numeric | CategoricalDistribution] = []
        for name in self.names:
            part = space[name]
            if isinstance(part, CategoricalDistribution):
                self._parts.append(part)
            elif isinstance(part, IntDistribution | FloatDistribution):
                self._parts.append(_Numeric(part))
            else:
                raise TypeError(f"{name!r} must be a Float, Int or Categorical distribution, got {type(part).__name__}")
        levels = [part.n_levels if isinstance(part, _Numeric) else len(part.choices) for part in self._parts]
        #: (p,) number of levels of each parameter; 0 where it is continuous.
        self.n_levels: Whole = np.array(levels, dtype=np.int64)
        #: (p,) whether a parameter is categorical.
        self.categorical: Mask = np.array([not isinstance(part, _Numeric) for part in self._parts], dtype=bool)

    def __len__(self) -> int:
        """Return p, the number of parameters."""
        return len(self.names)

    def encode(self, params: Iterable[Mapping[str, Any]]) -> Array:
        """Return the points of parameter sets that hold at least this space's names, (n, p)."""
        rows = list(params)
        points = np.empty((len(rows), len(self.names)))
        for j, (name, part) in enumerate(zip(self.names, self._parts, strict=True)):
            if isinstance(part, _Numeric):
                points[:, j] = part.position(np.array([row[name] for row in rows], dtype=np.float64))
            else:
                points[:, j] = [part.to_internal_repr(row[name]) for row in rows]
        return points

    def decode(self, point: Array) -> Params:
        """Return the parameters at a point (p,), as plain Python values."""
        params: Params = {}
        for j, (name, part) in enumerate(zip(self.names, self._parts, strict=True)):
            if isinstance(part, _Numeric):
                value = float(part.value(point[j : j + 1])[0])
                params[name] = round(value) if part.is_int else value
            else:
                params[name] = part.choices[int(point[j])]
        return params

    def decode_all(self, points: Array) -> list[Params]:
        """Return the parameters at many points, (n, p) -> n; faster than one by one."""
        columns: list[list[Any]] = []
        for j, part in enumerate(self._parts):
            if isinstance(part, _Numeric):
                values = part.value(points[:, j])
                columns.append([round(v) for v in values.tolist()] if part.is_int else values.tolist())
            else:
                columns.append([part.choices[int(i)] for i in points[:, j]])
        return [dict(zip(self.names, row, strict=True)) for row in zip(*columns, strict=True)]

    def snap(self, points: Array) -> Array:
        """Return points moved to the nearest point of the grid, (n, p) -> (n, p)."""
        out = np.empty_like(points)
        for j, part in enumerate(self._parts):
            if isinstance(part, _Numeric):
                out[:, j] = part.position(part.value(np.clip(points[:, j], 0.0, 1.0)))
            else:
                out[:, j] = np.clip(np.round(points[:, j]), 0, len(part.choices) - 1)
        return out

    def spread(self, uniform: Array) -> Array:
        """Return grid points of numbers in [0, 1), every level of a parameter equally likely, (n, p) -> (n, p)."""
        out = np.empty_like(uniform)
        for j, part in enumerate(self._parts):
            if isinstance(part, _Numeric):
                out[:, j] = part.spread(uniform[:, j])
            else:
                out[:, j] = np.floor(uniform[:, j] * len(part.choices))
        return out

    def features(self, points: Array) -> Array:
        """Return the features of points, (n, p) -> (n, d)."""
        columns = []
        for j, part in enumerate(self._parts):
            if isinstance(part, _Numeric):
                columns.append(points[:, j : j + 1] - 0.5)
            else:
                columns.append(np.eye(len(part.choices))[points[:, j].astype(int)] * _ONE_HOT)
        return np.concatenate(columns, axis=1)

    def points(self, features: Array) -> Array:
        """Return the points that have these features, (n, d) -> (n, p)."""
        out, start = np.empty((len(features), len(self.names))), 0
        for j, part in enumerate(self._parts):
            width = 1 if isinstance(part, _Numeric) else len(part.choices)
            block = features[:, start : start + width]
            out[:, j] = block[:, 0] + 0.5 if isinstance(part, _Numeric) else block.argmax(axis=1)
            start += width
        return out

    @staticmethod
    def keys(points: Array) -> list[bytes]:
        """Return for each point a key that is equal for equal points, (n, p) -> n."""
        return [row.tobytes() for row in np.round(points, 9) + 0.0]
