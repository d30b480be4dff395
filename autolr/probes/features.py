"""Representations of sentences: every layer's hidden states, pooled over the tokens of each sentence.

Layer 0 is the embeddings' output; layer l what the l-th block puts out, as ``output_hidden_states`` has them. Of an
encoder-decoder they are the encoder's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, device, nn
from torch.nn.functional import pad

from autolr.checkpoint.runtime.rewrites import without
from autolr.checkpoint.runtime.rewrites.first_position import FirstPositionBlock
from autolr.errors import AutolrError, UsageError
from autolr.model.inputs import grouped
from autolr.model.kind import is_causal_class
from autolr.model.record_calls import Batch

Pooling = Literal["mean", "first", "last"]
"""Mean over the real tokens, the first of them ([CLS]), or the last (what a decoder has read everything at)."""
Features = Float[Tensor, "layers sentences hidden"]


@dataclass(frozen=True)
class SentenceBatches:
    """Tokenized sentences, alike lengths together.

    Attributes:
        batches: inputs with ``attention_mask``.
        order: for each row of the batches in turn which sentence it is.
    """

    batches: tuple[Batch, ...]
    order: tuple[int, ...]


def sentence_batches(
    tokenizer: Any, sentences: Sequence[str], size: int, max_length: int, where: device | str = "cpu"
) -> SentenceBatches:
    """Tokenize sentences into batches, sorted by length and padded on the right, where no model's positions shift.

    Args:
        tokenizer: a Hugging Face tokenizer with a padding token.
        sentences: the texts.
        size: sentences in a batch.
        max_length: tokens after which a sentence is cut.
        where: the device of the tensors.

    Raises:
        UsageError: a sentence has no token.
    """
    encoded = tokenizer(list(sentences), truncation=True, max_length=max_length)
    lengths = [len(ids) for ids in encoded["input_ids"]]
    if 0 in lengths:
        raise UsageError(f"the tokenizer makes no token of the sentence {sentences[lengths.index(0)]!r}; leave it out")
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    batches = []
    for group in grouped([lengths[row] for row in order], size):
        rows = order[group]
        listed = {name: [encoded[name][row] for row in rows] for name in encoded}
        padded = tokenizer.pad(listed, padding_side="right", return_tensors="pt")
        batches.append({name: tensor.to(where) for name, tensor in padded.items()})
    return SentenceBatches(tuple(batches), tuple(order))


def features(
    model: nn.Module,
    sentences: SentenceBatches,
    pooling: Pooling = "mean",
    layers: Sequence[int] | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Features:
    """Return the pooled hidden states of every sentence, float32 on the CPU, in the sentences' own order.

    Args:
        model: an encoder or decoder, with or without a head; the head is not run.
        sentences: tokenized.
        pooling: of the tokens.
        layers: which; None: all, embeddings first.
        tick: called after each batch; may raise to stop.

    Returns:
        A layer narrower than others (OPT-350M's last, projected) has zeros behind, which no probe sees.

    Raises:
        AutolrError: a representation is not finite.
    """
    model.eval()
    body: Any = getattr(model, "base_model", model)
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        body = body.get_encoder()
    parts: list[Tensor] = []
    # A block that is computed at the first position alone has no state at the others.
    with torch.inference_mode(), without(model, FirstPositionBlock.rewrite):
        for batch in sentences.batches:
            states = body(**text_inputs(model, batch), output_hidden_states=True).hidden_states
            chosen = [states[layer] for layer in (range(len(states)) if layers is None else layers)]
            mask = batch["attention_mask"].bool()
            vectors = [pooled(state.float(), mask, pooling) for state in chosen]
            width = max(vector.shape[1] for vector in vectors)
            parts.append(torch.stack([pad(vector, (0, width - vector.shape[1])) for vector in vectors]).cpu())
            tick()
    by_row = torch.cat(parts, 1)
    if not torch.isfinite(by_row).all():
        raise AutolrError("the model's representation of a sentence is NaN or infinite")
    found = torch.empty_like(by_row)
    found[:, list(sentences.order)] = by_row
    return found


def text_inputs(model: nn.Module, batch: Batch) -> Batch:
    """Return what a model is given of a tokenized text: of a causal language model tokens and mask alone.

    GPT-2 takes what some tokenizers call ``token_type_ids`` for tokens.
    """
    wanted = ("input_ids", "attention_mask") if is_causal_class(model) else set(batch) - {"labels"}
    return {name: tensor for name, tensor in batch.items() if name in wanted}


def pooled(
    states: Float[Tensor, "sentences positions hidden"], mask: Bool[Tensor, "sentences positions"], pooling: Pooling
) -> Float[Tensor, "sentences hidden"]:
    """Return one vector for each sentence from its real tokens' states, whatever the side of the padding.

    Example:
        >>> states, mask = torch.tensor([[[9.0], [1.0], [3.0]]]), torch.tensor([[False, True, True]])
        >>> [pooled(states, mask, how).item() for how in ("mean", "first", "last")]
        [2.0, 1.0, 3.0]
    """
    if pooling == "mean":
        live = mask[..., None].to(states)
        return (states * live).sum(1) / live.sum(1)
    position = mask.int().argmax(1) if pooling == "first" else mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
    return states[torch.arange(len(states), device=states.device), position]
