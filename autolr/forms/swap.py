"""Model + candidate -> compressed model, in place and back.

A trial slices cached factors, swaps modules, runs, and swaps the dense modules back: dense weights are shared by all
trials and never copied.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from autolr.checkpoint.runtime.layers import CompressedLinear, is_compressed
from autolr.errors import UsageError
from autolr.forms import FORMS
from autolr.forms.base import Given, Matrix
from autolr.model.units import unit_bias, unit_weight
from autolr.types import Candidate, Choice, LayerStats, Unit


@runtime_checkable
class DecompositionSource(Protocol):
    """Where decompositions and the layers' mean inputs come from: the bank, or a test's own."""

    def unit(self, name: str) -> Unit:
        """Return the unit of this name."""
        ...

    def decomposition(self, name: str, method: str) -> Any:
        """Return what a method gives of a unit: a Decomposition, of several matrices an Elimination."""
        ...

    def mean(self, name: str) -> Float[Tensor, " in"] | None:
        """Return the unit's mean input, or None if it was not calibrated."""
        ...

    def stats(self, name: str) -> LayerStats | None:
        """Return what was measured of a matrix, or None if it was not calibrated."""
        ...


def given(model: nn.Module, source: DecompositionSource, name: str, method: str) -> Given:
    """Return what a form of a unit is made of.

    Args:
        model: the dense model.
        source: where decompositions and mean inputs come from.
        name: of the unit.
        method: of the decomposition.
    """
    unit = source.unit(name)
    *before, last = [_matrix(model, source, matrix) for matrix in unit.matrices or (unit,)]
    return Given(unit, method, source.decomposition(name, method), last.weight, last.mean, last.bias, tuple(before))


def _matrix(model: nn.Module, source: DecompositionSource, unit: Unit) -> Matrix:
    return Matrix(unit, unit_weight(model, unit), unit_bias(model, unit), source.mean(unit.name))


def build(model: nn.Module, source: DecompositionSource, name: str, choice: Choice) -> dict[str, CompressedLinear]:
    """Return the layers that a choice makes of a unit of a dense model, on its device and in its dtype."""
    like: Any = model.get_submodule(source.unit(name).modules[-1]).weight
    layers = FORMS.get(choice.form).layers(given(model, source, name, choice.method), choice, like)
    return {module: layer.requires_grad_(like.requires_grad) for module, layer in layers.items()}


def compress_(model: nn.Module, candidate: Candidate, source: DecompositionSource) -> dict[str, nn.Module]:
    """Replace the candidate's units in place.

    Args:
        model: the dense model; changed.
        candidate: what to replace by what.
        source: where the decompositions come from.

    Returns:
        The dense modules by name, for :func:`restore_`.

    Raises:
        UsageError: a unit is compressed already; the model is left as it was then, as after any other error.
    """
    dense: dict[str, nn.Module] = {}
    try:
        for name, choice in candidate.choices:
            for module_name in source.unit(name).modules:
                _check_dense(module_name, model.get_submodule(module_name))
            for module_name, layer in build(model, source, name, choice).items():
                module = model.get_submodule(module_name)
                dense[module_name] = module
                model.set_submodule(module_name, layer.train(module.training))
    except BaseException:
        restore_(model, dense)
        raise
    return dense


def _check_dense(name: str, module: nn.Module) -> None:
    if is_compressed(module):
        sizes = module.extra_repr()
        raise UsageError(f"{name} is compressed already ({module.kind}: {sizes}); restore the dense module first")


def restore_(model: nn.Module, dense: dict[str, nn.Module]) -> None:
    """Put the dense modules back."""
    for name, module in dense.items():
        model.set_submodule(name, module)


@contextmanager
def compressed(model: nn.Module, candidate: Candidate, source: DecompositionSource) -> Iterator[nn.Module]:
    """Run a block with the candidate in place; the dense modules are back afterwards, whatever happens."""
    dense = compress_(model, candidate, source)
    try:
        yield model
    finally:
        restore_(model, dense)
