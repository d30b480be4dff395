"""Compensation after truncation: every compressed layer refitted, in order, to what the dense model computes there.

A layer's factors were chosen for the inputs that the dense model feeds it. In the compressed model it is fed something
else: what the compressed layers before it make of the data. With ``z = right x̃`` on these inputs, ``y`` the dense
layer's output on its own, over the live tokens of the calibration data:

    minimise  Σ ‖ left z + b − y ‖² + λ e Σ_j ‖ left_j − left₀_j ‖² / ‖ left₀_j ‖² + λ n ‖ b − b₀ ‖²
    over left (out, rank) and b (out,), with n tokens and e the mean over j of ‖ left₀_j ‖² Σ z_j²

a least-squares problem of rank + 1 unknowns for each output. Each column is drawn to what it was by its relative
change, so that it does not matter how the two factors share the size of their product. Layers are taken in the order of
the pass, so each makes up for what those before it lost; those fed the same tensor (query, key, value) together.
``right``, kept rows, dense layers and those of other forms stay as they are. Of layers that make or read what is left
of some neurons ``z = x̃``, and the whole weight is refitted, to the outputs that are left; one without a bias stays as
it is. The cost is two to five passes of the dense model over the data.

Source: the least-squares update of SVD-LLM (Wang et al. 2024, arXiv 2403.07378), taken towards the dense model's
outputs rather than the dense layer's on the same inputs (measured: the same or a little better).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autolr.checkpoint.runtime.layers import LowRankLinear, SelectedLinear
from autolr.cost.measure_latency import shared_copy
from autolr.errors import AutolrError, UsageError
from autolr.forms.gauge import balance_
from autolr.forms.swap import DecompositionSource, compressed
from autolr.model.blocks import BlockCall, Stop, stopping
from autolr.model.feed_forward import block_name
from autolr.model.record_calls import Batch, Reads, by_token, live_positions, token_mask
from autolr.recovery.base import Recovery
from autolr.statistics.calibrate import positions_read
from autolr.types import Candidate, Unit

RIDGE = 0.01
"""λ (0.01 to 0.1 were measured to be alike)."""
TOKENS_PER_UNKNOWN = 4
"""A layer that sees fewer live tokens for each of its rank + 1 unknowns is left as it was."""
VERSION = 2
"""Of what a refit computes: corrections kept on disk belong to one."""


@dataclass(frozen=True)
class Correction:
    """What a refit changes in one layer.

    Attributes:
        left: (out, rank).
        bias: (out,).
    """

    left: Float[Tensor, "out rank"]
    bias: Float[Tensor, " out"]


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
        found: dict[str, Correction] = {}
        for done, (name, calls) in enumerate(stacks.calls.items()):
            if not torch.allclose(dense_x[0], stacks.true_x[name], rtol=1e-3, atol=1e-3):
                return {}
            block = model.get_submodule(name)
            small = shared_copy(block)
            inside = {unit.name.removeprefix(f"{name}."): unit for unit in of_block.get(name, [])}
            for inner, unit in inside.items():
                small.set_submodule(inner, layers[unit.name])
            run = _Blocks(block, small, calls, [token_mask(batch) for batch in batches], reads)
            for stage in run.stages(inside, dense_x[0]):
                for inner, correction in run.solve(stage, inside, dense_x, small_x).items():
                    correct(layers[inside[inner].name], correction)
                    found[inside[inner].name] = correction
            if done + 1 < len(stacks.calls):
                same = small_x is dense_x and not inside
                dense_x = [call.run(block, x) for call, x in zip(calls, dense_x, strict=True)]
                after = zip(calls, small_x, strict=True)
                small_x = dense_x if same else [call.run(small, x) for call, x in after]
            progress((done + 1) / len(stacks.calls))
    return found


Refitted = LowRankLinear | SelectedLinear
"""Layers of which a part, on what it is fed, is a linear map to fit."""


def _is_refitted(layer: nn.Module) -> bool:
    return isinstance(layer, LowRankLinear | SelectedLinear) and layer.bias is not None


def _outer_weight(layer: Refitted) -> Float[Tensor, "out rank"]:
    return layer.outer_weight if isinstance(layer, LowRankLinear) else layer.linear.weight


def _inner(layer: Refitted, fed: Tensor) -> Tensor:
    """Return what the fitted map is fed."""
    return layer.inner(fed) if isinstance(layer, LowRankLinear) else fed


def _wanted(layer: Any, output: Tensor) -> Tensor:
    """Return the part of the dense layer's output that a layer is to give."""
    makes = isinstance(layer, SelectedLinear) and not layer.reads
    return output[..., layer.index.long()] if makes else output


def correct(layer: Refitted, correction: Correction) -> None:
    """Give a compressed layer its refitted factor and bias, in place, and balance it anew."""
    with torch.no_grad():
        _outer_weight(layer).copy_(correction.left)
        layer.bias.copy_(correction.bias)
    if isinstance(layer, LowRankLinear):
        balance_(layer)


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

    dense: nn.Module
    small: nn.Module
    calls: Sequence[BlockCall]
    masks: Sequence[Tensor]
    reads: Mapping[str, Reads]

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
        stage = [inner for inner in stage if _is_refitted(self.small.get_submodule(inner))]
        if not stage:
            return {}
        sums = {inner: _Sums() for inner in stage}
        for call, mask, x, small in zip(self.calls, self.masks, dense_x, small_x, strict=True):
            targets = {
                inner: _wanted(self.small.get_submodule(inner), output)
                for inner, (_, output) in _observed(self.dense, stage, call, x).items()
            }
            for inner, (fed, output) in _observed(self.small, stage, call, small).items():
                reads = self.reads[inside[inner].name]
                layer: Any = self.small.get_submodule(inner)
                z = _inner(layer, fed)
                rest = output - nn.functional.linear(z, _outer_weight(layer), layer.bias)  # of kept rows
                with_one = nn.functional.pad(z, (0, 1), value=1.0)
                live = [_live_tokens(tensor, mask, reads) for tensor in (with_one, targets[inner] - rest)]
                sums[inner].add(*live)
        found = {}
        for inner, total in sums.items():
            layer = self.small.get_submodule(inner)
            if total.n_tokens < TOKENS_PER_UNKNOWN * (_outer_weight(layer).shape[1] + 1):
                continue
            found[inner] = total.solve(layer)
            if not (torch.isfinite(found[inner].left).all() and torch.isfinite(found[inner].bias).all()):
                raise AutolrError(f"the refit of {inside[inner].name} is not finite")
        return found


def _observed(
    block: nn.Module, names: Sequence[str], call: BlockCall, hidden: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Run a block until the last of some layers and return what each was fed and gave."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    with ExitStack() as hooks:
        for name in names:

            def note(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                seen[name] = (args[0], output)
                if len(seen) == len(names):
                    raise Stop

            hooks.callback(block.get_submodule(name).register_forward_hook(note).remove)
        with stopping():
            call.run(block, hidden)
    return seen


def _live_tokens(tensor: Tensor, mask: Tensor, reads: Reads) -> Float[Tensor, "tokens features"]:
    by_position = by_token(tensor, mask)
    whole = mask.any(1, keepdim=True)  # one position for a layer that runs once a sequence
    return by_position[live_positions(mask if by_position.shape[1] == mask.shape[1] else whole, reads)].float()


class _Sums:
    """Σ (z, 1)(z, 1)ᵀ and Σ y (z, 1)ᵀ over tokens, float64."""

    def __init__(self) -> None:
        self.n_tokens = 0
        self.gram: Any = 0
        self.cross: Any = 0

    def add(self, z: Float[Tensor, "tokens rank_plus_1"], y: Float[Tensor, "tokens out"]) -> None:
        self.n_tokens += len(z)
        self.gram = self.gram + (z.mT @ z).double()
        self.cross = self.cross + (y.mT @ z).double()

    def solve(self, layer: Refitted) -> Correction:
        """Return the ridge regression's solution, drawn towards the layer's present factor and bias."""
        outer = _outer_weight(layer)
        old = torch.cat([outer, layer.bias[:, None]], 1).double()
        least = torch.finfo(torch.float32).tiny
        squares, sizes = self.gram.diagonal(), old[:, :-1].square().sum(0).clamp(min=least)
        energy = (sizes * squares[:-1]).sum() / max(outer.shape[1], 1)
        penalty = (RIDGE * torch.cat([energy / sizes, squares[-1:]])).clamp(min=least).diag()
        new = torch.linalg.solve(self.gram + penalty, (self.cross + old @ penalty).mT).mT
        return Correction(new[:, :-1].to(outer), new[:, -1].to(layer.bias))


def _compute(
    model: nn.Module,
    candidate: Candidate,
    source: DecompositionSource,
    batches: Sequence[Batch],
    tick: Callable[[float], None],
) -> dict[str, Tensor]:
    corrections = refit(model, candidate, source, batches, tick)
    tensors = {f"{name}/left": correction.left for name, correction in corrections.items()}
    return tensors | {f"{name}/bias": correction.bias for name, correction in corrections.items()}


def _apply(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    for name in (key.removesuffix("/left") for key in tensors if key.endswith("/left")):
        layer: Any = model.get_submodule(name)
        correct(layer, Correction(tensors[f"{name}/left"], tensors[f"{name}/bias"]))


REFIT = Recovery(
    name="refit",
    version=VERSION,
    help="refit every compressed layer, in order, to what the dense model computes there",
    did="refitted by least squares",
    compute=_compute,
    apply=_apply,
    examples=512,  # 1,536 were measured to lower the divergence by 2 % more
)
