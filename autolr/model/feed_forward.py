"""Which matrices of a block are the two sides of one layer of neurons, found by what they do, not by name.

Neuron j of a feed-forward pair is row j of the matrix that makes it (of two matrices, where one gates the other) and
column j of the matrix that reads it; between them stands a function of each neuron by itself. That is tried out: one
neuron is left out of the first block, and the reading matrix must be fed the other neurons just as they were. Value
and output of an attention do not pass, for heads have a size; nor does a fused gate, whose halves are one matrix.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby

import torch
from torch import Tensor, nn

from autolr.model.record_calls import Batch, recorded, undisturbed
from autolr.model.units import unit_bias, unit_weight
from autolr.types import Unit

FEED_FORWARD = "feed-forward"
"""What the unit of such matrices is called, behind the name of their block."""
_MOST_MAKERS = 2
"""Matrices that make one layer of neurons: one, or one and its gate."""


def find_feed_forwards(model: nn.Module, units: Sequence[Unit], batch: Batch) -> tuple[Unit, ...]:
    """Return a unit of several matrices for each layer of neurons, in forward order.

    Args:
        model: in any mode; it is left as it was.
        units: its matrices.
        batch: tokenized inputs of a few short sequences.

    Returns:
        Units whose ``matrices`` are those that make the neurons, then the one that reads them.
    """
    found: list[Unit] = []
    with undisturbed(model), torch.no_grad():
        order = _called(model, units, batch)
        stacks: dict[str, list[tuple[str, ...]]] = {}
        for block, members in groupby(order, key=block_name):
            inside = {unit.name[len(block) + 1 :]: unit for unit in members}
            if next(iter(inside.values())).block < 0:
                continue
            stack = block.rpartition(".")[0]
            if stack not in stacks:
                stacks[stack] = list(_tried(model, inside, batch))
            for number, names in enumerate(stacks[stack]):
                if all(name in inside for name in names):
                    role = f"{FEED_FORWARD}.{number}" if len(stacks[stack]) > 1 else FEED_FORWARD
                    found.append(_joined(block, role, [inside[name] for name in names]))
    return tuple(found)


def block_name(unit: Unit) -> str:
    """Return the module name of the block that holds a unit; of one outside all blocks its own.

    Example:
        >>> block_name(Unit("h.0.attn.c_proj", "attn.c_proj", 0, 1, 8, 8))
        'h.0'
    """
    parts = unit.name.split(".")
    return ".".join(parts[: len(parts) - len(unit.role.split("."))]) or unit.name


def _joined(block: str, role: str, matrices: Sequence[Unit]) -> Unit:
    first, last = matrices[0], matrices[-1]
    return Unit(
        f"{block}.{role}",
        role,
        last.block,
        last.n_blocks,
        last.out_features,
        first.in_features,
        matrices=tuple(matrices),
    )


def _called(model: nn.Module, units: Sequence[Unit], batch: Batch) -> list[Unit]:
    """Return the units in the order of their first calls, blocks one after the other."""
    with recorded(model, units) as calls:
        _run(model, batch)
    return list({call.unit.name: call.unit for call in calls}.values())


def _tried(model: nn.Module, inside: Mapping[str, Unit], batch: Batch) -> Iterator[tuple[str, ...]]:
    """Yield the names within one block of the matrices that make and read a layer of neurons."""
    members = list(inside)
    for place, reader in enumerate(members):
        makers = [name for name in members[:place] if inside[name].out_features == inside[reader].in_features]
        for count in range(1, min(_MOST_MAKERS, len(makers)) + 1):
            names = (*makers[-count:], reader)
            if _neurons_are_apart(model, [inside[name] for name in names], batch):
                yield names
                break


def _neurons_are_apart(model: nn.Module, pair: Sequence[Unit], batch: Batch) -> bool:
    """Tell whether leaving out one neuron leaves the others as they are."""
    reader = pair[-1]
    stay = torch.arange(reader.in_features - 1)
    with recorded(model, [reader]) as calls:
        _run(model, batch)
    before = [call.x for call in calls]
    try:
        with _smaller(model, pair, stay), recorded(model, [reader]) as calls:
            _run(model, batch)
    except (RuntimeError, ValueError):  # a shape that does not fit: something counts on the number
        return False
    after = [call.x for call in calls]
    # Where a block runs several times, only its first call is fed the same in both.
    return bool(before) and torch.allclose(after[0], before[0][..., stay.to(before[0].device)], rtol=1e-3, atol=1e-4)


@contextmanager
def _smaller(model: nn.Module, pair: Sequence[Unit], stay: Tensor) -> Iterator[None]:
    """Run a block of code with fewer neurons."""
    dense = {unit.name: model.get_submodule(unit.name) for unit in pair}
    try:
        for unit in pair:
            weight, bias = unit_weight(model, unit), unit_bias(model, unit)
            index = stay.to(weight.device)
            reads = unit is pair[-1]
            small = nn.Linear(1, 1, bias=bias is not None, device=weight.device)
            small.weight = nn.Parameter(weight[:, index] if reads else weight[index], requires_grad=False)
            if bias is not None:
                small.bias = nn.Parameter(bias if reads else bias[index], requires_grad=False)
            model.set_submodule(unit.name, small)
        yield
    finally:
        for name, module in dense.items():
            model.set_submodule(name, module)


def _run(model: nn.Module, batch: Mapping[str, Tensor]) -> None:
    model(**{key: value for key, value in batch.items() if key != "labels"})
