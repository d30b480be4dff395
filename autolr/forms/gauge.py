"""The gauge of a factor pair is free: ``left D⁻¹`` and ``D right`` compute what ``left`` and ``right`` do.

The factors of a weighted SVD, ``left = L⁻¹ U`` and ``right = Uᵀ L W``, differ in size by what the metric L is: by five
orders of magnitude where a model is sure of its answers and gradients are small. float32 does not mind; float16
overflows and int8, which has one step for all that lies between the factors, loses the smaller ones; a learning rate
that suits one destroys the other. Here each column of ``left`` is made as long as its row of ``right``, up to a power
of two, so that the layer's output stays the same to the last bit.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from autolr.checkpoint.runtime.layers import LowRankLinear


def balance(
    left: Float[Tensor, "out rank"], right: Float[Tensor, "rank in"]
) -> tuple[Float[Tensor, "out rank"], Float[Tensor, "rank in"]]:
    """Return factors of the same product of which each pair of column and row has lengths within a factor of two.

    Args:
        left: (out, rank).
        right: (rank, in), of the same dtype.

    Returns:
        Both in their dtype, on their device; a pair of which one side is zero stays as it is.

    Example:
        >>> left, right = balance(torch.tensor([[4096.0], [0.0]]), torch.tensor([[1.0, 0.0]]))
        >>> left.flatten().tolist(), right.flatten().tolist()
        ([64.0, 0.0], [64.0, 0.0])
    """
    columns, rows = left.double().norm(dim=0), right.double().norm(dim=1)
    both = (columns > 0) & (rows > 0)
    ratio = torch.where(both, columns / rows, 1.0)
    exponent = (ratio.log2() / 2).round().int()
    return torch.ldexp(left, -exponent), torch.ldexp(right, exponent[:, None])


@torch.no_grad()
def balance_(layer: LowRankLinear) -> None:
    """Balance a layer's factors in place; its output stays the same."""
    if layer.rank:
        left, right = balance(layer.left.weight, layer.right.weight)
        layer.left.weight.copy_(left)
        layer.right.weight.copy_(right)
