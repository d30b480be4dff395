"""Model + candidate -> compressed model, in place and back.

A trial slices cached factors, swaps modules, runs, and swaps the dense modules back: dense weights are shared by all
trials and never copied.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autolr.checkpoint.runtime.layers import LowRankLinear, LowRankRowsLinear
from autolr.errors import UsageError
from autolr.forms.gauge import balance
from autolr.model.units import unit_bias, unit_weight
from autolr.types import Candidate, Choice, Decomposition, Factors, Unit


@runtime_checkable
class DecompositionSource(Protocol):
    """Where decompositions and the layers' mean inputs come from: the bank, or a test's own."""

    def unit(self, name: str) -> Unit:
        """Return the unit of this name."""
        ...

    def decomposition(self, name: str, method: str) -> Decomposition:
        """Return a unit's decomposition by a method."""
        ...

    def mean(self, name: str) -> Float[Tensor, " in"] | None:
        """Return the unit's mean input, or None if it was not calibrated."""
        ...


def make_factors(
    choice: Choice,
    decomposition: Decomposition,
    weight: Float[Tensor, "out in"],
    mean: Float[Tensor, " in"] | None,
) -> Factors:
    """Slice a decomposition to a choice and correct the bias for the mean of what was cut away.

    The shift is ``(W − left·right) μ``: with it the layer is exact on its mean input. Kept rows take their dense
    weights, so their rows of ``left`` and of the shift are zero.

    Args:
        choice: rank and kept rows.
        decomposition: of ``weight``.
        weight: W, (out, in).
        mean: μ, (in,); None leaves the bias as it is.

    Returns:
        Contiguous factors, in the decomposition's dtype, on the weight's device.
    """
    left, right = (factor.contiguous().to(weight.device) for factor in decomposition.truncate(choice.rank))
    dense = weight.to(left.dtype)
    index = rows = None
    if choice.rows:
        index = decomposition.row_residuals(choice.rank).topk(choice.rows).indices.sort().values.to(weight.device)
        left = left.index_fill(0, index, 0.0)
        rows = dense[index].contiguous()
    if mean is None:
        return Factors(left, right, left.new_zeros(weight.shape[0]), index, rows)
    mu = mean.to(weight.device).double()
    shift = dense.double() @ mu - left.double() @ (right.double() @ mu)
    if index is not None:
        shift[index] = 0.0
    return Factors(left, right, shift.to(left.dtype), index, rows)


def make_layer(factors: Factors, bias: Float[Tensor, " out"] | None, like: Tensor) -> LowRankLinear:
    """Build the module that runs the factors, balanced, on the device and in the dtype of ``like``."""
    rank, in_features = factors.right.shape
    out_features = factors.left.shape[0]
    if factors.rows is None:
        layer = LowRankLinear(in_features, out_features, rank, like.device, like.dtype)
    else:
        n_rows = factors.rows.shape[0]
        layer = LowRankRowsLinear(in_features, out_features, rank, n_rows, like.device, like.dtype)
    full_bias = factors.shift if bias is None else factors.shift + bias.to(factors.shift)
    with torch.no_grad():
        if rank:
            left, right = balance(factors.left, factors.right)  # in their own precision, which may be higher
            layer.left.weight.copy_(left)
            layer.right.weight.copy_(right)
        layer.bias.copy_(full_bias)
        if isinstance(layer, LowRankRowsLinear):
            assert factors.rows is not None
            assert factors.row_index is not None
            layer.rows.weight.copy_(factors.rows)
            layer.row_index.copy_(factors.row_index)
    return layer.requires_grad_(like.requires_grad)


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
            unit = source.unit(name)
            module = model.get_submodule(name)
            if isinstance(module, LowRankLinear):
                raise UsageError(f"{name} is compressed already (rank {module.rank}); restore the dense module first")
            weight = unit_weight(model, unit)
            factors = make_factors(choice, source.decomposition(name, choice.method), weight, source.mean(name))
            layer = make_layer(factors, unit_bias(model, unit), module.weight)  # type: ignore[arg-type]
            dense[name] = module
            model.set_submodule(name, layer.train(module.training))
    except BaseException:
        restore_(model, dense)
        raise
    return dense


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
