"""Whether a model is a causal language model: by the name of its class, and by what it does."""

from typing import Any

import torch
from torch import nn

from autolr.errors import UsageError
from autolr.model.inputs import input_device

_PROBED = 8
"""Tokens of the sequences that are compared."""


def is_causal_class(model: nn.Module) -> bool:
    """Tell whether a model's class has the head of a causal language model.

    Example:
        >>> is_causal_class(nn.Linear(2, 2))
        False
    """
    return type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))


def check_causal(model: nn.Module, source: str) -> None:
    """Refuse a model that reads the tokens it is asked for: such a one knows the next token.

    Args:
        model: of a causal class, on its device.
        source: where it came from.

    Raises:
        UsageError: another last token changes what the model puts out before it.
    """
    device = input_device(model)
    table: Any = model.get_input_embeddings()  # type: ignore[operator]  # of a PreTrainedModel
    known = len(table.weight)
    ids = torch.arange(2, 2 * _PROBED + 2, device=device).reshape(2, _PROBED) % known
    ids[1, :-1] = ids[0, :-1]
    with torch.inference_mode():
        one, other = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, :-1].float()
    rounding = 1e-3 if model.dtype == torch.float32 else 3e-2
    if bool((one - other).abs().max() > rounding * one.abs().max()):
        raise UsageError(
            f"{source}: this {type(model).__name__} reads the tokens behind the one it is asked for, so its "
            f"likelihoods are not those of a causal language model; one that was trained as such says so in its "
            f"config.json (is_decoder: true)"
        )
