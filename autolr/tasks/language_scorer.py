"""Scores of a language model on blocks of text, each a mean over the next tokens of the block.

loss        −log p(next token), nats per token; perplexity is exp of its mean
accuracy    share of next tokens that are the most probable one
agreement   share of next tokens on which the compressed model and the dense one find the same token most probable
divergence  KL(p_dense ‖ p_compressed), nats per token, with all but the dense model's ``MOST_LIKELY`` tokens taken as
            one: never above the whole divergence, and equal to it where the vocabulary is no larger
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from autolr.scores import ACCURACY, AGREEMENT, DIVERGENCE, LOSS
from autolr.tasks.forward import Batch, run_batches
from autolr.tasks.scorer import Answers, Rows, Scorer, finite

MOST_LIKELY = 32
"""Tokens whose probabilities are kept of the dense model's, position by position: 16 kB for a block of 64 tokens."""
COLUMNS = (LOSS.name, ACCURACY.name, AGREEMENT.name, DIVERGENCE.name)


@dataclass(frozen=True)
class LanguageScorer(Scorer):
    """Scores a language model on fixed blocks of text against the text and the dense model's next tokens.

    Attributes:
        batches: tokenized blocks, all of one length, with ``attention_mask``.
        dense: the dense model's own values, (blocks, 4).
        first: its most probable next token, (blocks, length − 1): of equals the one that ``argmax`` takes.
        tokens: its most probable next tokens, (blocks, length − 1, k), equals in any order.
        log_probabilities: of these, (blocks, length − 1, k).
    """

    batches: Sequence[Batch]
    dense: Answers
    first: Int[Tensor, "blocks positions"]
    tokens: Int[Tensor, "blocks positions k"]
    log_probabilities: Float[Tensor, "blocks positions k"]

    @classmethod
    def of(
        cls, model: nn.Module, batches: Sequence[Batch], tick: Callable[[], None] = lambda: None
    ) -> "LanguageScorer":
        """Build a scorer whose reference is this dense model.

        Raises:
            AutolrError: the model's outputs are not finite.
        """
        tokens: list[Tensor] = []
        first: list[Tensor] = []

        def reduce(logits: Tensor, inputs: Batch, start: int) -> Tensor:
            del start
            log_p = finite(logits[:, :-1].flatten(1)).reshape(logits[:, :-1].shape).float().log_softmax(-1)
            top = log_p.topk(min(MOST_LIKELY, log_p.shape[-1]), dim=-1)
            best = log_p.argmax(-1)
            tokens.append(top.indices.int().cpu())
            first.append(best.int().cpu())
            values = _values(log_p, inputs, best, top.indices, top.values)
            return torch.cat([values.float(), top.values.flatten(1)], 1)

        kept = run_batches(model, batches, reduce, tick)
        found = torch.cat(tokens)
        known = kept[:, len(COLUMNS) :].reshape(found.shape).clone()
        return cls(batches, kept[:, : len(COLUMNS)].clone(), torch.cat(first), found, known)

    def majority(self) -> float:
        """Return the share of the commonest next token."""
        following = torch.cat([batch["input_ids"][:, 1:].flatten().cpu() for batch in self.batches])
        return float(following.bincount().max()) / len(following)

    def kept(self) -> dict[str, Tensor]:
        """Return the dense model's values and its most probable next tokens."""
        return {
            "values": self.dense,
            "first": self.first,
            "tokens": self.tokens,
            "log_probabilities": self.log_probabilities,
        }

    def answers(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        rows: Rows | None = None,
        tick: Callable[[], None] = lambda: None,
        halved: bool = False,
    ) -> Answers:
        """Return the four values of some of the blocks, (blocks, 4) float32; see :meth:`Scorer.answers`."""
        first = self.first if rows is None else self.first[rows]
        tokens = self.tokens if rows is None else self.tokens[rows]
        known = self.log_probabilities if rows is None else self.log_probabilities[rows]

        def reduce(logits: Tensor, inputs: Batch, start: int) -> Tensor:
            here = slice(start, start + len(logits))
            log_q = logits[:, :-1].float().log_softmax(-1)
            device = log_q.device
            best, likely = first[here].to(device), tokens[here].to(device).long()
            return _values(log_q, inputs, best, likely, known[here].to(device)).float()

        return run_batches(model, batches, reduce, tick, halved)

    def values(self, answers: Answers, rows: Rows | None = None) -> dict[str, Float[Tensor, " n"]]:
        """Return loss, accuracy, agreement and divergence of each block; see :meth:`Scorer.values`."""
        del rows
        return dict(zip(COLUMNS, finite(answers).double().unbind(1), strict=True))


def _values(
    log_q: Float[Tensor, "blocks positions vocabulary"],
    inputs: Batch,
    first: Int[Tensor, "blocks positions"],
    tokens: Int[Tensor, "blocks positions k"],
    log_p: Float[Tensor, "blocks positions k"],
) -> Float[Tensor, "blocks 4"]:
    """Return each block's means over its next tokens, float64."""
    following = inputs["input_ids"][:, 1:]
    live = inputs["attention_mask"][:, 1:].bool()
    columns = (
        -log_q.gather(-1, following[..., None])[..., 0].double(),
        (log_q.argmax(-1) == following).double(),
        (log_q.argmax(-1) == first).double(),
        coarse_divergence(log_p, log_q.gather(-1, tokens), tokens.shape[-1] == log_q.shape[-1]),
    )
    return torch.stack([_mean(column, live) for column in columns], 1)


def _mean(
    column: Float[Tensor, "blocks positions"], live: Bool[Tensor, "blocks positions"]
) -> Float[Tensor, " blocks"]:
    return (column * live).sum(1) / live.sum(1)


def coarse_divergence(
    log_p: Float[Tensor, "*batch k"], log_q: Float[Tensor, "*batch k"], complete: bool
) -> Float[Tensor, "*batch"]:
    """Return KL(p ‖ q) of k outcomes and, unless they are all there are, the rest taken as one; float64, ≥ 0.

    Args:
        log_p: log-probabilities of k outcomes.
        log_q: of the same outcomes.
        complete: these k are all.

    Example:
        >>> p, q = torch.tensor([0.5, 0.25]), torch.tensor([0.25, 0.5])
        >>> coarse_divergence(p.log(), q.log(), complete=False).round(decimals=4).item()
        0.1733
    """
    p, q = log_p.double(), log_q.double()
    known = (p.exp() * (p - q)).sum(-1)
    if not complete:
        rest_p, rest_q = (_rest(log) for log in (p, q))
        known = known + rest_p * (rest_p.log() - rest_q.log())
    return known.clamp(min=0.0)


def _rest(log: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch"]:
    """Return 1 less the sum of the probabilities, kept off zero by what float32 rounds away."""
    return (1.0 - log.exp().sum(-1)).clamp(min=1e-7)
