"""Units of several matrices that are changed together, looked for in the first block of each stack."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby

import torch
from torch import nn

from autolr.model.leave_out import called
from autolr.model.record_calls import Batch, undisturbed
from autolr.records import Heads
from autolr.types import Unit

Members = tuple[tuple[str, ...], Heads | None]
"""Names within a block of the matrices that go together, and how their entries fall into heads of attention."""
Tried = Callable[[nn.Module, Mapping[str, Unit], Batch], Iterable[Members]]
"""Finds such matrices among those of one block, which are given by their names in it and in the order of the pass."""


def find_groups(
    model: nn.Module, units: Sequence[Unit], batch: Batch, role: str, of: str, tried: Tried
) -> tuple[Unit, ...]:
    """Return a unit of several matrices for each place in each block where some go together, in forward order.

    Args:
        model: in any mode; it is left as it was.
        units: its matrices.
        batch: tokenized inputs of a few short sequences.
        role: what such a unit is called, behind the name of its block; numbered where a block has several.
        of: what such a unit is.
        tried: looks for them in the first block of each stack.
    """
    found: list[Unit] = []
    with undisturbed(model), torch.no_grad():
        order = called(model, units, batch)
        stacks: dict[str, list[Members]] = {}
        for block, members in groupby(order, key=block_name):
            inside = {unit.name[len(block) + 1 :]: unit for unit in members}
            if next(iter(inside.values())).block < 0:
                continue
            stack = block.rpartition(".")[0]
            if stack not in stacks:
                stacks[stack] = list(tried(model, inside, batch))
            several = len(stacks[stack]) > 1
            for number, (names, heads) in enumerate(stacks[stack]):
                if all(name in inside for name in names):
                    matrices = [inside[name] for name in names]
                    found.append(_joined(block, f"{role}.{number}" if several else role, matrices, of, heads))
    return tuple(found)


def block_name(unit: Unit) -> str:
    """Return the module name of the block that holds a unit; of one outside all blocks its own.

    Example:
        >>> block_name(Unit("h.0.attn.c_proj", "attn.c_proj", 0, 1, 8, 8))
        'h.0'
    """
    parts = unit.name.split(".")
    return ".".join(parts[: len(parts) - len(unit.role.split("."))]) or unit.name


def _joined(block: str, role: str, matrices: Sequence[Unit], of: str, heads: Heads | None) -> Unit:
    first, last = matrices[0], matrices[-1]
    return Unit(
        f"{block}.{role}",
        role,
        last.block,
        last.n_blocks,
        last.out_features,
        first.in_features,
        matrices=tuple(matrices),
        of=of,
        heads=heads,
    )
