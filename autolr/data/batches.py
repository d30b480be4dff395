"""Tokenized batches of sentence pairs: alike lengths together, so that little padding is computed."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from autolr.data.nli import NliData
from autolr.data.positions import longest_sequence
from autolr.errors import UsageError

Batch = dict[str, Tensor]

_ROUNDING = 0.03
"""Share of a logit that padding may change, in bfloat16 and beside a longer text."""
LONGEST = 8192
"""Tokens after which a pair is cut where neither the model nor its tokenizer has a limit."""


def longest_input(model: PreTrainedModel, tokenizer: Any) -> int:
    """Return how many tokens the model and its tokenizer take at most."""
    limits = [int(tokenizer.model_max_length)]
    positions = longest_sequence(model)
    return min([*limits, LONGEST] if positions is None else [*limits, LONGEST, positions])


def input_device(model: nn.Module) -> torch.device:
    """Return where a model takes its batches; one whose first layers are on disk takes them anywhere.

    Example:
        >>> input_device(nn.Linear(2, 2, device="meta"))
        device(type='cpu')
    """
    device = next(model.parameters()).device
    return torch.device("cpu") if device.type == "meta" else device


def ensure_padding(model: PreTrainedModel, tokenizer: Any) -> None:
    """Give a tokenizer without a padding token the model's or its own end-of-text token for that, and tell the model.

    The model's goes first: a classifier of a decoder reads the last token that is not its own padding. Where both have
    one and they differ, such a classifier is told the tokenizer's.

    Raises:
        UsageError: there is neither, or the model reads its answer at the end of the text.
    """
    if tokenizer.pad_token is None:
        own = getattr(model.config, "pad_token_id", None)
        if own is not None and 0 <= own < len(tokenizer):
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(own)
            return
        if getattr(model.config, "is_encoder_decoder", False):
            raise UsageError(
                "the tokenizer has no padding token, and an encoder-decoder cannot be padded with the end of the text, "
                "where it reads its answer; set tokenizer.pad_token"
            )
        if tokenizer.eos_token is None:
            raise UsageError("the tokenizer has neither a padding nor an end-of-text token; set tokenizer.pad_token")
        tokenizer.pad_token = tokenizer.eos_token
    own = getattr(model.config, "pad_token_id", None)
    if own is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    elif own != tokenizer.pad_token_id and _padding_tells(model, tokenizer):
        model.config.pad_token_id = tokenizer.pad_token_id
        if _padding_tells(model, tokenizer):  # that was not why
            model.config.pad_token_id = own


def _padding_tells(model: PreTrainedModel, tokenizer: Any) -> bool:
    """Tell whether a classifier answers a short text otherwise beside a longer one than alone."""
    if not type(model).__name__.endswith("ForSequenceClassification"):
        return False
    texts, where = ["a", "a a a a a a a a"], input_device(model)
    with torch.inference_mode():
        together, alone = (
            model(**tokenizer(t, padding=True, return_tensors="pt").to(where)) for t in (texts, texts[:1])
        )
    gap = (together.logits[0] - alone.logits[0]).abs().max()
    return bool(gap > _ROUNDING * alone.logits.abs().max())


def check_tokens(model: PreTrainedModel, tokenizer: Any, named: Iterable[tuple[str, Mapping[str, Tensor]]]) -> None:
    """Refuse data with tokens that the model has no embedding for; looked for only where the tokenizer has such.

    Args:
        model: with a table of embeddings.
        tokenizer: that made the batches.
        named: names of data and batches of them, with ``input_ids``; not gone through where no token can be missing.

    Raises:
        UsageError: with the token.
    """
    table: Any = model.get_input_embeddings()
    known = len(table.weight)
    if len(tokenizer) <= known and max(tokenizer.get_vocab().values()) < known:
        return
    for name, batch in named:
        highest = int(batch["input_ids"].max())
        if highest >= known:
            raise UsageError(
                f"the {name} data hold the token {tokenizer.convert_ids_to_tokens(highest)!r}, whose id {highest} is "
                f"beyond the model's {known} embeddings; use the model's own tokenizer"
            )


def pair_batches(
    tokenizer: Any, data: NliData, batch_size: int, max_length: int, device: torch.device | str = "cpu"
) -> list[Batch]:
    """Tokenize pairs into padded batches, sorted by length.

    Args:
        tokenizer: a Hugging Face tokenizer.
        data: the pairs.
        batch_size: pairs in a batch, ≥ 1; the last may hold fewer.
        max_length: tokens after which a pair is cut.
        device: where the tensors live.

    Returns:
        Batches of the tokenizer's own inputs, each with ``labels`` (batch,) int64.
    """
    encoded = _encode(tokenizer, data, max_length)
    order = _by_length(encoded)
    batches = []
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        padded = tokenizer.pad({name: [encoded[name][row] for row in rows] for name in encoded}, return_tensors="pt")
        padded["labels"] = torch.tensor([data.labels[row] for row in rows])
        batches.append({name: tensor.to(device) for name, tensor in padded.items()})
    return batches


def length_order(tokenizer: Any, data: NliData, max_length: int) -> list[int]:
    """Return the order in which :func:`pair_batches` has the pairs: by length, then as they come."""
    return _by_length(_encode(tokenizer, data, max_length))


def _encode(tokenizer: Any, data: NliData, max_length: int) -> Any:
    return tokenizer(list(data.premises), list(data.hypotheses), truncation=True, max_length=max_length)


def _by_length(encoded: Any) -> list[int]:
    lengths = [len(ids) for ids in encoded["input_ids"]]
    return sorted(range(len(lengths)), key=lambda index: (lengths[index], index))


def mean_length(batches: list[Batch]) -> float:
    """Return the mean number of real tokens in a sequence."""
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    return tokens / sum(len(batch["input_ids"]) for batch in batches)
