"""Which matrices of a block are the query, key, value and output of attention, and which of their entries are a head.

Head h is a number of rows of query, key and value, and as many columns of the output. With grouped-query attention
several query heads read one key and value; they go together. That is tried out, as with neurons: the first head is
left out of the first block, and the output must be fed the others just as they were. What counts on the number of
heads does not pass (biases by position of each head, fused projections); those blocks keep all of theirs.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from autolr.model.groups import Members, find_groups
from autolr.model.leave_out import others_unchanged
from autolr.model.record_calls import Batch
from autolr.records import Heads
from autolr.types import Unit

ATTENTION = "attention"
"""What the unit of such matrices is called, behind the name of their block."""
_WIDTHS = ("head_dim", "d_kv")
"""Where configurations tell the width of a head, if it is not the hidden size over the number of heads."""
_MAKERS = 3


def find_attentions(model: nn.Module, units: Sequence[Unit], batch: Batch) -> tuple[Unit, ...]:
    """Return a unit of several matrices for each attention whose heads can be left out, in forward order.

    Args:
        model: in any mode; it is left as it was.
        units: its matrices.
        batch: tokenized inputs of a few short sequences.

    Returns:
        Units whose ``matrices`` are query, key and value, in the order in which they are called, then the output.
    """
    return find_groups(model, units, batch, ATTENTION, "heads", _tried)


def _tried(model: nn.Module, inside: Mapping[str, Unit], batch: Batch) -> Iterator[Members]:
    members = list(inside)
    width = head_width(model)
    for place in range(_MAKERS, len(members)):
        names = tuple(members[place - _MAKERS : place + 1])
        matrices = [inside[name] for name in names]
        heads = _heads(matrices, width)
        if heads is not None and _heads_are_apart(model, matrices, heads, batch):
            yield names, heads


def head_width(model: nn.Module) -> int:
    """Return how many entries a head has, by the configuration; 0 if it does not tell."""
    config: Any = model.config
    text = config.get_text_config()
    width = next((getattr(text, name) for name in _WIDTHS if getattr(text, name, None)), None)
    if width is None:
        hidden, count = getattr(text, "hidden_size", 0), getattr(text, "num_attention_heads", 0)
        return hidden // count if isinstance(count, int) and count else 0
    return int(width)


def _heads(matrices: Sequence[Unit], width: int) -> Heads | None:
    """Return how the entries of query, key, value and output fall into heads, None if they do not."""
    *makers, reader = matrices
    outs = sorted(maker.out_features for maker in makers)
    if not width or outs[0] != outs[1] or outs[2] != reader.in_features or outs[0] % width or outs[2] % outs[0]:
        return None
    groups = outs[0] // width
    return Heads(groups, outs[2] // outs[0], width) if groups > 1 else None


def maker_rows(matrix: Unit, heads: Heads) -> int:
    """Return how many rows of a matrix that makes heads belong to a group: those of its query heads, or of its key."""
    return matrix.out_features // heads.groups


def _heads_are_apart(model: nn.Module, matrices: Sequence[Unit], heads: Heads, batch: Batch) -> bool:
    """Tell whether leaving out the first group of heads leaves the others as they are."""
    *makers, reader = matrices
    stay = {maker: torch.arange(maker_rows(maker, heads), maker.out_features) for maker in makers}
    return others_unchanged(model, stay, reader, torch.arange(heads.read, reader.in_features), batch)
