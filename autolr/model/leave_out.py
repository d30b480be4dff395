"""A model run with some rows and columns of its matrices left out, to see what depends on them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from autolr.model.record_calls import Batch, recorded
from autolr.model.units import unit_bias, unit_weight
from autolr.types import Unit


def called(model: nn.Module, units: Sequence[Unit], batch: Batch) -> list[Unit]:
    """Return the units in the order of their first calls, blocks one after the other."""
    with recorded(model, units) as calls:
        run(model, batch)
    return list({call.unit.name: call.unit for call in calls}.values())


def others_unchanged(model: nn.Module, makers: Mapping[Unit, Tensor], reader: Unit, stay: Tensor, batch: Batch) -> bool:
    """Tell whether the inputs of a matrix that stay are as they were where what makes the others is left out.

    Args:
        model: in evaluation mode; it is left as it was.
        makers: matrices, and the rows of each that stay, rising.
        reader: the matrix whose inputs they make.
        stay: its inputs that stay, rising.
        batch: tokenized inputs of a few short sequences.
    """
    with recorded(model, [reader]) as calls:
        run(model, batch)
    before = [call.x for call in calls]
    try:
        with _left_out(model, makers, reader, stay), recorded(model, [reader]) as calls:
            run(model, batch)
    except (RuntimeError, ValueError):  # a shape that does not fit: something counts on the number
        return False
    if not before:
        return False
    # Where a block runs several times, only its first call is fed the same in both.
    after, wanted = calls[0].x, before[0][..., stay.to(before[0].device)]
    return after.shape == wanted.shape and torch.allclose(after, wanted, rtol=1e-3, atol=1e-4)


def run(model: nn.Module, batch: Mapping[str, Tensor]) -> None:
    """Run a batch; labels are not read."""
    model(**{key: value for key, value in batch.items() if key != "labels"})


@contextmanager
def _left_out(model: nn.Module, makers: Mapping[Unit, Tensor], reader: Unit, stay: Tensor) -> Iterator[None]:
    """Run a block of code with smaller matrices."""
    dense = {unit.name: model.get_submodule(unit.name) for unit in (*makers, reader)}
    try:
        for unit, places in (*makers.items(), (reader, stay)):
            weight, bias = unit_weight(model, unit), unit_bias(model, unit)
            index = places.to(weight.device)
            reads = unit is reader
            small = nn.Linear(1, 1, bias=bias is not None, device=weight.device)
            small.weight = nn.Parameter(weight[:, index] if reads else weight[index], requires_grad=False)
            if bias is not None:
                small.bias = nn.Parameter(bias if reads else bias[index], requires_grad=False)
            model.set_submodule(unit.name, small)
        yield
    finally:
        for name, module in dense.items():
            model.set_submodule(name, module)
