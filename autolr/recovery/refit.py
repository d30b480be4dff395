"""Compensation after truncation: every compressed layer refitted, in order, to what the dense model computes there.

A layer's factors were chosen for the inputs that the dense model feeds it. In the compressed model it is fed something
else: what the compressed layers before it make of the data. So its matrices and its bias are fitted to the outputs of
the dense layer on its own inputs, at the rank or on the neurons that it has: :mod:`autolr.recovery.regression`. Which
method found the factors matters no more after that, but for the sizes that were chosen by it.

Layers are taken in the order of the pass, so each makes up for what those before it lost; those fed the same tensor
(query, key, value) together. Kept rows, dense layers and those of other forms stay as they are. The cost is one pass of
the dense model over the data, which several candidates share, and for each candidate a pass of its own, the moments of
what its layers are fed, and a decomposition of each.

Source: the least-squares update of SVD-LLM (Wang et al. 2024, arXiv 2403.07378), taken towards the dense model's
outputs rather than the dense layer's on the same inputs (measured: the same or a little better).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from autolr.errors import UsageError
from autolr.forms.swap import DecompositionSource
from autolr.model.groups import block_name
from autolr.model.record_calls import Batch, Reads, token_mask
from autolr.recovery.base import Recovery
from autolr.recovery.block_refit import SmallBlock
from autolr.recovery.hidden_states import HiddenStates, Room
from autolr.recovery.observed import DenseBlock, groups_of
from autolr.recovery.regression import Correction, correct
from autolr.recovery.stack_calls import StackCalls, stack_calls
from autolr.statistics.calibrate import positions_read
from autolr.types import Candidate, Choice, Unit

VERSION = 3
"""Of what a refit computes: corrections kept on disk belong to one."""


def refit(
    model: nn.Module,
    candidate: Candidate,
    source: DecompositionSource,
    batches: Sequence[Batch],
    progress: Callable[[float], None] = lambda _: None,
) -> dict[str, Correction]:
    """Refit a candidate's layers.

    Args:
        model: the dense model, in evaluation mode; it is left as it was.
        candidate: what is compressed. Layers outside the repeated blocks are not refitted.
        source: where the decompositions come from.
        batches: tokenized calibration data with ``attention_mask``; labels are not read.
        progress: told the share of the work done, in [0, 1].

    Returns:
        Unit name -> correction. Empty where nothing in the blocks is compressed, where a pass runs a block more than
        once (blocks that share their weights), or where something stands between two blocks.

    Raises:
        UsageError: there are no batches.
        AutolrError: a refitted layer is not finite, or hidden states fit neither into memory nor on the disk.
    """
    [found] = refit_together(model, [candidate], source, batches, progress)
    return found


@torch.no_grad()
def refit_together(
    model: nn.Module,
    candidates: Sequence[Candidate],
    source: DecompositionSource,
    batches: Sequence[Batch],
    progress: Callable[[float], None] = lambda _: None,
) -> list[dict[str, Correction]]:
    """Refit several candidates, each as :func:`refit` does; what the dense model computes is computed once.

    Args:
        model: as of :func:`refit`, like the rest.
        candidates: what is compressed.
        source: where the decompositions come from.
        batches: tokenized calibration data.
        progress: told the share of the work done, in [0, 1].

    Returns:
        The corrections of each candidate.

    Raises:
        UsageError: there are no batches.
        AutolrError: a refitted layer of any is not finite, or hidden states fit neither into memory nor on the disk.
    """
    if not batches:
        raise UsageError("refitting needs at least one batch of calibration data, got none")
    each = [_Refitting.of(candidate, source) for candidate in candidates]
    stacks = {next(iter(one.stacks)) for one in each if len(one.stacks) == 1}
    for stack in sorted(stacks):
        _refit_stack(model, stack, [one for one in each if one.stacks == {stack}], source, batches, progress)
    return [one.found for one in each]


@dataclass
class _Refitting:
    """A candidate at work.

    Attributes:
        choices: block name -> what becomes of the units in it, by their names.
        units: block name -> their matrices.
        found: what was corrected.
        states: what the compressed model's next block is fed; None while that is what the dense one's is.
    """

    choices: dict[str, dict[str, Choice]]
    units: dict[str, list[Unit]]
    found: dict[str, Correction] = field(default_factory=dict)
    states: HiddenStates | None = None

    @classmethod
    def of(cls, candidate: Candidate, source: DecompositionSource) -> "_Refitting":
        choices: dict[str, dict[str, Choice]] = {}
        units: dict[str, list[Unit]] = {}
        for name, choice in candidate.choices:
            unit = source.unit(name)
            matrices = unit.matrices or (unit,)
            if matrices[0].block >= 0:
                block = block_name(matrices[0])
                choices.setdefault(block, {})[name] = choice
                units.setdefault(block, []).extend(matrices)
        return cls(choices, units)

    @property
    def stacks(self) -> set[str]:
        """Names of the stacks that hold its blocks."""
        return {name.rpartition(".")[0] for name in self.choices}


def _refit_stack(
    model: nn.Module,
    name: str,
    each: Sequence[_Refitting],
    source: DecompositionSource,
    batches: Sequence[Batch],
    progress: Callable[[float], None],
) -> None:
    """Refit candidates whose blocks are in one stack, block by block."""
    units = list({unit.name: unit for one in each for inside in one.units.values() for unit in inside}.values())
    stack = stack_calls(model, name, units, batches, HiddenStates(Room()))
    if stack is None:
        return
    reads = positions_read(model, units, batches[0])
    masks = [token_mask(batch) for batch in batches]
    for index, block in enumerate(stack.names):
        if not torch.allclose(stack.states[0], stack.seen[index], rtol=1e-3, atol=1e-3):
            for one in each:  # something stands before this block: what was found rests on other inputs
                if any(later in one.choices for later in stack.names[index:]):
                    one.found.clear()
            return
        dense = _dense_block(model, stack, index, units, reads, masks)

        def tick(share: float, index: int = index) -> None:
            progress((index + share) / len(stack.names))

        _refit_block(model, dense, block, each, source, tick, index + 1 == len(stack.names))
    progress(1.0)


def _dense_block(
    model: nn.Module,
    stack: StackCalls,
    index: int,
    units: Sequence[Unit],
    reads: Mapping[str, Reads],
    masks: Sequence[Tensor],
) -> DenseBlock:
    """Return a block of the dense model, fed what the stack's states are."""
    block, name = model.get_submodule(stack.names[index]), stack.names[index]
    inside = {unit.name.removeprefix(f"{name}."): unit for unit in units if block_name(unit) == name}
    groups, parts = groups_of(block, inside, reads, stack.calls[index][0], stack.states[0])
    return DenseBlock(block, groups, stack.calls[index], masks, stack.states, parts, [])


def _refit_block(
    model: nn.Module,
    dense: DenseBlock,
    name: str,
    each: Sequence[_Refitting],
    source: DecompositionSource,
    progress: Callable[[float], None],
    last: bool,
) -> None:
    """Refit one block of every candidate; unless it is the last one, what both models make of the data is passed on.

    What is seen in the dense block is kept for all candidates, so that it runs once; where that is too much, it runs
    again for each of their groups of layers, and before its outputs take the place of what it is fed.
    """
    for one in each:
        if one.states is None and name in one.choices:
            one.states = dense.states.copy()
    keeps = dense.keeps()
    if keeps:
        dense.run(look=True)
    for done, one in enumerate(each):

        def tick(share: float, done: int = done) -> None:
            progress((done + share) / len(each))

        if one.states is not None:
            small = SmallBlock(model, source, dense, f"{name}.", one.choices.get(name, {}))
            one.found |= small.refit(one.states, tick)
            if not last:
                small.run(one.states)
            small.memory.forget()
    if not keeps and not last:
        dense.run(look=False)


def _compute_together(
    model: nn.Module,
    candidates: Sequence[Candidate],
    source: DecompositionSource,
    batches: Sequence[Batch],
    tick: Callable[[float], None],
) -> list[dict[str, Tensor]]:
    return [
        {
            f"{name}/{part}": tensor
            for name, correction in corrections.items()
            for part, tensor in vars(correction).items()
            if tensor is not None
        }
        for corrections in refit_together(model, candidates, source, batches, tick)
    ]


def _compute(
    model: nn.Module,
    candidate: Candidate,
    source: DecompositionSource,
    batches: Sequence[Batch],
    tick: Callable[[float], None],
) -> dict[str, Tensor]:
    [tensors] = _compute_together(model, [candidate], source, batches, tick)
    return tensors


def _apply(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    for name in (key.removesuffix("/left") for key in tensors if key.endswith("/left")):
        layer: Any = model.get_submodule(name)
        right, bias = tensors.get(f"{name}/right"), tensors.get(f"{name}/bias")
        correct(layer, Correction(tensors[f"{name}/left"], right, bias))


REFIT = Recovery(
    name="refit",
    version=VERSION,
    help="refit every compressed layer, in order, to what the dense model computes there",
    did="refitted by least squares",
    compute=_compute,
    apply=_apply,
    compute_together=_compute_together,
    examples=1024,  # 512 were measured to leave a tenth more divergence at 0.2x, a twentieth at 0.1x
)
