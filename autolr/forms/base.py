"""What a unit becomes: the record that a form is, and what it is given."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import reduce
from operator import mul
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from autolr.checkpoint.runtime.layers import CompressedLinear
from autolr.records import Choice, Unit
from autolr.types import Method

REFERENCE_SHARE = 1 / 3
"""Share of the useful sizes where a curve is tied to a measurement (heuristic: the middle of the useful range)."""
ROUNDING = 1e-6
"""Share of a curve's largest error below which the error is rounding."""


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
        of: what it is a form of: see :attr:`autolr.records.Unit.of`.
        version: raised whenever its results change, so that what was measured of the old ones is not mistaken for them.
    """

    name: ClassVar[str]
    layer: ClassVar[type[CompressedLinear]]
    sizes: ClassVar[Mapping[str, str]]
    scale: ClassVar[str]
    methods: ClassVar[tuple[str, ...]] = ()
    of: ClassVar[str] = "matrix"
    version: ClassVar[int] = 1

    def applies(self, unit: Unit, method: Method) -> bool:
        """Tell whether a unit can become this by a method."""
        return (
            unit.of == self.of
            and method.fits(unit)
            and (method.name in self.methods if method.comes_with_form else not self.methods)
        )

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

    def products(self, unit: Unit, choice: Choice) -> Mapping[str, int]:
        """Return how often a choice multiplies by a weight for each vector, by the module whose vectors they are.

        Here once by each weight; a form that uses weights several times says so.
        """
        return {unit.modules[-1]: self.multiplied(unit, choice)}

    def attention(self, unit: Unit, choice: Choice) -> int:
        """Return, of a unit of attention, how many entries its query heads have together that are multiplied."""
        return unit.heads.groups * unit.heads.read if unit.heads else 0

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

    def turns(self, given: Given) -> Mapping[str, Float[Tensor, "groups width width"]]:
        """Return what the entries of heads are multiplied by before some of them are left out, by module."""
        return {}

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
        """Return the few choices at which a unit of this shape is timed: as many as it has :meth:`terms`, or more.

        None where no unit of this shape can have this form.
        """

    def terms(self, unit: Unit, choice: Choice) -> tuple[float, ...]:
        """Return amounts that the time of a choice is a weighted sum of, with weights fitted to the timed choices.

        Here a fixed part and one for each weight. None is negative, and neither are the fitted weights: whatever more
        work there is takes more time.
        """
        return 1.0, float(self.weights(unit, choice))

    def run(
        self,
        unit: Unit,
        layers: Mapping[str, nn.Module],
        inputs: Mapping[str, Tensor],
        activation: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Run the layers of a unit as the model does, which is what is timed.

        Here each matrix but the last is given its own input, and the last is given the product of what they make, with
        the activation of the first: a single matrix, or a feed-forward pair with or without a gate.

        Args:
            unit: of one matrix or several.
            layers: for each of its modules: those of a choice, or such as give an output and compute nothing, by which
                what lies between them is timed.
            inputs: of each matrix, (batch, positions, in); in a rewritten block some have fewer positions than others.
            activation: the model's between feed-forward layers; the identity where the first layer computes it too.
        """
        *makers, last = unit.matrices or (unit,)
        made = [layers[matrix.name](inputs[matrix.name]) for matrix in makers]
        made[:1] = map(activation, made[:1])
        output: Tensor = layers[last.name](reduce(mul, made) if made else inputs[last.name])
        return output

    def describe(self, choice: Choice) -> str:
        """Return a choice's sizes for a person."""
        return ", ".join(f"{self.sizes[name]} {value}" for name, value in choice.sizes)
