"""Calibration block by block, for models whose activations, gradients and statistics do not fit into memory.

The same statistics as :func:`autolr.statistics.calibrate.calibrate`'s. Forward, each block in turn makes of every
batch's hidden states the next ones, which are kept on disk. Then backward, from the logits to the first block: a block
is run once more on each batch with a graph, the gradient of what it gave is read from disk, that of what it was fed
written. In memory are one block in float32 with the graph of one batch and the sums of its layers, and of the rest of
the weights what the loader maps from the file: a model in bfloat16 stays so, and is measured as if all of it were
float32.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from autolr.errors import UsageError
from autolr.machine.temporary import passing_folder
from autolr.machine.tensor_file import save_tensors
from autolr.model.precision import in_float32
from autolr.model.record_calls import (
    Batch,
    Reads,
    check_inputs,
    finite_logits,
    graph_from_embeddings,
    random_cotangent,
    reads_of,
    recorded,
    token_mask,
    undisturbed,
)
from autolr.model.stack import Stack, stack_name
from autolr.statistics.accumulate import Sums, add_batch
from autolr.statistics.calibrate import DEFAULT_MEMORY, Cotangents, sums_of, unit_groups
from autolr.types import LayerStats, Unit

_FLOAT32 = 4
_PROBE = "probe"
"""Name of the gradient that shows which positions are read; the others are numbered."""
_BACKWARD_COST = 3.0
"""Time of a block's second run with gradients, in forward runs (for the progress shown)."""


def stream_calibrate(
    model: nn.Module,
    units: Sequence[Unit],
    batches: Sequence[Batch],
    cotangents: Cotangents | None,
    workspace: Path,
    memory: int = DEFAULT_MEMORY,
    progress: Callable[[float], None] = lambda _: None,
    masks: Collection[str] = (),
) -> Iterator[tuple[Unit, LayerStats]]:
    """Measure the statistics of each unit, block by block.

    Args:
        model: in any mode; it is run in evaluation mode. Weights in bfloat16 or float16 are float32 while at work.
        units: the layers to measure; those in blocks are in one stack of them.
        batches: tokenized inputs with ``attention_mask``; labels are not read.
        cotangents: what to backpropagate from the logits; None measures moments only.
        workspace: folder for hidden states and gradients, float32, of all batches at each block; emptied afterwards.
        memory: bytes for the statistics; where those of a block do not fit, its batches are run several times.
        progress: told the share of the work done, in [0, 1].
        masks: names of the units whose ``mask_gram`` is measured too, where there are gradients.

    Yields:
        Each unit with its statistics, from the last block to the first.

    Raises:
        UsageError: there are no batches, a unit is fed something else than one vector per token, the model cannot be
            run block by block, or the workspace's disk is too full.
        AutolrError: a layer was never reached by the calibration data, or its statistics or the model's outputs are not
            finite.
    """
    if not batches:
        raise UsageError("calibration needs at least one batch of training data, got none")
    workspace.mkdir(parents=True, exist_ok=True)
    with undisturbed(model), passing_folder(workspace, "streaming-") as folder:
        stack = Stack.of(model, units, batches[0])
        sweep = _Sweep(stack, batches, cotangents, _Shelf(folder), memory, masks)
        stages = sweep.stages(units)
        with torch.no_grad():
            width = stack.enter(batches[0]).shape[-1]
        boundaries = len(stack.blocks) + 1 - max(stages[-1].index, 0)
        _check_space(folder, workspace_bytes(batches, width, boundaries, int(cotangents is not None)))
        n_forward = len(stack.blocks) + 1
        total = len(batches) * (n_forward + _BACKWARD_COST * len(stages))
        done = 0.0

        def step(cost: float) -> None:
            nonlocal done
            done += cost
            progress(min(done / total, 1.0))

        sweep.forward(stages[-1].index, step)
        for stage in stages:
            yield from sweep.measure(stage, step)


def workspace_bytes(batches: Sequence[Batch], width: int, boundaries: int, vectors: int) -> int:
    """Return what is on disk at most: the hidden states of all batches at every boundary, the gradients at one.

    Args:
        batches: tokenized inputs.
        width: of a hidden state.
        boundaries: before, between and behind the blocks.
        vectors: that are backpropagated from the logits.

    Example:
        >>> workspace_bytes([{"input_ids": torch.zeros(2, 5)}], width=4, boundaries=3, vectors=1)
        640
    """
    positions = sum(next(iter(batch.values())).shape[:2].numel() for batch in batches)
    return positions * width * (boundaries + vectors) * _FLOAT32


def _check_space(folder: Path, needed: int) -> None:
    free = disk_usage(folder).free
    if needed > free:
        raise UsageError(
            f"calibration block by block keeps up to {needed / 1e9:.1f} GB of hidden states in {folder.parent}, where "
            f"{free / 1e9:.1f} GB are free; lower --calibration-examples, or put the study on another disk"
        )


@dataclass(frozen=True)
class _Shelf:
    """Tensors on disk by name, one file for each name."""

    folder: Path

    def put(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        save_tensors({key: value.detach().contiguous() for key, value in tensors.items()}, self.folder / name)

    def get(self, name: str, like: Tensor) -> dict[str, Tensor]:
        """Return what is kept under a name, mapped from the file where ``like`` is on the CPU; nothing if it is not."""
        path = self.folder / name
        return {key: value.to(like.device) for key, value in load_file(path).items()} if path.exists() else {}

    def drop(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Stage:
    """A part of the pass: what runs before the blocks (index −1), a block, or what runs behind them (index n).

    Attributes:
        index: between the boundaries ``index`` and ``index + 1``; boundary 0 is before the first block.
        units: those in it.
        modules: whose tensors are at work, with their submodules' listed one by one.
    """

    index: int
    units: Sequence[Unit]
    modules: Sequence[nn.Module]


@dataclass(frozen=True)
class _Sweep:
    """The forward and the backward pass over all batches."""

    stack: Stack
    batches: Sequence[Batch]
    cotangents: Cotangents | None
    shelf: _Shelf
    memory: int
    masks: Collection[str]

    def stages(self, units: Sequence[Unit]) -> list[_Stage]:
        """Return what is run backward, in that order: from behind the blocks to the first stage that holds a unit."""
        blocks = self.stack.blocks
        before = {id(module) for module in self.stack.before}
        of_stage: dict[int, list[Unit]] = {}
        for unit in units:
            module = self.stack.model.get_submodule(unit.name)
            outside = -1 if id(module) in before else len(blocks)
            index = outside if stack_name(self.stack.model, unit) is None else unit.block
            of_stage.setdefault(index, []).append(unit)
        found = [_Stage(len(blocks), of_stage.get(len(blocks), []), self.stack.behind)]
        for index in reversed(range(max(min(of_stage), 0), len(blocks))):
            found.append(_Stage(index, of_stage.get(index, []), tuple(blocks[index].modules())))
        if -1 in of_stage:
            found.append(_Stage(-1, of_stage[-1], ()))
        return found

    @torch.no_grad()
    def forward(self, lowest: int, step: Callable[[float], None]) -> None:
        """Put the hidden states of every batch at every boundary from the lowest on on the shelf."""
        for number, batch in enumerate(self.batches):
            self.shelf.put(f"hidden-0-{number}", {"x": self.stack.enter(batch)})
            step(1.0)
        for index, block in enumerate(self.stack.blocks):
            with in_float32(block.modules()):
                for number, batch in enumerate(self.batches):
                    x = self._hidden(index, number)
                    y = self.stack.call(batch, index).run(block, x)
                    self.shelf.put(f"hidden-{index + 1}-{number}", {"x": y})
                    if index < lowest:
                        self.shelf.drop(f"hidden-{index}-{number}")
                    step(1.0)

    def measure(self, stage: _Stage, step: Callable[[float], None]) -> Iterator[tuple[Unit, LayerStats]]:
        """Run a stage with gradients and yield its units' statistics; its input's gradients go on the shelf."""
        groups = unit_groups(stage.units, self.memory, self.cotangents is not None, self.masks)
        for group in groups:
            sums = sums_of(self.stack.model, group, self.masks)
            reads: dict[str, Reads] = {}
            with in_float32(stage.modules):
                for number in range(len(self.batches)):
                    self._add(stage, group, number, reads, sums)
                    if group is groups[-1]:
                        self._tidy(stage.index, number)
                    step(_BACKWARD_COST / len(groups))
            for unit in group:
                yield unit, sums.pop(unit.name).finish()

    def _add(
        self, stage: _Stage, group: Sequence[Unit], number: int, reads: dict[str, Reads], sums: Mapping[str, Sums]
    ) -> None:
        """Add one batch to the sums of a group of units."""
        batch = self.batches[number]
        mask = token_mask(batch)
        with torch.set_grad_enabled(self._has_gradients(number)), recorded(self.stack.model, group) as calls:
            x, y = self._run(stage.index, number)
            if number == 0:
                check_inputs(calls, mask)
            vectors = self._vectors(stage.index, number, y)
            outputs = [call.y for call in calls]
            of_x: dict[str, Tensor] = {}
            of_outputs: list[Sequence[Tensor | None]] = []
            for done, (name, vector) in enumerate(vectors.items()):
                wanted = outputs if x is None else [*outputs, x]
                more = done + 1 < len(vectors)
                found = torch.autograd.grad(y, wanted, vector, retain_graph=more, allow_unused=True)
                if x is not None:
                    of_x[name] = torch.zeros_like(x) if found[-1] is None else found[-1]
                if name == _PROBE:
                    reads |= reads_of(calls, found[: len(calls)], mask)
                else:
                    of_outputs.append(found[: len(calls)])
        if of_x:
            self.shelf.put(f"gradient-{stage.index}-{number}", of_x)
        del x, y, vectors, of_x
        add_batch(calls, of_outputs, mask, reads, sums)

    def _run(self, index: int, number: int) -> tuple[Tensor | None, Tensor]:
        """Return what a stage is fed, where that is a leaf of its graph, and what it gives."""
        batch = self.batches[number]
        if index < 0:
            with graph_from_embeddings(self.stack.model):
                return None, self.stack.enter(batch)
        x = self._hidden(index, number).requires_grad_(torch.is_grad_enabled())
        fed = x.clone() if torch.is_grad_enabled() else x  # a leaf must not be changed in place
        if index < len(self.stack.blocks):
            return x, self.stack.call(batch, index).run(self.stack.blocks[index], fed)
        with self.stack.with_hidden(fed) as model:
            return x, finite_logits(model, batch)

    def _vectors(self, index: int, number: int, y: Tensor) -> dict[str, Tensor]:
        """Return the gradients of what a stage gives, by name."""
        if index < len(self.stack.blocks):
            return self.shelf.get(f"gradient-{index + 1}-{number}", y)
        found = {_PROBE: random_cotangent(y)} if number == 0 else {}
        drawn = [] if self.cotangents is None else self.cotangents(y, token_mask(self.batches[number]))
        return found | {str(k): vector for k, vector in enumerate(drawn)}

    def _has_gradients(self, number: int) -> bool:
        """Tell whether anything is backpropagated for a batch: for the first one the probe always is."""
        return number == 0 or self.cotangents is not None

    def _hidden(self, index: int, number: int) -> Tensor:
        like = next(iter(self.batches[number].values()))
        return self.shelf.get(f"hidden-{index}-{number}", like)["x"]

    def _tidy(self, index: int, number: int) -> None:
        self.shelf.drop(f"hidden-{index}-{number}")
        self.shelf.drop(f"gradient-{index + 1}-{number}")
