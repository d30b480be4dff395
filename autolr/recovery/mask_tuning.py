"""Masks of heads and neurons tuned in the compressed model, layer by layer, by linear least squares.

A record of masks scales what stays for the inputs that the dense model gives (:mod:`autolr.methods.masks`). Here each
layer that reads heads or neurons is taken in the order of the pass, on what the layers before it, tuned already, make
of the data. It is scaled so that the sum of its output and of what that is added to is nearest to the dense model's;
its bias is such that the mean is met. So errors of earlier layers are made up for as far as scales can. All else stays.

Source: Kwon et al. 2022 (arXiv 2204.09656), section 3.4. Other than published, the normal equations are solved
directly, drawn to the scales there were by ``RIDGE``, rather than by LSMR; and biases are not left as they were.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autolr.bank import matrices_of, reader
from autolr.cost.forward import shared_copy
from autolr.forms.masked_heads import NAME as MASKED_HEADS
from autolr.forms.masked_neurons import NAME as MASKED_NEURONS
from autolr.forms.swap import DecompositionSource, build
from autolr.methods.masks import RIDGE, by_mask, solved
from autolr.model.blocks import BlockCall
from autolr.model.groups import block_name
from autolr.model.record_calls import Batch, token_mask
from autolr.recovery.base import Recovery
from autolr.recovery.hidden_states import HiddenStates, Room
from autolr.recovery.moments import Moments
from autolr.recovery.observed import live_tokens
from autolr.recovery.output_sum import see_output
from autolr.recovery.refit import REFIT
from autolr.recovery.regression import Correction, LayerMoments, Refitted, correct, fitted_part
from autolr.recovery.stack_calls import StackCalls, stack_calls
from autolr.statistics.calibrate import positions_read
from autolr.types import Candidate, Unit

VERSION = 1
_MASKED = (MASKED_HEADS, MASKED_NEURONS)
_TARGET = "target"


@torch.no_grad()
def tune(
    model: nn.Module,
    candidate: Candidate,
    source: DecompositionSource,
    batches: Sequence[Batch],
    tick: Callable[[float], None] = lambda _: None,
) -> dict[str, Correction]:
    """Tune the masks of a candidate.

    Args:
        model: the dense model, in evaluation mode; it is left as it was.
        candidate: what is compressed.
        source: where the records come from.
        batches: tokenized calibration data with ``attention_mask``; labels are not read.
        tick: told the share of the work done, in [0, 1].

    Returns:
        Name of a layer -> correction. Empty where no block has masked heads or neurons, or the blocks cannot be run one
        after the other: several stacks, blocks that are run twice, or something that stands between two.
    """
    units = {name: source.unit(name) for name, _ in candidate.choices}
    inside = [matrix for unit in units.values() for matrix in matrices_of(unit) if matrix.block >= 0]
    masked = {reader(units[name]): units[name].heads for name, choice in candidate.choices if choice.form in _MASKED}
    stacks = {block_name(matrix).rpartition(".")[0] for matrix in inside}
    if not masked or len(stacks) != 1:
        return {}
    stack = stack_calls(model, stacks.pop(), inside, batches, HiddenStates(Room()))
    if stack is None:
        return {}
    widths = {unit: heads.read if heads else 1 for unit, heads in masked.items()}
    tuning = _Tuning(model, candidate, source, stack, batches, widths)
    found: dict[str, Correction] = {}
    for index in range(len(stack.names)):
        if not tuning.follows(index):
            return {}
        found |= tuning.block(index)
        tick((index + 1) / len(stack.names))
    return found


def scaled(layer: Refitted, moments: LayerMoments, width: int) -> Correction:
    """Return a layer's columns scaled so that its output is nearest to what it is to answer.

    Args:
        layer: as it is.
        moments: of what it is fed, with what it is to answer.
        width: columns that have a scale in common.
    """
    weight = fitted_part(layer)
    gram = by_mask((weight.mT @ weight) * moments.covariance, width)
    cross = (weight * moments.cross).sum(0).view(-1, width).sum(1)
    change = solved(gram, cross - gram.sum(1), RIDGE * gram.diagonal().mean())
    matrix = weight * (1.0 + change).repeat_interleave(width)
    like: Tensor = next(layer.parameters())
    return Correction(matrix.to(like), None, (moments.offset - matrix @ moments.mean).to(like))


@dataclass
class _Tuning:
    """The dense and the compressed model side by side, block by block.

    Attributes:
        model: the dense model.
        candidate: what is compressed.
        source: where the records come from.
        stack: the blocks and their calls; its states are what the dense model's next block is fed.
        batches: tokenized data.
        widths: of the masks of each layer that reads some.
    """

    model: nn.Module
    candidate: Candidate
    source: DecompositionSource
    stack: StackCalls
    batches: Sequence[Batch]
    widths: Mapping[Unit, int]

    def __post_init__(self) -> None:
        self.states = self.stack.states.copy()  # of the compressed model
        self.masks = [token_mask(batch) for batch in self.batches]
        self.reads = positions_read(self.model, list(self.widths), self.batches[0])

    def follows(self, index: int) -> bool:
        """Tell whether a block is fed what the one before it gave."""
        return torch.allclose(self.stack.states[0], self.stack.seen[index], rtol=1e-3, atol=1e-3)

    def block(self, index: int) -> dict[str, Correction]:
        """Tune the masks of a block, and run it in both models."""
        name, calls = self.stack.names[index], self.stack.calls[index]
        dense, small = self.model.get_submodule(name), self._small(name)
        inside = {unit.name.removeprefix(f"{name}."): unit for unit in self.widths if block_name(unit) == name}
        found = {}
        for inner in _in_order(dense, list(inside), calls[0], self.stack.states[0]):
            unit, layer = inside[inner], small.get_submodule(inner)
            assert isinstance(layer, Refitted)
            found[unit.name] = scaled(layer, self._moments(inner, unit, dense, small, calls), self.widths[unit])
            correct(layer, found[unit.name])
        for number, call in enumerate(calls):
            self.stack.states[number] = call.run(dense, self.stack.states[number])
            self.states[number] = call.run(small, self.states[number])
        return found

    def _small(self, name: str) -> nn.Module:
        """Return a block of the compressed model."""
        block = shared_copy(self.model.get_submodule(name))
        for unit, choice in self.candidate.choices:
            if block_name(matrices_of(self.source.unit(unit))[0]) == name:
                for module, layer in build(self.model, self.source, unit, choice).items():
                    block.set_submodule(module.removeprefix(f"{name}."), layer.eval())
        return block

    def _moments(
        self, inner: str, unit: Unit, dense: nn.Module, small: nn.Module, calls: Sequence[BlockCall]
    ) -> LayerMoments:
        """Return the moments of what a layer is fed, with what it would have to give to make the sum the dense one."""
        total = Moments()
        for number, call in enumerate(calls):
            wanted = see_output(dense, inner, call, self.stack.states[number])
            seen = see_output(small, inner, call, self.states[number])
            target = wanted.output + (wanted.beside - seen.beside)
            mask, reads = self.masks[number], self.reads[unit.name]
            total.add(live_tokens(seen.fed, mask, reads), {_TARGET: live_tokens(target, mask, reads)})
        covariance, cross = total.covariance, total.cross(_TARGET)
        return LayerMoments(total.n_tokens, covariance, cross, total.fed_mean, total.mean(_TARGET))


def _in_order(block: nn.Module, inside: Sequence[str], call: BlockCall, hidden: Tensor) -> list[str]:
    """Return the layers in the order of the pass."""
    order: list[str] = []
    hooks = [
        block.get_submodule(name).register_forward_hook(lambda *_, name=name: order.append(name)) for name in inside
    ]
    try:
        call.run(block, hidden)
    finally:
        for hook in hooks:
            hook.remove()
    return order


def _compute(
    model: nn.Module,
    candidate: Candidate,
    source: DecompositionSource,
    batches: Sequence[Batch],
    tick: Callable[[float], None],
) -> dict[str, Tensor]:
    found = tune(model, candidate, source, batches, tick)
    parts = {name: {"left": each.left, "bias": each.bias} for name, each in found.items()}
    return {f"{name}/{part}": t for name, own in parts.items() for part, t in own.items() if t is not None}


MASK_TUNING = Recovery(
    name="mask-tuning",
    version=VERSION,
    help="scale the heads and neurons that stay, layer by layer, to what the dense model computes there",
    did="scaled by least squares",
    compute=_compute,
    apply=REFIT.apply,
    examples=1024,
)
