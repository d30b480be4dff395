"""Tokenized batches of sentence pairs: alike lengths together, so that little padding is computed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from autolr.data.nli import NliData
from autolr.errors import UsageError
from autolr.model.positions import longest_sequence

Batch = dict[str, Tensor]
Side = Literal["left", "right"]

LONGEST = 8192
"""Tokens after which a pair is cut where neither the model nor its tokenizer has a limit."""
FULL = 256
"""Tokens of an example up to which a batch has as many examples as it was asked for; of longer ones it has fewer."""


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
    tokenizer: Any,
    data: NliData,
    batch_size: int,
    max_length: int,
    device: torch.device | str = "cpu",
    side: Side = "right",
) -> list[Batch]:
    """Tokenize pairs into padded batches, sorted by length.

    Args:
        tokenizer: a Hugging Face tokenizer.
        data: the pairs.
        batch_size: pairs in a batch, ≥ 1; the last may hold fewer, and of long pairs fewer go together.
        max_length: tokens after which a pair is cut.
        device: where the tensors live.
        side: of the padding, whatever the tokenizer's own.

    Returns:
        Batches of the tokenizer's own inputs, each with ``labels`` (batch,) int64.
    """
    encoded = _encode(tokenizer, data, max_length)
    order = _by_length(encoded)
    batches = []
    for group in grouped([len(encoded["input_ids"][row]) for row in order], batch_size):
        rows = order[group]
        listed = {name: [encoded[name][row] for row in rows] for name in encoded}
        padded = tokenizer.pad(listed, padding_side=side, return_tensors="pt")
        padded["labels"] = torch.tensor([data.labels[row] for row in rows])
        batches.append({name: tensor.to(device) for name, tensor in padded.items()})
    return batches


def grouped(lengths: Sequence[int], size: int) -> Iterator[slice]:
    """Divide examples into batches of at most ``size``, and of at most ``size × FULL`` tokens with their padding.

    A text far longer than the rest would otherwise be the length of a whole batch. An example is never left out: one
    that is longer than that goes alone.

    Args:
        lengths: tokens of each example, in the order of the batches.
        size: ≥ 1.

    Example:
        >>> [range(*batch.indices(4)) for batch in grouped([9, 9, 9, 2 * FULL], 2)]
        [range(0, 2), range(2, 3), range(3, 4)]
    """
    start = longest = 0
    for place, length in enumerate(lengths):
        longest = max(longest, length)
        count = place + 1 - start
        if count > 1 and (count > size or count * longest > size * FULL):
            yield slice(start, place)
            start, longest = place, length
    if lengths:
        yield slice(start, len(lengths))


def length_order(tokenizer: Any, data: NliData, max_length: int) -> list[int]:
    """Return the order in which :func:`pair_batches` has the pairs: by length, then as they come."""
    return _by_length(_encode(tokenizer, data, max_length))


def count_cut(tokenizer: Any, texts: Sequence[Sequence[str]], max_length: int) -> int:
    """Return how many texts are cut because they have more tokens than the model takes.

    Args:
        tokenizer: a Hugging Face tokenizer.
        texts: one sequence of texts, or that of the first and that of the second sentences of pairs.
        max_length: tokens after which a text is cut.
    """
    ids = tokenizer(*map(list, texts), truncation=True, max_length=max_length)["input_ids"]
    full = [row for row, tokens in enumerate(ids) if len(tokens) >= max_length]
    if not full:
        return 0
    whole = tokenizer(*([column[row] for row in full] for column in texts), truncation=False, verbose=False)
    return sum(len(tokens) > max_length for tokens in whole["input_ids"])


def _encode(tokenizer: Any, data: NliData, max_length: int) -> Any:
    return tokenizer(list(data.premises), list(data.hypotheses), truncation=True, max_length=max_length)


def _by_length(encoded: Any) -> list[int]:
    lengths = [len(ids) for ids in encoded["input_ids"]]
    return sorted(range(len(lengths)), key=lambda index: (lengths[index], index))


def mean_length(batches: list[Batch]) -> float:
    """Return the mean number of real tokens in a sequence."""
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    return tokens / sum(len(batch["input_ids"]) for batch in batches)


def rounded_length(mean: float, longest: int) -> int:
    """Return a mean length rounded up to a multiple of 8, at most the longest.

    Example:
        >>> rounded_length(27.3, 512), rounded_length(27.3, 30)
        (32, 30)
    """
    return min(longest, -(-int(mean + 0.5) // 8) * 8)
