"""Masks of neurons or heads: which are left out by the Fisher information of their masks, and what scales the rest.

A layer that reads n neurons or heads gives ``y = Σ_i m_i a_i + b`` with every mask ``m_i`` at 1, ``a_i`` what the i-th
adds to its output. With ``d = ∂loss/∂m`` of an example and ``F = E[d dᵀ]``, leaving out a set Z raises the loss by
``½ Σ_{i, j ∈ Z} F_ij`` to second order. Which are left out at a number is found as published: those of the least
``F_ii``, then rearranged by one round of greedy swaps with all of F. Sets of different sizes need not be nested.

What stays is scaled so that the layer's output changes least: with ``G_ij = E[ãᵢᵀ ãⱼ]`` about the mean, the scales s of
the set J minimise ``E‖Σ_i ãᵢ − Σ_{j ∈ J} s_j ãⱼ‖²``.

Source: Kwon et al. 2022 (arXiv 2204.09656), algorithm 2 as in the authors' code, and section 3.4.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from autolr.methods.shrinkage import required, well_conditioned
from autolr.types import LayerStats

RIDGE = 1e-4
"""Of the scales, drawn to 1: share of the mean of G's diagonal."""


@dataclass(frozen=True)
class Masks:
    """What decides which neurons or heads stay, and by what they are multiplied.

    Attributes:
        fisher: F, (n, n), of n masks.
        gram: G, (n, n).
        reader: W of the layer that reads them, (out, n x width); of a head as many columns as it has entries.
        errors: (n x width + 1,) float64, ``Σ F_ii`` of what is left out where the first k columns stay, before swaps,
            per token; half of it times the tokens of an example is the increase of the loss.

    Example:
        >>> fisher = torch.tensor([[4.0, 0, 0], [0, 3.0, 2.9], [0, 2.9, 3.1]])  # the last two go badly together
        >>> masks = Masks(fisher, torch.eye(3), torch.ones(2, 3), torch.zeros(4))
        >>> masks.kept(2).tolist(), masks.kept(1).tolist(), masks.scales(2).tolist()
        ([0, 2], [2], [1.0, 1.0])
    """

    fisher: Float[Tensor, "n n"]
    gram: Float[Tensor, "n n"]
    reader: Float[Tensor, "out columns"]
    errors: Float[Tensor, " columns_plus_1"]
    remainders: ClassVar[tuple[()]] = ()

    @property
    def width(self) -> int:
        """How many columns of the reader a mask has."""
        return self.reader.shape[1] // len(self.fisher)

    @cached_property
    def importance(self) -> Float[Tensor, " n"]:
        """The diagonal of F, (n,) float64."""
        return self.fisher.diagonal().double()

    def selected(self, columns: int) -> Int[Tensor, " masks"]:
        """Return the masks that stay where so many columns do, rising."""
        gone = rearranged(self.fisher, len(self.fisher) - columns // self.width)
        stays = torch.ones(len(self.fisher), dtype=torch.bool, device=self.fisher.device)
        stays[gone] = False
        return stays.nonzero()[:, 0]

    def kept(self, columns: int) -> Int[Tensor, " columns"]:
        """Return the columns of the reader that stay where so many do, rising."""
        return self._columns(self.selected(columns))

    def scales(self, columns: int) -> Float[Tensor, " masks"]:
        """Return what the masks of :meth:`selected` become, float64."""
        return tuned(self.gram, self.selected(columns))

    def weight(self, columns: int) -> Float[Tensor, "out columns"]:
        """Return the reader's columns of :meth:`kept`, scaled, (out, columns) float64."""
        stays = self.selected(columns)
        scales = tuned(self.gram, stays).repeat_interleave(self.width)
        return self.reader[:, self._columns(stays)].double() * scales

    def _columns(self, masks: Int[Tensor, " masks"]) -> Int[Tensor, " columns"]:
        return (masks[:, None] * self.width + torch.arange(self.width, device=masks.device)).flatten()


def masks_of(weight: Float[Tensor, "out columns"], stats: LayerStats | None, method: str, width: int = 1) -> Masks:
    """Return the record of a layer that reads neurons or heads.

    Args:
        weight: W, (out, n x width).
        stats: of this layer, with the gradients by masks.
        method: whose record it is, for messages.
        width: columns of a mask.

    Raises:
        FactorizationError: the layer was not calibrated, or without the gradients by masks.
    """
    measured = required(stats, method, "mask_gram")
    assert measured.mask_gram is not None
    fisher = by_mask(measured.mask_gram, width)
    covariance = well_conditioned(measured.in_covariance, measured.n_tokens)
    gram = by_mask((weight.mT @ weight) * covariance, width)
    left_out = torch.cat([fisher.new_zeros(1), fisher.diagonal().clamp(min=0.0).sort().values.cumsum(0)]).flip(0)
    errors = left_out[torch.arange(weight.shape[1] + 1, device=weight.device) // width]
    return Masks(fisher, gram, weight.clone(), errors / measured.tokens_per_example)


def rearranged(fisher: Float[Tensor, "n n"], count: int) -> list[int]:
    """Return which masks are left out: those of the least Fisher information, rearranged by one round of swaps.

    Each mask that stays is, by rising Fisher information, left out too, and of all that are left out that one comes
    back without which ``Σ_{i, j} F_ij`` of them is least. So no swap makes the sum larger.

    Args:
        fisher: F, positive semi-definite.
        count: of the masks that are left out.

    Returns:
        Their places.
    """
    matrix = fisher.double().cpu().numpy()
    diagonal = matrix.diagonal()
    order = np.argsort(diagonal, kind="stable")
    gone = np.zeros(len(matrix), dtype=bool)
    gone[order[:count]] = True
    if not 0 < count < len(matrix):
        return list(map(int, gone.nonzero()[0]))
    coupling = matrix[gone].sum(0)  # of each mask with all that are left out
    for entering in order[count:]:
        gone[entering] = True
        coupling += matrix[entering]
        spared = np.where(gone, 2 * coupling - diagonal, -np.inf)
        back = int(entering if spared[entering] >= spared.max() else spared.argmax())
        gone[back] = False
        coupling -= matrix[back]
    return list(map(int, gone.nonzero()[0]))


def tuned(gram: Float[Tensor, "n n"], stays: Int[Tensor, " k"], ridge: float = RIDGE) -> Float[Tensor, " k"]:
    """Return the scales of the masks that stay which keep the layer's output nearest to what it was, (k,) float64.

    Args:
        gram: G, (n, n), positive semi-definite.
        stays: places of the masks that stay, rising.
        ridge: by which the scales are drawn to 1, as a share of the mean of G's diagonal.
    """
    gram = gram.double()
    inside = gram[stays][:, stays]
    lost = gram[stays].sum(1) - inside.sum(1)
    return 1.0 + solved(inside, lost, ridge * gram.diagonal().mean())


def solved(gram: Float[Tensor, "k k"], cross: Float[Tensor, " k"], ridge: Tensor) -> Float[Tensor, " k"]:
    """Return the change c of the scales that minimises ``cᵀ G c − 2 crossᵀ c + ridge ‖c‖²``."""
    floor = torch.finfo(torch.float32).tiny  # of a layer that nothing is fed
    regular = gram + ridge.clamp(min=floor) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    change: Tensor = torch.linalg.solve(regular, cross)
    return change


def by_mask(gram: Float[Tensor, "columns columns"], width: int) -> Float[Tensor, "n n"]:
    """Return sums over the columns of each pair of masks."""
    n = len(gram) // width
    return gram.reshape(n, width, n, width).sum((1, 3))
