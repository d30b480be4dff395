"""``first-position``: the last block of a classifier that reads its encoder at the first position alone.

It needs that block's queries, attention output and feed-forward layers at that position alone. Keys and values are
computed everywhere, as before. The encoder's last hidden state then has one position.

This file depends on torch alone: a copy of it travels with every checkpoint.
"""

import sys
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

_NOT_ENCODERS = ("encoder_hidden_states", "encoder_attention_mask", "past_key_values", "use_cache")


class FirstPositionBlock(nn.Module):
    """Mixed into a BERT-type block (BERT, RoBERTa, ELECTRA, ...): computes the first position of its output alone."""

    rewrite: ClassVar[str] = "first-position"
    attention: Any
    feed_forward_chunk: Callable[[Tensor], Tensor]

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, *_: Any, **options: Any) -> Tensor:
        """Return the block's output at the first position, (batch, 1, features).

        Args:
            hidden_states: (batch, positions, features).
            attention_mask: as the model's attention implementation wants it, or None.
            *_: inputs of decoders, which these blocks are not.
            **options: of the attention implementation.
        """
        attend = self.attention.self
        first = hidden_states[:, :1]
        query, key, value = (
            layer(x).unflatten(-1, (-1, attend.attention_head_size)).transpose(1, 2)
            for layer, x in ((attend.query, first), (attend.key, hidden_states), (attend.value, hidden_states))
        )
        if attention_mask is not None and attention_mask.dim() == 4 and attention_mask.shape[2] > 1:
            attention_mask = attention_mask[:, :, :1]
        options = {name: value for name, value in options.items() if name not in _NOT_ENCODERS}
        options |= {"dropout": float(attend.dropout.p) if attend.training else 0.0, "scaling": attend.scaling}
        context, _weights = _attention(attend)(attend, query, key, value, attention_mask, **options)
        attended = self.attention.output(context.flatten(2), first)
        return self.feed_forward_chunk(attended)


def _attention(attend: Any) -> Callable[..., tuple[Tensor, Any]]:
    """Return the attention implementation that the block would use itself."""
    module: Any = sys.modules[type(attend).__module__]
    found: Callable[..., tuple[Tensor, Any]] = module.ALL_ATTENTION_FUNCTIONS.get_interface(
        attend.config._attn_implementation, module.eager_attention_forward
    )
    return found


def first_position_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks that can be computed at one position: one, or none."""
    place = first_position_block(model)
    return [] if place is None else [model.get_submodule(place)]


def first_position_block(model: nn.Module) -> str | None:
    """Return the name of the block that can be computed at one position alone, None if the model has no such block.

    That is the last block of an encoder of BERT's build in a sequence classifier. Only the modules are looked at; that
    the logits stay the same is for the caller to check, once, where he rewrites a model.
    """
    if not any(cls.__name__.endswith("ForSequenceClassification") for cls in type(model).__mro__):
        return None
    stacks = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and f".{name}".endswith(".encoder.layer")
    }
    if len(stacks) != 1:
        return None
    [(name, stack)] = stacks.items()
    block = stack[-1]
    attend = getattr(getattr(block, "attention", None), "self", None)
    wanted = ("query", "key", "value", "attention_head_size", "scaling")
    plain = {name for name, _ in getattr(block, "attention", block).named_children()} == {"self", "output"}
    fits = plain and all(hasattr(attend, part) for part in wanted) and hasattr(block, "feed_forward_chunk")
    known = hasattr(sys.modules[type(attend).__module__], "ALL_ATTENTION_FUNCTIONS")
    return f"{name}.{len(stack) - 1}" if fits and known and not getattr(block, "is_decoder", False) else None
