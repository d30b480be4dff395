"""How the model calls the blocks of its stack, on all batches."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autolr.errors import UsageError
from autolr.model.blocks import BlockCall
from autolr.model.record_calls import Batch
from autolr.model.stack import Stack
from autolr.recovery.hidden_states import HiddenStates
from autolr.types import Unit


@dataclass(frozen=True)
class StackCalls:
    """The stack of blocks as the model runs it.

    Attributes:
        names: of the blocks that are run, in the order of the pass.
        states: what the first block is fed.
        calls: for each block its call on each batch.
        seen: for each block what it is fed in the first batch.
    """

    names: list[str]
    states: HiddenStates
    calls: list[list[BlockCall]]
    seen: list[Tensor]


def stack_calls(
    model: nn.Module, prefix: str, units: Sequence[Unit], batches: Sequence[Batch], states: HiddenStates
) -> StackCalls | None:
    """Record how every block of a stack is called, from the first to the last that holds one of the units.

    Where the blocks can be passed over, they run on the first batch alone; else on all.

    Args:
        model: in evaluation mode.
        prefix: name of the stack's ``ModuleList``.
        units: in its blocks.
        batches: tokenized inputs.
        states: takes what the first block is fed.

    Returns:
        None where a pass does not run every block once.
    """
    names = [f"{prefix}.{index}" for index in range(1 + max(unit.block for unit in units))]
    blocks = [model.get_submodule(name) for name in names]
    try:
        stack = Stack.of(model, units, batches[0])
    except UsageError:  # it cannot be run without its blocks
        stack = None
    calls: list[list[BlockCall]] = [[] for _ in names]
    seen: list[Tensor] = []
    for number, batch in enumerate(batches):
        passed = stack is not None and number > 0
        found = stack.calls(batch, len(names)) if stack is not None and passed else _run(model, blocks, batch)
        if [index for index, _, _ in found] != list(range(len(names))):
            return None
        states.append(found[0][1])
        seen = seen or [x for _, x, _ in found]
        for index, _, call in found:
            calls[index].append(call)
    return StackCalls(names, states, calls, seen)


def _run(model: nn.Module, blocks: Sequence[nn.Module], batch: Batch) -> list[tuple[int, Tensor, BlockCall]]:
    """Run the model and return the calls of some blocks in order, with the hidden states."""
    found: list[tuple[int, Tensor, BlockCall]] = []

    def record(index: int) -> Callable[..., None]:
        def hook(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.append((index, *BlockCall.of(args, kwargs)))

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for index, block in enumerate(blocks):
            hooks.callback(block.register_forward_pre_hook(record(index), with_kwargs=True).remove)
        model(**{key: value for key, value in batch.items() if key != "labels"})
    return found
