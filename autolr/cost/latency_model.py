"""The time of a forward pass, predicted from times measured on the target.

Two measurements are put together. Alone: each shape of layer that the model has, dense and at a range of ranks, on as
many vectors as it multiplies in one pass. Together: whole models with random ranks, timed in turn with the dense one.
With ``L`` the sum of the layers' times alone, a pass takes ``fixed + slope · L``: what is not a layer (attention,
normalisation, embeddings, head) is in ``fixed``, and ``slope`` is what a layer takes among others rather than alone.

Everything is a share of the dense model's time, measured in the same round, so that a clock that drifts between the
measurements cancels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autolr.forms import FORMS
from autolr.forms.base import Times
from autolr.types import Candidate, Choice, Unit


@dataclass(frozen=True)
class LayerTimes:
    """Times of one shape of layer alone, as shares of the dense model's pass.

    Attributes:
        dense: of the dense layer.
        forms: form -> its sizes that were timed, and their times.
    """

    dense: float
    forms: Mapping[str, Times]

    def at(self, unit: Unit, choice: Choice | None) -> float:
        """Return the time of a choice for a unit of this shape, interpolated between those measured; None is dense."""
        return self.dense if choice is None else FORMS.get(choice.form).time(unit, choice, self.forms)

    def to_json(self) -> dict[str, Any]:
        """Return the plain form that is stored."""
        forms = {name: [[dict(sizes), time] for sizes, time in times.items()] for name, times in self.forms.items()}
        return {"dense": self.dense, "forms": forms}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "LayerTimes":
        """Rebuild times from :meth:`to_json`'s form."""
        forms = {name: {tuple(sizes.items()): time for sizes, time in times} for name, times in plain["forms"].items()}
        return cls(plain["dense"], forms)


@dataclass(frozen=True)
class LatencyTable:
    """What predicts a candidate's latency.

    Attributes:
        dense_ms: median time of the dense model's pass, milliseconds.
        layers: shape key -> times; see :func:`shape_key`.
        units: by name, those of several matrices among them.
        shapes: unit name -> shape key.
        fixed: share of the dense model's pass that no choice of ranks changes.
        slope: what a layer takes inside the model / alone.
        checks: (predicted, measured) shares of the whole models that were timed; each predicted from the others.
    """

    dense_ms: float
    layers: Mapping[str, LayerTimes]
    units: Mapping[str, Unit]
    shapes: Mapping[str, str]
    fixed: float
    slope: float
    checks: tuple[tuple[float, float], ...]

    def saving(self, unit: Unit, choice: Choice) -> float:
        """Return the milliseconds that one choice saves against the dense layer; negative where it is slower."""
        return self.slope * (self._dense(unit) - self._time(unit, choice)) * self.dense_ms

    def uncompressed_ms(self) -> float:
        """Return the predicted milliseconds of the model with every layer dense, and its rewrites."""
        return self.share(Candidate()) * self.dense_ms

    def share(self, candidate: Candidate) -> float:
        """Return a candidate's predicted time as a share of the dense model's."""
        chosen = {self.units[name]: choice for name, choice in candidate.choices if name in self.shapes}
        replaced = {name for unit in chosen for name in unit.modules}
        dense = [unit for unit in self.units.values() if not unit.matrices and unit.name not in replaced]
        alone = sum(map(self._dense, dense)) + sum(self._time(unit, choice) for unit, choice in chosen.items())
        return self.fixed + self.slope * alone

    def _time(self, unit: Unit, choice: Choice) -> float:
        return self.layers[self.shapes[unit.name]].at(unit, choice)

    def _dense(self, unit: Unit) -> float:
        """Return the time of a dense unit; that of several matrices is theirs together."""
        return sum(self.layers[self.shapes[name]].dense for name in unit.modules)

    def scaled(self, factor: float) -> "LatencyTable":
        """Return the table with every prediction multiplied by a factor."""
        return replace(self, fixed=self.fixed * factor, slope=self.slope * factor)

    @property
    def errors(self) -> np.ndarray:
        """(k,) |predicted / measured - 1| of the whole models that were timed."""
        table = np.array(self.checks)
        return np.asarray(np.abs(table[:, 0] / table[:, 1] - 1.0))

    def to_json(self) -> dict[str, Any]:
        """Return the plain form that is stored; units are left out, for whoever reads it has them."""
        return {
            "dense_ms": self.dense_ms,
            "layers": {shape: times.to_json() for shape, times in self.layers.items()},
            "shapes": dict(self.shapes),
            "fixed": self.fixed,
            "slope": self.slope,
            "checks": [list(pair) for pair in self.checks],
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any], units: Mapping[str, Unit]) -> "LatencyTable":
        """Rebuild a table from :meth:`to_json`'s form and the units it is of."""
        layers = {shape: LayerTimes.from_json(times) for shape, times in plain["layers"].items()}
        checks = tuple((predicted, measured) for predicted, measured in plain["checks"])
        return cls(plain["dense_ms"], layers, units, plain["shapes"], plain["fixed"], plain["slope"], checks)


def shape_key(unit: Unit, rows: int) -> str:
    """Return what decides a unit's time: its shape and how many vectors it multiplies.

    Example:
        >>> shape_key(Unit("a", "a", 0, 1, 6, 4), 256)
        '6x4 on 256'
    """
    return f"{unit.out_features}x{unit.in_features} on {rows}"


def fit(alone: Sequence[float] | np.ndarray, measured: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return (fixed, slope) of ``measured = fixed + slope · alone``, by least relative squares, neither below zero.

    Args:
        alone: sums of the layers' times alone.
        measured: times of the whole models; both as shares of the dense model's.

    Example:
        >>> [round(x, 6) for x in fit([0.1, 0.4, 0.8], [0.3, 0.6, 1.0])]
        [0.2, 1.0]
    """
    from scipy.optimize import nnls

    y = np.asarray(measured)
    A = np.column_stack([np.ones(len(y)), np.asarray(alone)]) / y[:, None]
    fixed, slope = nnls(A, np.ones(len(y)))[0]
    return float(fixed), float(slope)


def leave_one_out(alone: Sequence[float], measured: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """Return (predicted, measured) of each whole model, predicted by the fit to the others."""
    pairs = []
    for index, value in enumerate(measured):
        others = [i for i in range(len(measured)) if i != index]
        fixed, slope = fit([alone[i] for i in others], [measured[i] for i in others])
        pairs.append((fixed + slope * alone[index], value))
    return tuple(pairs)
