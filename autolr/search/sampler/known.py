"""Outcomes that are computed instead of modelled: the cost of a candidate, and what is asked of the cost.

Symbols:
    n, c: parameter sets; k: known outcomes; d: features.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autolr.search.sampler.encoding import Array, Encoding


@dataclass(frozen=True)
class Known:
    """What the caller can compute about any parameters.

    Attributes:
        compute: parameter sets -> (n, k) outcomes, in the units told to Optuna. It is asked about thousands of sets.
        columns: what each of the k columns is: an objective's index, or a constraint's name.

    Example:
        >>> known = Known(lambda sets: np.array([[s["r"] / 8, s["r"] / 8 - 0.5] for s in sets]), (1, "cost"))
        >>> known.column("cost", [{"r": 8}]).tolist()
        [0.5]
    """

    compute: Callable[[Sequence[Mapping[str, Any]]], Array]
    columns: tuple[int | str, ...]

    def column(self, outcome: int | str, sets: Sequence[Mapping[str, Any]]) -> Array:
        """Return one outcome of parameter sets, (n,)."""
        return np.asarray(self.compute(sets)[:, self.columns.index(outcome)], dtype=np.float64)

    def process(self, outcome: int | str, encoding: Encoding, scale: Callable[[Array], Array]) -> "Exact":
        """Return one outcome as a process without error; ``scale`` takes its values to the model's scale."""
        return Exact(lambda X: scale(self.column(outcome, encoding.decode_all(encoding.points(X)))))


@dataclass(frozen=True)
class Exact:
    """A process whose values are known: ``values`` maps features (c, d) to outcomes (c,)."""

    values: Callable[[Array], Array]

    def marginal(self, points: Array) -> tuple[Array, Array]:
        """Return the values and a deviation of nearly nothing, (c, d) -> two of (c,)."""
        return self.values(points), np.full(len(points), 1e-5)

    def joint(self, points: Array) -> tuple[Array, Array]:
        """Return the values and a covariance of nearly nothing that can be factored, (u, d) -> (u,) and (u, u)."""
        return self.values(points), np.eye(len(points)) * 1e-8
