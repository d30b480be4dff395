"""Passes over the same batches in which one block after the other is changed: those before it need not run again.

What a block gives is kept from one pass of the dense model. In later passes every block before the one that is changed
answers from memory, so a pass costs what is left of it: on average half.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autolr.model.blocks import BlockCall
from autolr.model.groups import block_name
from autolr.types import Unit

MOST_KEPT = 2**30
"""Bytes of a stack's outputs that are kept; the blocks beyond run again."""


class BlockMemory:
    """What the blocks of a stack gave in a pass of the dense model.

    Attributes:
        unchanged: how many blocks, from the first, are those of the dense model; None while it is recorded.
    """

    def __init__(self) -> None:
        self.unchanged: int | None = None
        self._inputs: list[Tensor] = []
        self._outputs: dict[tuple[int, int], Any] = {}
        self._bytes = 0
        self._batch: int | None = None

    def answer(self, block: int, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what a block gives: from memory where it is unchanged and the stack was fed this before."""
        if block == 0:
            self._batch = self._place_of(BlockCall.of(args, kwargs)[0])
        if self._batch is None:
            return forward(*args, **kwargs)
        key = (self._batch, block)
        if self.unchanged is not None and block < self.unchanged and key in self._outputs:
            return _copied(self._outputs[key])
        output = forward(*args, **kwargs)
        if self.unchanged is None and self._bytes < MOST_KEPT:
            self._outputs[key] = _copied(output)
            self._bytes += sum(part.nbytes for part in _parts(output))
        return output

    def _place_of(self, hidden: Tensor) -> int | None:
        """Return the number of the batch with these hidden states; None if there is none, and it is not recorded."""
        place = next((place for place, other in enumerate(self._inputs) if torch.equal(other, hidden)), None)
        if place is None and self.unchanged is None:
            self._inputs.append(hidden.clone())
            return len(self._inputs) - 1
        return place


@dataclass(frozen=True)
class Memories:
    """The memories of a model's stacks, by the stacks' names."""

    of: Mapping[str, BlockMemory]

    def changing(self, unit: Unit) -> None:
        """Tell that in the passes that come this unit is changed, and nothing else; the dense model was recorded."""
        first = unit.matrices[0] if unit.matrices else unit
        stack = block_name(first).rpartition(".")[0]
        for name, memory in self.of.items():
            memory.unchanged = max(first.block, 0) if name == stack else 0


@contextmanager
def remembered(model: nn.Module, units: Sequence[Unit]) -> Iterator[Memories]:
    """Keep what the blocks give in the first pass of a block of code, which must be the dense model's.

    Args:
        model: modules inside its blocks may be replaced meanwhile; the blocks themselves may not.
        units: that will be changed, one at a time.
    """
    stacks = {block_name(matrix).rpartition(".")[0] for unit in units for matrix in unit.matrices or (unit,)}
    memories: dict[str, BlockMemory] = {}
    with ExitStack() as served:
        for name in sorted(stacks - {""}):
            stack = model.get_submodule(name)
            if isinstance(stack, nn.ModuleList) and len(set(stack)) == len(stack):
                memories[name] = BlockMemory()
                for place, block in enumerate(stack):
                    served.enter_context(_serving(block, place, memories[name]))
        yield Memories(memories)


@contextmanager
def _serving(block: Any, place: int, memory: BlockMemory) -> Iterator[None]:
    own, forward = vars(block).get("forward"), block.forward

    def answer(*args: Any, **kwargs: Any) -> Any:
        return memory.answer(place, forward, args, kwargs)

    block.forward = answer
    try:
        yield
    finally:
        if own is None:
            del block.forward
        else:
            block.forward = own


def _parts(output: Any) -> list[Tensor]:
    return [part for part in (output if isinstance(output, tuple) else (output,)) if isinstance(part, Tensor)]


def _copied(output: Any) -> Any:
    """Return an output that nobody else writes into."""
    if isinstance(output, tuple):
        return tuple(part.clone() if isinstance(part, Tensor) else part for part in output)
    return output.clone() if isinstance(output, Tensor) else output
