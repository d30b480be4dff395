"""The time of a forward pass, predicted from times measured on the target.

Two measurements are put together. Alone: each shape of layer that the model has, dense and at a few sizes of each form,
on as many vectors as it multiplies in one pass. A form says what its time is a weighted sum of
(:meth:`autolr.forms.base.Form.terms`), and the weights are fitted. What lies between the matrices of a unit of several,
an activation or attention, is timed by itself, for it goes or shrinks with them. Together: whole models with random
sizes, timed in turn with the dense one. With ``L`` the sum of the layers' times alone, a pass takes
``fixed + slope · L``: what is not a layer (normalisation, embeddings, head) is in ``fixed``, and ``slope`` is what a
layer takes among others rather than alone.

Everything is a share of the dense model's time, measured in the same round, so that a clock that drifts between the
measurements cancels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autolr.forms import FORMS
from autolr.types import Candidate, Choice, Unit


@dataclass(frozen=True)
class LayerTimes:
    """Times of one shape of unit alone, as shares of the dense model's pass.

    Attributes:
        dense: of the dense unit; of one of several matrices, of what lies between these alone.
        forms: form -> weight of each of its terms.
    """

    dense: float
    forms: Mapping[str, tuple[float, ...]]

    @classmethod
    def fitted(cls, unit: Unit, dense: float, timed: Mapping[Choice, float]) -> "LayerTimes":
        """Return times whose terms are fitted to those of the choices that were timed.

        Args:
            unit: of the shape.
            dense: its time.
            timed: choice -> its time, as a share of the dense model's pass.
        """
        forms = {}
        for name in dict.fromkeys(choice.form for choice in timed):
            choices = [choice for choice in timed if choice.form == name]
            terms = [FORMS.get(name).terms(unit, choice) for choice in choices]
            forms[name] = tuple(map(float, fit(terms, [timed[choice] for choice in choices])))
        return cls(dense, forms)

    def at(self, unit: Unit, choice: Choice) -> float:
        """Return the time of a choice for a unit of this shape."""
        terms = FORMS.get(choice.form).terms(unit, choice)
        return sum(weight * term for weight, term in zip(self.forms[choice.form], terms, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Return the plain form that is stored."""
        return {"dense": self.dense, "forms": {name: list(weights) for name, weights in self.forms.items()}}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "LayerTimes":
        """Rebuild times from :meth:`to_json`'s form."""
        return cls(plain["dense"], {name: tuple(weights) for name, weights in plain["forms"].items()})


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
        """Return the milliseconds that one choice saves against the dense unit; negative where it is slower."""
        return self.slope * self._saved(unit, choice) * self.dense_ms

    def uncompressed_ms(self) -> float:
        """Return the predicted milliseconds of the model with every layer dense, and its rewrites."""
        return self.share(Candidate()) * self.dense_ms

    def share(self, candidate: Candidate) -> float:
        """Return a candidate's predicted time as a share of the dense model's."""
        return self.fixed + self.slope * self.alone(candidate)

    def alone(self, candidate: Candidate) -> float:
        """Return the sum of a candidate's layers' times alone, as a share of the dense model's pass."""
        dense = sum(self.layers[shape].dense for name, shape in self.shapes.items() if not self.units[name].matrices)
        return dense - sum(self._saved(self.units[name], choice) for name, choice in candidate.choices)

    def _saved(self, unit: Unit, choice: Choice) -> float:
        """Return what a choice takes less than the dense unit: its matrices, and what lies between them.

        What lies between them is timed by itself: as a difference of large times it would be lost in their scatter.
        """
        dense = sum(self.layers[self.shapes[name]].dense for name in dict.fromkeys((unit.name, *unit.modules)))
        return dense - self.layers[self.shapes[unit.name]].at(unit, choice)

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


def fit(terms: Sequence[Sequence[float]] | np.ndarray, measured: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the weights of ``measured = terms · weights``, by least relative squares, none below zero.

    Args:
        terms: (n, k), what each time is a weighted sum of.
        measured: (n,) times, above zero.

    Returns:
        (k,) float64.

    Example:
        >>> fit([[1, 0.1], [1, 0.4], [1, 0.8]], [0.3, 0.6, 1.0]).round(6).tolist()
        [0.2, 1.0]
    """
    from scipy.optimize import nnls

    A = np.asarray(terms, dtype=np.float64) / np.asarray(measured)[:, None]
    scale = np.maximum(A.max(axis=0), np.finfo(np.float64).tiny)  # so that a rank and a number of weights weigh alike
    return np.asarray(nnls(A / scale, np.ones(len(A)))[0] / scale)


def leave_one_out(
    terms: Sequence[Sequence[float]] | np.ndarray, measured: Sequence[float]
) -> tuple[tuple[float, float], ...]:
    """Return (predicted, measured) of each time, predicted by the fit to the others."""
    pairs = []
    for index, value in enumerate(measured):
        others = [i for i in range(len(measured)) if i != index]
        weights = fit([terms[i] for i in others], [measured[i] for i in others])
        pairs.append((float(np.dot(terms[index], weights)), value))
    return tuple(pairs)
