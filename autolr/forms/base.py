"""What a unit becomes: the record that a form is, and what it is given."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from autolr.checkpoint.runtime.layers import CompressedLinear
from autolr.records import Choice, Sizes, Unit
from autolr.types import Method

REFERENCE_SHARE = 1 / 3
"""Share of the useful sizes where a curve is tied to a measurement (heuristic: the middle of the useful range)."""
ROUNDING = 1e-6
"""Share of a curve's largest error below which the error is rounding."""
N_TIMED = 12
"""Sizes at which each shape of layer is timed."""
Times = Mapping[Sizes, float]
"""The sizes of a form at which a layer was timed, and its times there."""


@dataclass(frozen=True)
class Matrix:
    """One dense matrix of a unit of several.

    Attributes:
        unit: its sizes and place.
        weight: (out, in), in the model's precision and on its device.
        bias: (out,); None where there is none.
        mean: E[x] of what it is fed in the calibration data, (in,) float64; None where it was not calibrated.
    """

    unit: Unit
    weight: Float[Tensor, "out in"]
    bias: Float[Tensor, " out"] | None = None
    mean: Float[Tensor, " in"] | None = None


@dataclass(frozen=True)
class Given:
    """What a form is made of. Of a unit of several matrices, what is said of one is said of the last.

    Attributes:
        unit: the dense layer's sizes and place.
        method: name of what decomposed it.
        decomposition: of ``weight``, to the break-even rank at least.
        weight: W, (out, in), in the model's precision and on its device.
        mean: E[x] of the calibration data, (in,) float64; None where the layer was not calibrated.
        bias: (out,); None where the dense layer has none.
        before: the other matrices of a unit of several, in their order.
    """

    unit: Unit
    method: str
    decomposition: Any  # a Decomposition, or what the method gives for its kind of unit
    weight: Float[Tensor, "out in"]
    mean: Float[Tensor, " in"] | None = None
    bias: Float[Tensor, " out"] | None = None
    before: tuple[Matrix, ...] = ()


class Form(ABC):
    """What a unit can become: subclass it, and register an instance in the entry-point group ``autolr.forms``.

    :func:`autolr.forms.conformance.check` states every law that a form must obey.

    Attributes:
        name: how it is named on the command line and in candidates.
        layer: the module that runs it; its ``kind`` is the form's name.
        sizes: its sizes' names, in the order in which choices have them, with what tables call them.
        scale: forms of one scale share the one divergence that is measured for each unit and method; the form of that
            name is measured where the study has it.
        methods: those that come with the form, for units of several matrices or tables; none: it is made by the study's
            methods.
        version: raised whenever its results change, so that what was measured of the old ones is not mistaken for them.
    """

    name: ClassVar[str]
    layer: ClassVar[type[CompressedLinear]]
    sizes: ClassVar[Mapping[str, str]]
    scale: ClassVar[str]
    methods: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1

    def applies(self, unit: Unit, method: Method) -> bool:
        """Tell whether a unit can become this by a method."""
        return unit.of == self.of and method.fits(unit) and (method.name in self.methods if self.methods else True)

    @property
    def of(self) -> str:
        """What it is a form of: a ``matrix``, the ``neurons`` of several, or an ``embedding``."""
        return "neurons" if self.methods else "matrix"

    @abstractmethod
    def options(self, given: Given, multiple: int) -> tuple[Sequence[Choice], np.ndarray]:
        """Return n choices, and (n,) their squared errors ``‖L (W − M) R‖²`` in the method's metric, float64.

        Args:
            given: the dense layer and its decomposition.
            multiple: sizes that hardware likes are multiples of it.
        """

    @abstractmethod
    def weights(self, unit: Unit, choice: Choice) -> int:
        """Return how many weights a choice stores, without the bias."""

    def multiplied(self, unit: Unit, choice: Choice) -> int:
        """Return how many of :meth:`weights` each vector is multiplied by: all, but for those that are looked up."""
        return self.weights(unit, choice)

    def bias_entries(self, unit: Unit, choice: Choice, biased: Set[str]) -> int:
        """Return how many entries the biases of a choice have.

        Args:
            unit: what it is a choice for.
            choice: of this form.
            biased: names of the dense matrices that have a bias.
        """
        return unit.out_features

    def index_bytes(self, unit: Unit, choice: Choice) -> int:
        """Return the bytes of what a choice stores beside weights and bias."""
        return 0

    @abstractmethod
    def build(self, given: Given, choice: Choice, like: Tensor) -> CompressedLinear:
        """Return the layer of a choice, with its weights, on the device and in the dtype of a tensor.

        Its output is exact on the mean input where one is given: the bias makes up for what was cut away.
        """

    def layers(self, given: Given, choice: Choice, like: Tensor) -> dict[str, CompressedLinear]:
        """Return the layer of a choice for each module that it replaces, by the module's name."""
        return {given.unit.name: self.build(given, choice, like)}

    def arguments(self, unit: Unit, choice: Choice) -> dict[str, int]:
        """Return the arguments that build the choice's layer, as its own ``sizes`` do."""
        return {"in_features": unit.in_features, "out_features": unit.out_features, **dict(choice.sizes)}

    def empty(self, unit: Unit, choice: Choice, like: Tensor) -> CompressedLinear:
        """Return the layer of a choice with any weights."""
        arguments: Any = self.arguments(unit, choice)
        return self.layer(**arguments, device=like.device, dtype=like.dtype)

    def empty_layers(self, unit: Unit, choice: Choice, like: Tensor) -> dict[str, CompressedLinear]:
        """Return the layer of a choice, with any weights, for each module that it replaces."""
        return {unit.name: self.empty(unit, choice, like)}

    def reference(self, unit: Unit, choices: Sequence[Choice], errors: np.ndarray) -> int:
        """Return the place of the choice whose divergence is measured to tie the curve to the scale of the loss.

        A third of the weights from which something is still cut away: beyond those the error is rounding, and so is the
        divergence.
        """
        sizes = np.array([self.weights(unit, choice) for choice in choices])
        useful = (errors > ROUNDING * errors.max(initial=0.0)) & (sizes > 0)
        if not useful.any():
            return 0
        wanted = REFERENCE_SHARE * min([unit.weights, *sizes[~useful & (sizes > 0)]])
        return int(np.where(useful, np.abs(sizes - wanted), np.inf).argmin())

    def more_references(self, unit: Unit, choices: Sequence[Choice]) -> tuple[tuple[int, ...], np.ndarray | None]:
        """Return the places of more choices to measure, and how much each counts for each choice.

        None, where the one of :meth:`reference` does for all.

        Args:
            unit: what they are choices for.
            choices: n of them, of all forms of a scale.

        Returns:
            k places, and (1 + k, n) shares of the reference and of these, which sum to 1 for each choice.
        """
        return (), None

    @abstractmethod
    def timed(self, unit: Unit) -> Sequence[Choice]:
        """Return the choices at which a layer of this shape is timed, from the smallest to the largest.

        None where no layer of this shape can have this form.
        """

    def time(self, unit: Unit, choice: Choice, times: Mapping[str, Times]) -> float:
        """Return the time of a choice, interpolated by its weights between those that were timed.

        Args:
            unit: of the layer's shape.
            choice: of this form.
            times: form -> times of such a layer; those of :attr:`scale` are among them.
        """
        timed = {self.weights(unit, Choice(self.name, "", sizes)): time for sizes, time in times[self.name].items()}
        return interpolated(self.weights(unit, choice), timed)

    def describe(self, choice: Choice) -> str:
        """Return a choice's sizes for a person."""
        return ", ".join(f"{self.sizes[name]} {value}" for name, value in choice.sizes)


def interpolated(place: int, times: Mapping[int, float]) -> float:
    """Return the time at a place, linearly between those that were timed, and as at the nearest end beyond them.

    Example:
        >>> interpolated(3, {4: 2.0, 2: 1.0})
        1.5
    """
    places = sorted(times)
    return float(np.interp(place, places, [times[at] for at in places]))
