"""Calibration: model + batches -> the statistics of each layer, by one forward and, for gradients, one backward pass.

For a unit ``y = W x + b`` and the live tokens of the calibration data: ``E[x]``, ``E|x|``, ``E[x xᵀ]``; with
gradients ``E[g gᵀ]`` per token and ``Σ_out E[(∂loss/∂W)²]`` per example, ``g = ∂loss/∂y``. The loss is the model's own
log-likelihood under the labels it would draw itself, in exact expectation over the classes: the gradients of a
fine-tuned model on its own correct labels vanish, and the squared mean gradient of a batch is not the Fisher.

Sums are taken per batch in the model's float32 and added up in float64; Gram matrices are taken about the first batch's
mean, so that a covariance far smaller than the mean keeps its digits. Hooks never outlive the call.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from autolr.errors import AutolrError, UsageError
from autolr.types import LayerStats, Unit

Batch = Mapping[str, Tensor]
Reads = Literal["all", "first", "last"]
Cotangents = Callable[[Float[Tensor, "batch ..."], Bool[Tensor, "batch positions"]], list[Float[Tensor, "batch ..."]]]
"""(logits, mask of the real tokens) -> vectors to backpropagate from the logits, whose outer products sum to the Fisher
information of what the model says, or to an unbiased estimate of it."""

DEFAULT_MEMORY = 4 * 2**30
"""Bytes the statistics of one pass may take; beyond it the layers are measured in several passes."""


def class_cotangents(
    logits: Float[Tensor, "batch classes"], mask: Bool[Tensor, "batch positions"] | None = None
) -> list[Float[Tensor, "batch classes"]]:
    """Return vectors ``q_k`` with ``Σ_k q_k q_kᵀ = diag(p) − p pᵀ``, the Fisher information of a softmax classifier.

    Backpropagating each gives the exact expectation over the classes in ``classes − 1`` backward passes.

    Args:
        logits: (batch, classes).
        mask: not read.

    Returns:
        ``classes − 1`` tensors like the logits.

    Example:
        >>> [q.abs().tolist() for q in class_cotangents(torch.zeros(1, 2))]
        [[[0.5, 0.5]]]
    """
    del mask
    p = logits.detach().double().softmax(-1)
    fisher = torch.diag_embed(p) - p[..., :, None] * p[..., None, :]
    values, vectors = torch.linalg.eigh(fisher)
    roots = vectors * values.clamp(min=0.0).sqrt()[..., None, :]
    return [roots[..., k].to(logits.dtype) for k in range(1, logits.shape[-1])]


@dataclass(frozen=True)
class SampledCotangents:
    """One gradient for each sequence: of the loss of next tokens that the language model draws itself.

    With ``y_t`` drawn from the model's own ``p_t`` at every position before a real token, ``Σ_t p_t − e(y_t)`` has mean
    zero and the Fisher information of all next tokens as its covariance: one backward pass instead of one for each
    token of the vocabulary. (The text's own next tokens would give the empirical Fisher, which is another matrix.)

    Attributes:
        seed: of the draws, which depend on nothing else but what the model finds most probable.

    Example:
        >>> [q] = SampledCotangents(0)(torch.zeros(1, 3, 2), torch.tensor([[True, True, False]]))
        >>> q.abs().tolist()
        [[[0.5, 0.5], [0.0, 0.0], [0.0, 0.0]]]
    """

    seed: int

    def __call__(
        self, logits: Float[Tensor, "batch positions tokens"], mask: Bool[Tensor, "batch positions"]
    ) -> list[Float[Tensor, "batch positions tokens"]]:
        """Return one tensor like the logits."""
        p = logits.detach().float().softmax(-1)
        likely = p.argmax(-1).to("cpu", torch.int32).numpy().tobytes()
        state = np.random.SeedSequence([self.seed, zlib.crc32(likely)]).generate_state(1)  # torch reads 32 bits of it
        random = torch.Generator().manual_seed(int(state[0]))
        drawn = torch.multinomial(p.flatten(0, 1).cpu(), 1, generator=random).reshape(mask.shape).to(p.device)
        followed = torch.zeros_like(mask)
        followed[:, :-1] = mask[:, :-1] & mask[:, 1:]
        p.scatter_add_(-1, drawn[..., None], torch.full_like(drawn[..., None], -1, dtype=p.dtype))
        return [(p * followed[..., None]).to(logits.dtype)]


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
        UsageError: there are no batches, or a unit is fed something else than one vector per token.
        AutolrError: a layer was never reached by the calibration data, or its statistics or the model's outputs are not
            finite.
    """
    if not batches:
        raise UsageError("calibration needs at least one batch of training data, got none")
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        reads = positions_read(model, units, batches[0])
        groups = _groups(units, memory, cotangents is not None)
        for number, group in enumerate(groups):
            sums = {unit.name: _Sums(unit) for unit in group}
            for step, batch in enumerate(batches):
                _accumulate(model, group, batch, cotangents, reads, sums)
                progress((number + (step + 1) / len(batches)) / len(groups))
            for unit in group:
                yield unit, sums.pop(unit.name).finish()
    finally:
        for module, mode in modes.items():
            module.training = mode


def pass_count(units: Sequence[Unit], memory: int = DEFAULT_MEMORY, gradients: bool = True) -> int:
    """Return how many passes over the calibration data the statistics need within this memory."""
    return len(_groups(units, memory, gradients))


@dataclass
class _Sums:
    """Running sums of one unit, float64; ``mean`` and ``in_gram`` of the inputs less ``pivot``."""

    unit: Unit
    n_tokens: int = 0
    n_examples: int = 0
    pivot: Tensor | None = None
    terms: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, value: Tensor) -> None:
        value = value.double()
        self.terms[name] = self.terms[name].add_(value) if name in self.terms else value

    def finish(self) -> LayerStats:
        if not self.n_tokens or self.pivot is None:
            raise AutolrError(f"{self.unit.name} was never reached by the calibration data; exclude it")
        for name, value in self.terms.items():
            if not torch.isfinite(value).all():
                raise AutolrError(f"the calibration statistics of {self.unit.name} ({name}) are not finite")
        per_token = {name: self.terms[name] / self.n_tokens for name in self.terms if name != "fisher_in"}
        offset, pivot = per_token["mean"], self.pivot.double()
        per_token["mean"] = pivot + offset
        covariance = per_token["in_gram"] - torch.outer(offset, offset)
        per_token["in_gram"] = covariance + torch.outer(per_token["mean"], per_token["mean"])
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
    bad = int((~torch.isfinite(logits.detach())).flatten(1).any(1).sum())
    if bad:
        raise AutolrError(f"the model's output is NaN or infinite on {bad} of {len(logits)} calibration examples")
    return logits


def positions_read(model: nn.Module, units: Sequence[Unit], batch: Batch) -> dict[str, Reads]:
    """Find at which positions each unit's output is read at all, by where a random gradient of the logits arrives."""
    mask = token_mask(batch)
    first, last = live_positions(mask, "first"), live_positions(mask, "last")
    with torch.enable_grad(), _recording(model, units) as calls:
        logits = _forward(model, batch)
        _check_inputs(calls, mask)
        random = torch.Generator().manual_seed(0)
        cotangent = torch.randn(logits.shape, generator=random).to(logits)
        gradients = torch.autograd.grad(logits, [call.y for call in calls], cotangent, allow_unused=True)
    reads: dict[str, Reads] = {}
    for call, gradient in zip(calls, gradients, strict=True):
        live = mask if gradient is None else (by_token(gradient, mask) != 0).any(-1)
        seen: Reads = "all"
        if live.shape == mask.shape and not torch.equal(live & mask, mask):
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
    mask = token_mask(batch)
    with torch.set_grad_enabled(cotangents is not None), _recording(model, units) as calls:
        logits = _forward(model, batch)
        outputs = [call.y for call in calls]
        vectors = [] if cotangents is None else cotangents(logits, mask)
        gradients = [
            torch.autograd.grad(logits, outputs, vector, retain_graph=k + 1 < len(vectors), allow_unused=True)
            for k, vector in enumerate(vectors)
        ]
    of_unit: dict[str, list[int]] = {}
    for index, call in enumerate(calls):
        of_unit.setdefault(call.unit.name, []).append(index)
    shared: dict[tuple[Any, ...], _Inputs] = {}
    with torch.no_grad():
        for name, indices in of_unit.items():
            total = sums[name]
            # Query, key and value read the same input: one Gram serves the three.
            key = (tuple(id(calls[index].x) for index in indices), reads[name], id(total.pivot))
            if key not in shared:
                shared[key] = _inputs([calls[index] for index in indices], mask, reads[name], total.pivot)
            inputs = shared[key]
            total.pivot = inputs.pivot
            total.n_tokens += int(inputs.live.sum())
            total.n_examples += len(mask)
            for term, value in inputs.moments.items():
                total.add(term, value)
            if vectors:
                g = [_outputs([(calls[i], of_class[i]) for i in indices], mask) for of_class in gradients]
                flat = torch.cat([of_class[inputs.live] for of_class in g])
                total.add("out_gram", flat.mT @ flat)
                # Σ_out (Σ_t g_to x_ti)² = Σ_t x_ti (K x)_ti with K = g gᵀ over the positions of one example; x is zero
                # where it is not live.
                kernel = torch.stack([of_class @ of_class.mT for of_class in g]).sum(0)
                total.add("fisher_in", (inputs.x * (kernel @ inputs.x)).sum((0, 1)))


@dataclass
class _Inputs:
    """What a unit reads in one batch, float32; a unit that is called several times reads its calls one after another.

    Attributes:
        x: (batch, positions, in), zero where not live.
        live: (batch, positions).
        pivot: (in,), what the moments are taken about.
        moments: sums over the live positions.
    """

    x: Tensor
    live: Tensor
    pivot: Tensor
    moments: dict[str, Tensor]


def _inputs(calls: Sequence[_Call], mask: Tensor, reads: Reads, pivot: Tensor | None) -> _Inputs:
    each = [by_token(call.x.detach(), mask).float() for call in calls]
    whole = mask.any(1, keepdim=True)  # one position for a layer that runs once a sequence, not once a token
    live = torch.cat([live_positions(mask if x.shape[1] == mask.shape[1] else whole, reads) for x in each], 1)
    x = torch.cat(each, 1) if len(each) > 1 else each[0]
    tokens = x[live]
    pivot = tokens.mean(0) if pivot is None else pivot
    return _Inputs(x * live[..., None], live, pivot, _moments(tokens, pivot))


def _moments(tokens: Float[Tensor, "tokens in"], pivot: Float[Tensor, " in"]) -> dict[str, Tensor]:
    centred = tokens - pivot
    return {"mean": centred.sum(0), "mean_abs": tokens.abs().sum(0), "in_gram": centred.mT @ centred}


def _outputs(calls: Sequence[tuple[_Call, Tensor | None]], mask: Tensor) -> Float[Tensor, "batch positions out"]:
    """Return the gradients of a unit's outputs at every position; a unit that the logits do not read has none."""
    each = [by_token(torch.zeros_like(c.y) if grad is None else grad, mask).float() for c, grad in calls]
    return torch.cat(each, 1)


def live_positions(mask: Bool[Tensor, "batch positions"], reads: Reads) -> Bool[Tensor, "batch positions"]:
    """Return at which real positions something is read: all of them, or the first or last of each sequence."""
    if reads == "all" or mask.shape[1] == 1:
        return mask
    positions = mask.int().argmax(1) if reads == "first" else mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
    live = torch.zeros_like(mask)
    live[torch.arange(len(mask), device=mask.device), positions] = True
    return live


def token_mask(batch: Batch) -> Bool[Tensor, "batch positions"]:
    """Return which positions of a batch hold real tokens."""
    if "attention_mask" in batch:
        return batch["attention_mask"].bool()
    return torch.ones_like(batch["input_ids"], dtype=torch.bool)


def _check_inputs(calls: Sequence[_Call], mask: Tensor) -> None:
    """Refuse units whose input is not made of the tokens, or not one vector for each of them or each sequence."""
    batch, length = mask.shape
    strays = [
        call
        for call in calls
        if call.y.numel() // call.y.shape[-1] not in (batch * length, batch) or not call.y.requires_grad
    ]
    if strays:
        names = {call.unit.name for call in strays}
        roles = dict.fromkeys(f"--exclude '*{call.unit.role}'" for call in strays)
        raise UsageError(
            f"{strays[0].unit.name} is fed something else than one vector for each of {batch} x {length} tokens (shape "
            f"{tuple(strays[0].x.shape)}), so its inputs cannot be matched to tokens; leave out such layers "
            f"({len(names)} in all) with {' '.join(roles)}"
        )


def by_token(tensor: Tensor, mask: Tensor) -> Float[Tensor, "batch positions features"]:
    """View a unit's input or output as (batch, positions, features); positions is 1 where it runs once a sequence."""
    features = tensor.shape[-1]
    return tensor.reshape(len(mask), tensor.numel() // features // len(mask), features)
