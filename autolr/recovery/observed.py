"""What the layers of one block are fed in the dense model, and what they answer there."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from autolr.model.blocks import BlockCall, Stop, stopping
from autolr.model.record_calls import Reads, by_token, live_positions
from autolr.recovery.hidden_states import HiddenStates
from autolr.types import Unit

MOST_KEPT = 2**30
"""Bytes of what is seen in a dense block, or of what the layers of a compressed one answer, that are kept while the
block is refitted; more is computed anew for each group of layers."""
INPUT = ""
"""Name of what a group is fed, among the answers of its layers."""
Targets = Mapping[str, Float[Tensor, "tokens features"]]
"""``INPUT`` -> what a group is fed in the dense model, and name of a layer -> what it answers, where that is wanted."""


@dataclass(frozen=True)
class Group:
    """Layers that are fed the same tensor, and of which the same positions are read: query, key and value.

    Attributes:
        units: the layers, by their names in the block, in the order of the pass.
        reads: positions of which the answers are read.
    """

    units: Mapping[str, Unit]
    reads: Reads

    @property
    def first(self) -> str:
        """The layer that runs first."""
        return next(iter(self.units))

    @property
    def wanted(self) -> dict[str, int]:
        """What is looked at -> its features: the layers' answers, or if that is less, what they follow from."""
        answers = {name: unit.out_features for name, unit in self.units.items()}
        given = self.units[self.first].in_features
        return answers if sum(answers.values()) < given else {INPUT: given}


def groups_of(
    block: nn.Module, inside: Mapping[str, Unit], reads: Mapping[str, Reads], call: BlockCall, hidden: Tensor
) -> tuple[list[Group], list[str]]:
    """Return the layers of a block in groups, in the order of the pass, and the parts that hold some and run once.

    Args:
        block: dense.
        inside: the layers, by their names in the block.
        reads: unit name -> positions of which its answers are read.
        call: of one batch.
        hidden: its hidden states.
    """
    order: list[tuple[str, Any]] = []
    parts = [name for name, _ in block.named_modules() if any(f"{inner}.".startswith(f"{name}.") for inner in inside)]
    with ExitStack() as hooks:
        for part in parts:

            def note(_module: nn.Module, args: tuple[Any, ...], part: str = part) -> None:
                order.append((part, args[0] if part in inside else None))

            hooks.callback(block.get_submodule(part).register_forward_pre_hook(note).remove)
        call.run(block, hidden)
    groups: list[dict[Reads, dict[str, Unit]]] = []
    before: Tensor | None = None
    for inner, x in order:
        if inner in inside:
            if x is not before:
                groups.append({})
            groups[-1].setdefault(reads[inside[inner].name], {})[inner] = inside[inner]
            before = x
    runs = Counter(part for part, _ in order)
    return [Group(units, positions) for same in groups for positions, units in same.items()], [
        part for part in parts if runs[part] == 1
    ]


@dataclass(frozen=True)
class DenseBlock:
    """A block of the dense model on all batches.

    Attributes:
        block: the module.
        groups: its layers that are compressed by any candidate.
        calls: of the block, on each batch.
        masks: of the real tokens, (batch, positions) each.
        states: what it is fed; once its outputs are there, what the next is fed.
        parts: names in the block of what holds some of these layers, and is run once in a pass.
        kept: for each batch and group what is seen; empty where that is too much.
    """

    block: nn.Module
    groups: Sequence[Group]
    calls: Sequence[BlockCall]
    masks: Sequence[Tensor]
    states: HiddenStates
    parts: Sequence[str]
    kept: list[Sequence[Targets]]

    def keeps(self) -> bool:
        """Tell whether what is seen in all batches is little enough to be kept."""
        size = 0
        for group in self.groups:
            tokens = sum(int(live_positions(mask, group.reads).sum()) for mask in self.masks)
            size += 4 * tokens * sum(group.wanted.values())
        return size <= MOST_KEPT

    def answer_bytes(self) -> int:
        """Return what the answers of all its layers on all batches take."""
        positions = sum(mask.numel() for mask in self.masks)
        features = sum(unit.out_features for group in self.groups for unit in group.units.values())
        return positions * features * self.states[0].element_size()

    def run(self, look: bool) -> None:
        """Put the block's outputs in the place of what it is fed, and keep what is seen meanwhile if so asked."""
        for number, call in enumerate(self.calls):
            with ExitStack() as hooks:
                mask = self.masks[number]
                seen = [hooks.enter_context(_seen(self.block, group, mask)) for group in self.groups if look]
                self.states[number] = call.run(self.block, self.states[number])
            if look:
                self.kept.append(seen)

    def targets(self, number: int, place: int) -> Targets:
        """Return what is seen of a group in a batch."""
        if self.kept:
            return self.kept[number][place]
        with _seen(self.block, self.groups[place], self.masks[number], stops=True) as seen, stopping():
            self.calls[number].run(self.block, self.states[number])
        return seen


@contextmanager
def _seen(block: nn.Module, group: Group, mask: Tensor, stops: bool = False) -> Iterator[dict[str, Tensor]]:
    """Look at a group while a block of code runs, which may be stopped when all was seen."""
    seen: dict[str, Tensor] = {}
    wanted = group.wanted

    def see(name: str, tensor: Tensor) -> None:
        seen[name] = live_tokens(tensor, mask, group.reads)
        if stops and len(seen) == len(wanted):
            raise Stop

    def before(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        see(INPUT, args[0])

    with ExitStack() as hooks:
        if INPUT in wanted:
            hooks.callback(block.get_submodule(group.first).register_forward_pre_hook(before).remove)
        for name in wanted.keys() - {INPUT}:

            def after(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                see(name, output)

            hooks.callback(block.get_submodule(name).register_forward_hook(after).remove)
        yield seen


def fed(block: nn.Module, name: str, call: BlockCall, hidden: Tensor) -> Tensor:
    """Run a block until one of its layers and return what that is fed."""
    found: list[Tensor] = []

    def before(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        found.append(args[0])
        raise Stop

    hook = block.get_submodule(name).register_forward_pre_hook(before)
    try:
        with stopping():
            call.run(block, hidden)
    finally:
        hook.remove()
    return found[0]


def live_tokens(tensor: Tensor, mask: Tensor, reads: Reads) -> Float[Tensor, "tokens features"]:
    """Return the rows of a layer's input or output whose answer is read, float32."""
    by_position = by_token(tensor, mask)
    whole = mask.any(1, keepdim=True)  # one position for a layer that runs once a sequence
    return by_position[live_positions(mask if by_position.shape[1] == mask.shape[1] else whole, reads)].float()
