"""Heads of attention left out by the Fisher information of their masks, the masks of the rest tuned."""

from collections.abc import Sequence

from torch import Tensor

from autolr.methods.masks import Masks, masks_of
from autolr.records import Heads
from autolr.types import LayerStats, Method


def decompose(weights: Sequence[Tensor], stats: Sequence[LayerStats | None] | None, heads: Heads) -> Masks:
    """Return what decides which heads stay; with grouped-query attention a mask is of all that read one key.

    Args:
        weights: of the matrices that make the heads, (entries, in), and of the one that reads them, (out, entries).
        stats: of these matrices; of the last with the gradients by masks.
        heads: which entries are one.
    """
    return masks_of(weights[-1], stats[-1] if stats else None, "fisher-heads", heads.read)


METHOD = Method(
    "fisher-heads",
    1,
    frozenset({"moments", "gradients", "masks"}),
    decompose,
    "Kwon et al. 2022, arXiv 2204.09656",
    of="heads",
)
