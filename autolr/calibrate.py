"""Calibration: model + batches -> the statistics of each layer, by one forward and, for gradients, one backward pass.

For a unit ``y = W x + b`` and the live tokens of the calibration data: ``E[x]``, ``E|x|``, ``E[x xᵀ]``; with
gradients ``E[g gᵀ]`` per token and ``Σ_out E[(∂loss/∂W)²]`` per example, ``g = ∂loss/∂y``. The loss is the model's own
log-likelihood under the labels it would draw itself, in exact expectation over the classes: the gradients of a
fine-tuned model on its own correct labels vanish, and the squared mean gradient of a batch is not the Fisher.

Sums are taken per batch in the model's float32 and added up in float64. Hooks never outlive the call.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from autolr.errors import AutolrError, UsageError
from autolr.types import LayerStats, Unit

Batch = Mapping[str, Tensor]
Reads = Literal["all", "first", "last"]
Cotangents = Callable[[Float[Tensor, "batch ..."]], list[Float[Tensor, "batch ..."]]]

DEFAULT_MEMORY = 4 * 2**30
"""Bytes the statistics of one pass may take; beyond it the layers are measured in several passes."""


def class_cotangents(logits: Float[Tensor, "batch classes"]) -> list[Float[Tensor, "batch classes"]]:
    """Return vectors ``q_k`` with ``Σ_k q_k q_kᵀ = diag(p) − p pᵀ``, the Fisher information of a softmax classifier.

    Backpropagating each gives the exact expectation over the classes in ``classes − 1`` backward passes.

    Args:
        logits: (batch, classes).

    Returns:
        ``classes − 1`` tensors like the logits.

    Example:
        >>> [q.abs().tolist() for q in class_cotangents(torch.zeros(1, 2))]
        [[[0.5, 0.5]]]
    """
    p = logits.detach().double().softmax(-1)
    fisher = torch.diag_embed(p) - p[..., :, None] * p[..., None, :]
    values, vectors = torch.linalg.eigh(fisher)
    roots = vectors * values.clamp(min=0.0).sqrt()[..., None, :]
    return [roots[..., k].to(logits.dtype) for k in range(1, logits.shape[-1])]


def calibrate(
    model: nn.Module,
    units: Sequence[Unit],
    batches: Sequence[Batch],
    cotangents: Cotangents | None = class_cotangents,
    memory: int = DEFAULT_MEMORY,
    progress: Callable[[float], None] = lambda _: None,
) -> Iterator[tuple[Unit, LayerStats]]:
    """Measure the statistics of each unit.

    Args:
        model: in any mode; it is run in evaluation mode.
        units: the layers to measure.
        batches: tokenized inputs with ``attention_mask``; labels are not read.
        cotangents: what to backpropagate from the logits; None measures moments only.
        memory: bytes for the statistics; when they do not fit, several passes over the batches each measure a part.
        progress: told the share of the work done, in [0, 1].

    Yields:
        Each unit with its statistics, in the order of ``units``.

    Raises:
        UsageError: there are no batches, or a unit's inputs are not one vector per token.
        AutolrError: a layer was never reached by the calibration data, or its statistics are not finite.
    """
    if not batches:
        raise UsageError("calibration needs at least one batch of training data, got none")
    was_training = model.training
    model.eval()
    try:
        reads = _reads(model, units, batches[0])
        groups = _groups(units, memory, cotangents is not None)
        for number, group in enumerate(groups):
            sums = {unit.name: _Sums(unit) for unit in group}
            for step, batch in enumerate(batches):
                _accumulate(model, group, batch, cotangents, reads, sums)
                progress((number + (step + 1) / len(batches)) / len(groups))
            for unit in group:
                yield unit, sums.pop(unit.name).finish()
    finally:
        model.train(was_training)


def pass_count(units: Sequence[Unit], memory: int = DEFAULT_MEMORY, gradients: bool = True) -> int:
    """Return how many passes over the calibration data the statistics need within this memory."""
    return len(_groups(units, memory, gradients))


@dataclass
class _Sums:
    """Running sums of one unit, float64."""

    unit: Unit
    n_tokens: int = 0
    n_examples: int = 0
    terms: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, value: Tensor) -> None:
        value = value.double()
        self.terms[name] = self.terms[name].add_(value) if name in self.terms else value

    def finish(self) -> LayerStats:
        if not self.n_tokens:
            raise AutolrError(f"{self.unit.name} was never reached by the calibration data; exclude it")
        for name, value in self.terms.items():
            if not torch.isfinite(value).all():
                raise AutolrError(f"the calibration statistics of {self.unit.name} ({name}) are not finite")
        per_token = {name: self.terms[name] / self.n_tokens for name in self.terms if name != "fisher_in"}
        fisher = self.terms["fisher_in"] / self.n_examples if "fisher_in" in self.terms else None
        return LayerStats(self.n_tokens, self.n_examples, **per_token, fisher_in=fisher)


def _groups(units: Sequence[Unit], memory: int, gradients: bool) -> list[list[Unit]]:
    groups: list[list[Unit]] = [[]]
    used = 0
    for unit in units:
        size = 8 * (unit.in_features**2 + (unit.out_features**2 if gradients else 0))
        if groups[-1] and used + size > memory:
            groups.append([])
            used = 0
        groups[-1].append(unit)
        used += size
    return groups


@dataclass
class _Call:
    """One call of a unit's module: its input and output."""

    unit: Unit
    x: Tensor
    y: Tensor


@contextmanager
def _recording(model: nn.Module, units: Iterable[Unit]) -> Iterator[list[_Call]]:
    """Record the calls of the units' modules, with a graph from the embeddings on and no parameter gradients."""
    calls: list[_Call] = []
    with ExitStack() as stack:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.requires_grad_(False)
                stack.callback(parameter.requires_grad_, True)

        def start_graph(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            return output if output.requires_grad or not torch.is_grad_enabled() else output.requires_grad_(True)

        embeddings = model.get_input_embeddings()  # type: ignore[operator]
        stack.callback(embeddings.register_forward_hook(start_graph).remove)
        for unit in units:

            def record(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor, unit: Unit = unit) -> None:
                calls.append(_Call(unit, args[0], output))

            stack.callback(model.get_submodule(unit.name).register_forward_hook(record).remove)
        yield calls


def _forward(model: nn.Module, batch: Batch) -> Tensor:
    logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    assert isinstance(logits, Tensor)
    return logits


def _reads(model: nn.Module, units: Sequence[Unit], batch: Batch) -> dict[str, Reads]:
    """Find at which positions each unit's output is read at all, by where a random gradient of the logits arrives."""
    mask = _mask(batch)
    first = torch.zeros_like(mask)
    first[torch.arange(len(mask)), mask.int().argmax(1)] = True
    last = torch.zeros_like(mask)
    last[torch.arange(len(mask)), mask.shape[1] - 1 - mask.flip(1).int().argmax(1)] = True
    with torch.enable_grad(), _recording(model, units) as calls:
        logits = _forward(model, batch)
        random = torch.Generator().manual_seed(0)
        cotangent = torch.randn(logits.shape, generator=random).to(logits)
        gradients = torch.autograd.grad(logits, [call.y for call in calls], cotangent, allow_unused=True)
    reads: dict[str, Reads] = {}
    for call, gradient in zip(calls, gradients, strict=True):
        live = mask if gradient is None else (_by_token(call.unit, gradient, mask) != 0).any(-1)
        seen: Reads = "all"
        if live.shape == mask.shape and mask.shape[1] > 1:
            live = live & mask
            seen = "first" if torch.equal(live, first) else "last" if torch.equal(live, last) else "all"
        # A module that is called several times (shared layers) is read everywhere unless all its calls agree.
        reads[call.unit.name] = seen if reads.get(call.unit.name, seen) == seen else "all"
    return reads


def _accumulate(
    model: nn.Module,
    units: Sequence[Unit],
    batch: Batch,
    cotangents: Cotangents | None,
    reads: Mapping[str, Reads],
    sums: Mapping[str, _Sums],
) -> None:
    mask = _mask(batch)
    with torch.set_grad_enabled(cotangents is not None), _recording(model, units) as calls:
        logits = _forward(model, batch)
        outputs = [call.y for call in calls]
        vectors = [] if cotangents is None else cotangents(logits)
        gradients = [
            torch.autograd.grad(logits, outputs, vector, retain_graph=k + 1 < len(vectors), allow_unused=True)
            for k, vector in enumerate(vectors)
        ]
    shared: dict[tuple[int, Reads], tuple[Tensor, dict[str, Tensor]]] = {}
    with torch.no_grad():
        for index, call in enumerate(calls):
            key = (id(call.x), reads[call.unit.name])
            x = _by_token(call.unit, call.x.detach(), mask).float()
            live = _live(mask if x.shape[1] == mask.shape[1] else mask[:, :1], reads[call.unit.name])
            if key not in shared:  # query, key and value read the same input: one Gram serves the three
                shared[key] = (x * live[..., None], _moments(x[live]))
            x, moments = shared[key]
            total = sums[call.unit.name]
            total.n_tokens += int(live.sum())
            total.n_examples += len(mask) if total.unit.name not in {c.unit.name for c in calls[:index]} else 0
            for name, value in moments.items():
                total.add(name, value)
            if vectors:
                of_call = [_gradient(call, g[index], mask) * live[..., None] for g in gradients]
                flat = torch.cat([g[live] for g in of_call])
                total.add("out_gram", flat.mT @ flat)
                # Σ_out (Σ_t g_to x_ti)² = Σ_t x_ti (K x)_ti with K = g gᵀ over the positions of one example.
                kernel = torch.stack([g @ g.mT for g in of_call]).sum(0)
                total.add("fisher_in", (x * (kernel @ x)).sum((0, 1)))


def _moments(tokens: Float[Tensor, "tokens in"]) -> dict[str, Tensor]:
    return {"mean": tokens.sum(0), "mean_abs": tokens.abs().sum(0), "in_gram": tokens.mT @ tokens}


def _gradient(call: _Call, gradient: Tensor | None, mask: Tensor) -> Tensor:
    """Return the gradient as (batch, positions, out) float32; a unit that the logits do not read has none."""
    return _by_token(call.unit, torch.zeros_like(call.y) if gradient is None else gradient, mask).float()


def _live(mask: Bool[Tensor, "batch positions"], reads: Reads) -> Bool[Tensor, "batch positions"]:
    if reads == "all" or mask.shape[1] == 1:
        return mask
    positions = mask.int().argmax(1) if reads == "first" else mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
    live = torch.zeros_like(mask)
    live[torch.arange(len(mask), device=mask.device), positions] = True
    return live


def _mask(batch: Batch) -> Bool[Tensor, "batch positions"]:
    if "attention_mask" in batch:
        return batch["attention_mask"].bool()
    return torch.ones_like(batch["input_ids"], dtype=torch.bool)


def _by_token(unit: Unit, tensor: Tensor, mask: Tensor) -> Float[Tensor, "batch positions features"]:
    """View a unit's input or output as (batch, positions, features); positions is 1 for a layer outside the sequence."""
    batch, length = mask.shape
    features = tensor.shape[-1]
    rows = tensor.numel() // features
    if rows not in (batch * length, batch):
        raise UsageError(
            f"{unit.name} sees {rows} vectors for a batch of {batch} sequences of {length} tokens, so they cannot be "
            f"matched to tokens; leave it out with --exclude {unit.name!r}"
        )
    return tensor.reshape(batch, rows // batch, features)
