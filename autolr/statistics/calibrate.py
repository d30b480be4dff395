"""Calibration: model + batches -> the statistics of each layer, by one forward and, for gradients, one backward pass.

For a unit ``y = W x + b`` and the live tokens of the calibration data: ``E[x]``, ``E|x|``, ``E[x xᵀ]``; with
gradients ``E[g gᵀ]`` per token and ``Σ_out E[(∂loss/∂W)²]`` per example, ``g = ∂loss/∂y``; where a method
asks for them ``E[d dᵀ]`` of the gradients by masks of the inputs, ``d = Σ_tokens x ⊙ Wᵀ g``. The loss is the model's
own log-likelihood under the labels it would draw itself, in exact expectation over the classes: the gradients of a
fine-tuned model on its own correct labels vanish, and the squared mean gradient of a batch is not the Fisher.

The whole model is in memory with the graph of a batch; :mod:`autolr.statistics.stream` goes block by block. Hooks never
outlive the call.
"""

import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from autolr.errors import UsageError
from autolr.model.record_calls import (
    Batch,
    Reads,
    check_inputs,
    finite_logits,
    graph_from_embeddings,
    random_cotangent,
    reads_of,
    recorded,
    stray_calls,
    token_mask,
    undisturbed,
)
from autolr.model.units import unit_weight
from autolr.statistics.accumulate import Sums, add_batch, unit_bytes
from autolr.statistics.token_counts import TokenSums
from autolr.types import LayerStats, Unit

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
        seed: of the draws, which depend on nothing else but what the model finds most probable at real tokens.

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
        likely = p.argmax(-1)[mask].to("cpu", torch.int32).numpy().tobytes()
        state = np.random.SeedSequence([self.seed, zlib.crc32(likely)]).generate_state(1)  # torch reads 32 bits of it
        random = torch.Generator().manual_seed(int(state[0]))
        drawn = torch.zeros_like(mask, dtype=torch.long)
        drawn[mask] = torch.multinomial(p[mask].cpu(), 1, generator=random)[:, 0].to(p.device)
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
    masks: Collection[str] = (),
) -> Iterator[tuple[Unit, LayerStats]]:
    """Measure the statistics of each unit.

    Args:
        model: in any mode; it is run in evaluation mode.
        units: the layers to measure.
        batches: tokenized inputs with ``attention_mask``; labels are not read.
        cotangents: what to backpropagate from the logits; None measures moments only.
        memory: bytes for the statistics; when they do not fit, several passes over the batches each measure a part.
        progress: told the share of the work done, in [0, 1].
        masks: names of the units whose ``mask_gram`` is measured too, where there are gradients.

    Yields:
        Each unit with its statistics, in the order of ``units``.

    Raises:
        UsageError: there are no batches, or a unit is fed something else than one vector per token.
        AutolrError: a layer was never reached by the calibration data, or its statistics or the model's outputs are not
            finite.
    """
    if not batches:
        raise UsageError("calibration needs at least one batch of training data, got none")
    with undisturbed(model):
        reads = positions_read(model, units, batches[0])
        groups = unit_groups(units, memory, cotangents is not None, masks)
        for number, group in enumerate(groups):
            sums = sums_of(model, group, masks)
            for step, batch in enumerate(batches):
                _accumulate(model, group, batch, cotangents, reads, sums)
                progress((number + (step + 1) / len(batches)) / len(groups))
            for unit in group:
                yield unit, sums.pop(unit.name).finish()


def sums_of(model: nn.Module, units: Sequence[Unit], masks: Collection[str]) -> dict[str, Sums]:
    """Return empty sums for each unit, by name; ``masks`` names those whose masks' gradients are summed up too."""

    def empty(unit: Unit) -> Sums:
        if unit.of == "embedding":
            return TokenSums(unit)
        return Sums(unit, unit_weight(model, unit) if unit.name in masks else None)

    return {unit.name: empty(unit) for unit in units}


def pass_count(
    units: Sequence[Unit], memory: int = DEFAULT_MEMORY, gradients: bool = True, masks: Collection[str] = ()
) -> int:
    """Return how many passes over the calibration data the statistics need within this memory."""
    return len(unit_groups(units, memory, gradients, masks))


def unit_groups(units: Sequence[Unit], memory: int, gradients: bool, masks: Collection[str] = ()) -> list[list[Unit]]:
    """Return the units in groups whose statistics fit into this many bytes; one unit that does not is a group."""
    groups: list[list[Unit]] = [[]]
    used = 0
    for unit in units:
        size = unit_bytes(unit, gradients, unit.name in masks)
        if groups[-1] and used + size > memory:
            groups.append([])
            used = 0
        groups[-1].append(unit)
        used += size
    return groups


def positions_read(model: nn.Module, units: Sequence[Unit], batch: Batch) -> dict[str, Reads]:
    """Find at which positions each unit's output is read at all, by where a random gradient of the logits arrives."""
    mask = token_mask(batch)
    with torch.enable_grad(), graph_from_embeddings(model), recorded(model, units) as calls:
        logits = finite_logits(model, batch)
        check_inputs(calls, mask)
        outputs = [call.y for call in calls]
        gradients = torch.autograd.grad(logits, outputs, random_cotangent(logits), allow_unused=True)
    return reads_of(calls, gradients, mask)


def unmatched_units(model: nn.Module, units: Sequence[Unit], batch: Batch) -> frozenset[str]:
    """Return the units whose inputs cannot be matched to tokens, such as DeBERTa's projections of relative positions.

    Args:
        model: in any mode.
        units: the layers in question.
        batch: tokenized inputs, at best of several sequences of more than one token.
    """
    with undisturbed(model), torch.enable_grad(), graph_from_embeddings(model), recorded(model, units) as calls:
        finite_logits(model, batch)
        return frozenset(call.unit.name for call in stray_calls(calls, token_mask(batch)))


def _accumulate(
    model: nn.Module,
    units: Sequence[Unit],
    batch: Batch,
    cotangents: Cotangents | None,
    reads: Mapping[str, Reads],
    sums: Mapping[str, Sums],
) -> None:
    mask = token_mask(batch)
    with (
        torch.set_grad_enabled(cotangents is not None),
        graph_from_embeddings(model),
        recorded(model, units) as calls,
    ):
        logits = finite_logits(model, batch)
        outputs = [call.y for call in calls]
        vectors = [] if cotangents is None else cotangents(logits, mask)
        gradients = [
            torch.autograd.grad(logits, outputs, vector, retain_graph=k + 1 < len(vectors), allow_unused=True)
            for k, vector in enumerate(vectors)
        ]
    tables = [place for place, call in enumerate(calls) if call.unit.of == "embedding"]
    for place in tables:
        total = sums[calls[place].unit.name]
        assert isinstance(total, TokenSums)
        total.add_batch(calls[place], [of_class[place] for of_class in gradients], mask)
    others = [place for place in range(len(calls)) if place not in tables]
    of_others = [[of_class[place] for place in others] for of_class in gradients]
    add_batch([calls[place] for place in others], of_others, mask, reads, sums)
