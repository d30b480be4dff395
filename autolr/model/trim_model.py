"""A model with fewer tokens: the rows of its table and of its output head that stay, and the numbers that it knows."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from autolr.errors import UsageError

_LISTS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "forced_decoder_ids", "sequence_bias")
"""Settings that name tokens in ways that are not numbered anew."""


def token_ids(model: PreTrainedModel) -> set[int]:
    """Return the tokens that a model's settings name, such as its padding.

    Raises:
        UsageError: a setting names tokens in a way that cannot be numbered anew.
    """
    found: set[int] = set()
    for settings in _settings(model):
        for name, value in vars(settings).items():
            if name in _LISTS and value:
                raise UsageError(f"{type(settings).__name__} names tokens by {name}; set it to none first")
            if _names_tokens(name, value):
                found |= set(value if isinstance(value, list) else [value])
    return {number for number in found if number >= 0}


@torch.no_grad()
def trim_(model: PreTrainedModel, kept: Sequence[int]) -> None:
    """Leave some tokens only, numbered anew in their order; weights that are tied stay so.

    Args:
        model: changed in place.
        kept: numbers of the tokens, rising; those of :func:`token_ids` among them.

    Raises:
        UsageError: the table or the head is of a class that is not known, something else has as many entries as there
            are tokens, or a token has no row; the model is left as it was.
    """
    table: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    size = len(table.weight)
    if max(kept) >= size:
        raise UsageError(f"the tokenizer has a token {max(kept)}, and the table {size} rows; resize the table first")
    _check_known(model, table, head, size)
    index = torch.tensor(kept, device=table.weight.device)
    tensors = [table.weight, *([] if head is None else [head.weight, head.bias])]
    smaller = {id(t): nn.Parameter(t[index], t.requires_grad) for t in tensors if t is not None}
    place = {number: new for new, number in enumerate(kept)}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if id(parameter) in smaller:
                module._parameters[name] = smaller[id(parameter)]
        if isinstance(module, nn.Embedding) and any(module.weight is tensor for tensor in smaller.values()):
            module.num_embeddings = len(kept)
            module.padding_idx = None if module.padding_idx is None else place[module.padding_idx]
    if head is not None:
        head.out_features = len(kept)
    for settings in _settings(model):
        _renumber(settings, place, size)


def _check_known(model: PreTrainedModel, table: nn.Module, head: nn.Module | None, size: int) -> None:
    if not isinstance(table, nn.Embedding) or not isinstance(head, nn.Linear | None):
        wrong = table if not isinstance(table, nn.Embedding) else head
        raise UsageError(f"a {type(wrong).__name__} of {type(model).__name__} has no rows of tokens that can be cut")
    known = {id(tensor) for module in (table, head) if module is not None for tensor in module.parameters()}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if id(tensor) not in known and size in tensor.shape:
            shape = tuple(tensor.shape)
            raise UsageError(f"{name} {shape} seems to have an entry for each of {size} tokens, and is not known")


def _settings(model: PreTrainedModel) -> list[Any]:
    config: Any = model.config
    found = {id(part): part for part in (config, config.get_text_config(), getattr(model, "generation_config", None))}
    return [part for part in found.values() if part is not None]


def _names_tokens(name: str, value: object) -> bool:
    numbers = value if isinstance(value, list) else [value]
    return name.endswith("_token_id") and all(isinstance(number, int) for number in numbers)


def _renumber(settings: Any, place: Mapping[int, int], size: int) -> None:
    for name, value in list(vars(settings).items()):
        if name == "vocab_size" and value == size:
            setattr(settings, name, len(place))
        if _names_tokens(name, value):
            new = [place.get(n, n) for n in value] if isinstance(value, list) else place.get(value, value)
            setattr(settings, name, new)
