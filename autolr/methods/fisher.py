"""Neurons left out by the Fisher information of their masks, the masks of the rest tuned."""

from collections.abc import Sequence

from torch import Tensor

from autolr.methods.masks import Masks, masks_of
from autolr.types import LayerStats, Method


def decompose(weights: Sequence[Tensor], stats: Sequence[LayerStats | None] | None) -> Masks:
    """Return what decides which neurons stay.

    Args:
        weights: of the matrices that make the neurons, (neurons, in), and of the one that reads them, (out, neurons).
        stats: of these matrices; of the last with the gradients by masks.
    """
    return masks_of(weights[-1], stats[-1] if stats else None, "fisher")


METHOD = Method(
    "fisher",
    1,
    frozenset({"moments", "gradients", "masks"}),
    decompose,
    "Kwon et al. 2022, arXiv 2204.09656",
    of="neurons",
)
