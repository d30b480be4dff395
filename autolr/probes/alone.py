"""Whether the representation or the likelihood of a sentence depends on the sentences beside it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autolr.data.minimal_pairs import MinimalPairs
from autolr.model.alone import LOOKED_AT, check_same, spread
from autolr.model.inputs import input_device
from autolr.probes.features import Pooling, features, sentence_batches
from autolr.probes.minimal_pairs import how_asked, likelihoods, pseudo_likelihoods


def check_sentences(
    model: nn.Module, tokenizer: Any, texts: Sequence[str], size: int, max_length: int, pooling: Pooling
) -> None:
    """Refuse a model whose representation of a sentence depends on the sentences beside it.

    Args:
        model: an encoder or decoder.
        tokenizer: the model's, with a padding token.
        texts: some of the sentences.
        size: sentences in a batch; with one there is nothing to check.
        max_length: tokens after which a sentence is cut.
        pooling: of the tokens.

    Raises:
        UsageError: as :func:`check_same`.
    """
    chosen = _by_length(tokenizer, texts)
    if size == 1 or len(chosen) <= 1:
        return
    device = input_device(model)

    def ask(asked: nn.Module) -> tuple[Tensor, Tensor]:
        alone, together = (
            features(asked, sentence_batches(tokenizer, chosen, n, max_length, device), pooling)
            for n in (1, len(chosen))
        )
        size = alone.abs().amax((1, 2), keepdim=True).clamp(min=torch.finfo(alone.dtype).tiny)  # of each layer
        return tuple((one / size).transpose(0, 1).flatten(1) for one in (alone, together))  # type: ignore[return-value]

    check_same("probes", model, ask)


def check_pairs(
    model: nn.Module, tokenizer: Any, paradigms: Sequence[MinimalPairs], size: int, max_length: int
) -> None:
    """Refuse a model whose likelihood of a sentence depends on the sentences beside it.

    Args:
        model: see :mod:`autolr.probes.minimal_pairs`.
        tokenizer: the model's, with a padding token.
        paradigms: the pairs.
        size: sentences in a batch; with one there is nothing to check.
        max_length: tokens that a sentence may have.

    Raises:
        UsageError: as :func:`check_same`.
    """
    texts = [text for pairs in paradigms for text in (*pairs.good, *pairs.bad)]
    chosen, how = _by_length(tokenizer, texts), how_asked(model)
    if size == 1 or len(chosen) <= 1:
        return
    if how == "probe":
        check_sentences(model, tokenizer, chosen, size, max_length, "mean")
        return
    likelihood = likelihoods if how == "likelihood" else pseudo_likelihoods

    def ask(asked: nn.Module) -> tuple[Tensor, Tensor]:
        alone, together = (likelihood(asked, tokenizer, chosen, n, max_length)[:, None] for n in (1, size))
        return alone, together

    check_same("minimal pairs", model, ask)


def _by_length(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """Return a short, a middling and a long one of some texts."""
    few = list(texts[:LOOKED_AT])
    if not few:
        return []
    lengths = [len(ids) for ids in tokenizer(few, verbose=False)["input_ids"]]
    order = sorted(range(len(few)), key=lambda row: (lengths[row], row))
    return [few[order[place]] for place in spread(len(few))]
