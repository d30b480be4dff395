"""Compensation after truncation: every compressed layer refitted, in order, to what the dense model computes there.

A layer's factors were chosen for the inputs that the dense model feeds it. In the compressed model it is fed something
else: what the compressed layers before it make of the data. So its matrices and its bias are fitted to the outputs of
the dense layer on its own inputs, at the rank or on the neurons that it has: :mod:`autolr.recovery.regression`. Which
method found the factors matters no more after that, but for the sizes that were chosen by it.

Layers are taken in the order of the pass, so each makes up for what those before it lost; those fed the same tensor
(query, key, value) together. Kept rows, dense layers and those of other forms stay as they are. The cost is two to five
passes of the dense model over the data, and a decomposition of each layer.

Source: the least-squares update of SVD-LLM (Wang et al. 2024, arXiv 2403.07378), taken towards the dense model's
outputs rather than the dense layer's on the same inputs (measured: the same or a little better).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autolr.checkpoint.runtime.layers import LowRankLinear, SelectedLinear, SelectedLowRankLinear
from autolr.cost.measure_latency import shared_copy
from autolr.errors import AutolrError, UsageError
from autolr.forms.swap import DecompositionSource, compressed
from autolr.model.blocks import BlockCall
from autolr.model.feed_forward import block_name
from autolr.model.record_calls import Batch, Reads, token_mask
from autolr.model.units import unit_weight
from autolr.recovery.base import Recovery
from autolr.recovery.observed import dense_pass, live_tokens, observed
from autolr.recovery.output_metric import output_metric
from autolr.recovery.regression import Correction, Moments, Refitted, fitted_part, places, reads_some
from autolr.statistics.calibrate import positions_read
from autolr.types import Candidate, Unit

_FITTED_WHOLE = (LowRankLinear, SelectedLinear, SelectedLowRankLinear)
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
        AutolrError: a refitted layer is not finite.
    """
    if not batches:
        raise UsageError("refitting needs at least one batch of calibration data, got none")
    changed = [source.unit(name) for name, _ in candidate.choices]
    units = [matrix for unit in changed for matrix in unit.matrices or (unit,)]
    with compressed(model, candidate, source):
        layers: dict[str, Any] = {unit.name: model.get_submodule(unit.name) for unit in units}
    groups = {matrix.name: unit for unit in changed for matrix in unit.matrices}
    of_block: dict[str, list[Unit]] = {}
    for unit in units:
        if unit.block >= 0:
            of_block.setdefault(block_name(unit), []).append(unit)
    with torch.no_grad():
        stacks = _stack_inputs(model, of_block, batches)
        if stacks is None:
            return {}
        reads = positions_read(model, units, batches[0])
        dense_x = small_x = stacks.hidden
        tables = {name: choice for name, choice in candidate.choices if source.unit(name).of == "embedding"}
        if tables:  # the first block is fed other vectors then
            with compressed(model, Candidate.of(tables), source):
                started = _stack_inputs(model, of_block, batches)
            small_x = dense_x if started is None else started.hidden
        found: dict[str, Correction] = {}
        for done, (name, calls) in enumerate(stacks.calls.items()):
            if not torch.allclose(dense_x[0], stacks.true_x[name], rtol=1e-3, atol=1e-3):
                return {}
            block = model.get_submodule(name)
            small = shared_copy(block)
            inside = {unit.name.removeprefix(f"{name}."): unit for unit in of_block.get(name, [])}
            for inner, unit in inside.items():
                small.set_submodule(inner, layers[unit.name])
            masks = [token_mask(batch) for batch in batches]
            answers, after = dense_pass(block, list(inside), calls, dense_x)
            run = _Blocks(model, source, groups, layers, block, small, calls, masks, reads, answers)
            for stage in run.stages(inside, dense_x[0]):
                for inner, correction in run.solve(stage, inside, dense_x, small_x).items():
                    correct(layers[inside[inner].name], correction)
                    found[inside[inner].name] = correction
            if done + 1 < len(stacks.calls):
                same = small_x is dense_x and not inside
                small_x = after if same else [call.run(small, x) for call, x in zip(calls, small_x, strict=True)]
                dense_x = after
            progress((done + 1) / len(stacks.calls))
    return found


def correct(layer: Refitted, correction: Correction) -> None:
    """Give a compressed layer its refitted factor and bias, in place."""
    with torch.no_grad():
        if isinstance(layer, LowRankLinear):
            if layer.rank:
                assert correction.right is not None
                layer.left.weight.copy_(correction.left)
                layer.right.weight.copy_(correction.right)
        else:
            layer.linear.weight.copy_(correction.left)
        if correction.bias is not None:
            layer.bias.copy_(correction.bias)


@dataclass(frozen=True)
class _Stacks:
    """The stack of blocks as the model runs it.

    Attributes:
        hidden: the first block's hidden states of each batch.
        calls: block name -> its call on each batch, in the order of the pass.
        true_x: block name -> what it is fed in the first batch.
    """

    hidden: list[Tensor]
    calls: dict[str, list[BlockCall]]
    true_x: dict[str, Tensor]


def _stack_inputs(model: nn.Module, of_block: Mapping[str, Sequence[Unit]], batches: Sequence[Batch]) -> _Stacks | None:
    """Record how every block of the stack is called, from the first to the last that holds a compressed layer."""
    prefixes = {name.rpartition(".")[0] for name in of_block}
    if len(prefixes) != 1:
        return None
    [prefix] = prefixes
    stack: Any = model.get_submodule(prefix)
    names = [f"{prefix}.{index}" for index in range(1 + max(int(name.rpartition(".")[2]) for name in of_block))]
    hidden: list[Tensor] = []
    true_x: dict[str, Tensor] = {}
    calls: dict[str, list[BlockCall]] = {name: [] for name in names}

    def record(name: str) -> Callable[..., None]:
        def hook(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x, call = BlockCall.of(args, kwargs)
            true_x.setdefault(name, x)
            if name == names[0]:
                hidden.append(x)
            calls[name].append(call)

        return hook

    with ExitStack() as hooks:
        for index, name in enumerate(names):
            hooks.callback(stack[index].register_forward_pre_hook(record(name), with_kwargs=True).remove)
        for batch in batches:
            model(**{key: value for key, value in batch.items() if key != "labels"})
    return _Stacks(hidden, calls, true_x) if all(len(found) == len(batches) for found in calls.values()) else None


@dataclass(frozen=True)
class _Blocks:
    """One block, dense and compressed, with what is needed to run both on the calibration data."""

    model: nn.Module
    source: DecompositionSource
    groups: Mapping[str, Unit]
    layers: Mapping[str, Any]
    dense: nn.Module
    small: nn.Module
    calls: Sequence[BlockCall]
    masks: Sequence[Tensor]
    reads: Mapping[str, Reads]
    answers: Sequence[Mapping[str, Tensor]]

    def stages(self, inside: Mapping[str, Unit], hidden: Tensor) -> list[list[str]]:
        """Return the units in the order of the pass, those that are fed the same tensor together."""
        order: list[tuple[str, Tensor]] = []
        with ExitStack() as hooks:
            for inner in inside:

                def note(_module: nn.Module, args: tuple[Tensor, ...], inner: str = inner) -> None:
                    order.append((inner, args[0]))

                hooks.callback(self.dense.get_submodule(inner).register_forward_pre_hook(note).remove)
            self.calls[0].run(self.dense, hidden)
        stages: list[list[str]] = []
        before: Tensor | None = None
        for inner, x in order:
            if x is before:
                stages[-1].append(inner)
            else:
                stages.append([inner])
            before = x
        return stages

    def solve(
        self, stage: Sequence[str], inside: Mapping[str, Unit], dense_x: Sequence[Tensor], small_x: Sequence[Tensor]
    ) -> dict[str, Correction]:
        """Return the corrections of the units of a stage; layers that have no part to refit have none."""
        stage = [inner for inner in stage if isinstance(self.small.get_submodule(inner), Refitted)]
        if not stage:
            return {}
        layers: dict[str, Any] = {inner: self.small.get_submodule(inner) for inner in stage}
        moments = {inner: Moments() for inner in stage}
        for place, (call, mask, x, small) in enumerate(zip(self.calls, self.masks, dense_x, small_x, strict=True)):
            if self.answers:
                answers = self.answers[place]
            else:
                answers = {inner: output for inner, (_, output) in observed(self.dense, stage, call, x).items()}
            targets = {inner: _wanted(layers[inner], answers[inner]) for inner in stage}
            for inner, (received, output) in observed(self.small, stage, call, small).items():
                reads, layer = self.reads[inside[inner].name], layers[inner]
                target = targets[inner]
                if type(layer) not in _FITTED_WHOLE:  # what it computes beside: kept rows
                    target = target - (
                        output - nn.functional.linear(received, fitted_part(layer).to(received), layer.bias)
                    )
                moments[inner].add(*(live_tokens(tensor, mask, reads) for tensor in (received, target)))
        found = {}
        for inner, total in moments.items():
            unit = inside[inner]
            metric = output_metric(self.model, self.source, unit, self.groups.get(unit.name), self.layers)
            stats = self.source.stats(unit.name)
            correction = total.solve(layers[inner], unit_weight(self.model, unit), stats, metric)
            if correction is None:
                continue
            if not all(torch.isfinite(part).all() for part in vars(correction).values() if part is not None):
                raise AutolrError(f"the refit of {unit.name} is not finite")
            found[inner] = correction
        return found


def _wanted(layer: Refitted, output: Tensor) -> Tensor:
    """Return the part of the dense layer's output that a layer is to give."""
    index = places(layer)
    return output if index is None or reads_some(layer) else output[..., index]


def _compute(
    model: nn.Module,
    candidate: Candidate,
    source: DecompositionSource,
    batches: Sequence[Batch],
    tick: Callable[[float], None],
) -> dict[str, Tensor]:
    corrections = refit(model, candidate, source, batches, tick)
    return {
        f"{name}/{part}": tensor
        for name, correction in corrections.items()
        for part, tensor in vars(correction).items()
        if tensor is not None
    }


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
    examples=1024,  # 512 were measured to leave a tenth more divergence at 0.2x, a twentieth at 0.1x
)
