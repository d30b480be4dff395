"""A model run with some of its matrices replaced, to see what depends on them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from autolr.model.record_calls import Batch, recorded
from autolr.model.units import unit_bias, unit_weight
from autolr.types import Unit

Affine = tuple[Tensor, Tensor | None]
"""A weight (out, in), and a bias (out,) or none."""


def called(model: nn.Module, units: Sequence[Unit], batch: Batch) -> list[Unit]:
    """Return the units in the order of their first calls, blocks one after the other."""
    with recorded(model, units) as calls:
        _run(model, batch)
    return list({call.unit.name: call.unit for call in calls}.values())


def fed(model: nn.Module, reader: Unit, batch: Batch, replaced: Mapping[Unit, Affine] | None = None) -> Tensor | None:
    """Return what a matrix is fed in its first call, where others may be replaced.

    Args:
        model: in evaluation mode; it is left as it was.
        reader: the matrix.
        batch: tokenized inputs of a few short sequences.
        replaced: matrices, and what stands in their places.

    Returns:
        Its input; None where a shape does not fit or it is not called. Where a block runs several times, only the first
        call is fed the same whatever comes behind it.
    """
    try:
        with _replaced(model, replaced or {}), recorded(model, [reader]) as calls:
            _run(model, batch)
    except (RuntimeError, ValueError):  # a shape that does not fit: something counts on the number
        return None
    return calls[0].x if calls else None


def others_unchanged(model: nn.Module, makers: Mapping[Unit, Tensor], reader: Unit, stay: Tensor, batch: Batch) -> bool:
    """Tell whether the inputs of a matrix that stay are as they were where what makes the others is left out.

    Args:
        model: in evaluation mode; it is left as it was.
        makers: matrices, and the rows of each that stay, rising.
        reader: the matrix whose inputs they make.
        stay: its inputs that stay, rising.
        batch: tokenized inputs of a few short sequences.
    """
    smaller: dict[Unit, Affine] = {}
    for unit, places in makers.items():
        weight, bias = affine(model, unit)
        index = places.to(weight.device)
        smaller[unit] = weight[index], None if bias is None else bias[index]
    weight, bias = affine(model, reader)
    smaller[reader] = weight[:, stay.to(weight.device)], bias
    before, after = fed(model, reader, batch), fed(model, reader, batch, smaller)
    return before is not None and alike(after, before[..., stay.to(before.device)])


def affine(model: nn.Module, unit: Unit) -> Affine:
    """Return a matrix and its bias."""
    return unit_weight(model, unit), unit_bias(model, unit)


def alike(one: Tensor | None, other: Tensor | None) -> bool:
    """Tell whether two tensors are equal but for rounding; what is missing is like nothing."""
    if one is None or other is None or one.shape != other.shape:
        return False
    return torch.allclose(one, other, rtol=1e-3, atol=1e-4)


def _run(model: nn.Module, batch: Mapping[str, Tensor]) -> None:
    model(**{key: value for key, value in batch.items() if key != "labels"})


@contextmanager
def _replaced(model: nn.Module, replaced: Mapping[Unit, Affine]) -> Iterator[None]:
    dense = {unit.name: model.get_submodule(unit.name) for unit in replaced}
    try:
        for unit, (weight, bias) in replaced.items():
            linear = nn.Linear(1, 1, bias=bias is not None, device=weight.device)
            linear.weight = nn.Parameter(weight, requires_grad=False)
            if bias is not None:
                linear.bias = nn.Parameter(bias, requires_grad=False)
            model.set_submodule(unit.name, linear)
        yield
    finally:
        for name, module in dense.items():
            model.set_submodule(name, module)
