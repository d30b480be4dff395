"""What the forms of turned heads share: layers that compute some entries of heads and fill the others with zeros."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from autolr.checkpoint.runtime.layers import SpreadLinear
from autolr.forms.selection import INDEX_BYTES
from autolr.records import Heads, Unit


def entry_counts(unit: Unit, multiple: int) -> range:
    """Return the numbers of entries of all heads of a key or value that are offered, in multiples."""
    total = heads_of(unit).groups * heads_of(unit).width
    return range(min(multiple, total - 1), total, multiple)


def heads_of(unit: Unit) -> Heads:
    """Return how a unit's entries fall into heads."""
    assert unit.heads is not None
    return unit.heads


def rows_of_queries(entries: Int[Tensor, " count"], heads: Heads) -> Int[Tensor, " queries_count"]:
    """Return the places of the entries in every query head that reads them, rising.

    Args:
        entries: of keys or values, rising: group x width + entry.
        heads: which entries are a head.

    Example:
        >>> rows_of_queries(torch.tensor([1, 2]), Heads(groups=2, queries=2, width=2)).tolist()
        [1, 3, 4, 6]
    """
    group, entry = entries // heads.width, entries % heads.width
    head = group[:, None] * heads.queries + torch.arange(heads.queries, device=entries.device)
    return (head * heads.width + entry[:, None]).flatten().sort().values


def spread(
    matrix: Unit, places: Int[Tensor, " count"], reads: bool, weight: Tensor, bias: Tensor | None, like: Tensor
) -> SpreadLinear:
    """Return the layer that computes, or reads, some entries of a matrix's heads.

    Args:
        matrix: the dense one.
        places: of the entries, rising.
        reads: whether they are its inputs; else its outputs.
        weight: (count, in), or (out, count) where it reads.
        bias: as long as the weight has rows, or none.
        like: gives device and dtype.
    """
    layer = empty_spread(matrix, len(places), reads, bias is not None, like)
    with torch.no_grad():
        layer.linear.weight.copy_(weight)
        layer.index.copy_(places)
        if bias is not None:
            layer.linear.bias.copy_(bias)
    return layer


def empty_spread(matrix: Unit, count: int, reads: bool, bias: bool, like: Tensor) -> SpreadLinear:
    """Return such a layer with any weights, and places that can be run."""
    layer = SpreadLinear(
        matrix.in_features, matrix.out_features, count, reads, bias, device=like.device, dtype=like.dtype
    )
    layer.index.copy_(torch.arange(count))
    return layer


def places_bytes(counts: Sequence[int]) -> int:
    """Return the bytes of the places of so many entries of each matrix."""
    return INDEX_BYTES * sum(counts)


def evenly(unit: Unit, shares: Sequence[float]) -> list[int]:
    """Return numbers of entries at which a shape is timed, in multiples of 16 where there are many."""
    total = heads_of(unit).groups * heads_of(unit).width
    step = 16 if total >= 256 else 1
    return sorted({max(step, round(share * total / step) * step) for share in shares} - {total})
