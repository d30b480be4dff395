"""Low rank of what neurons leave: decompositions of the smaller matrices, at some numbers of neurons.

The reader of the neurons that stay is ``W′``, refitted; its metric is the one it had, and its inputs are those that
stay. Of a matrix that makes them the rows J stay. What its outputs mean to the loss has changed, for they are read by
``W′`` now and not by ``W``: the output metric is ``diag(s) H[J, J] diag(s)`` with ``s_j = |L W′_j| / |L W_j|``, the
length of neuron j's column in the reader's metric, after and before.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from autolr.methods.weighted_svd import psd_power, weighted_svd
from autolr.types import Decomposition, Elimination, Remainder

SIXTEENTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12)
"""Numbers of neurons of which the rest is decomposed, as shares of all."""
_NEGLIGIBLE = 1e-7
"""Share of the largest singular value below which another is noise, having been found squared."""


def remainder_counts(n: int) -> list[int]:
    """Return the numbers of neurons at which low rank is offered of the rest, in multiples of 16 where there are many.

    Example:
        >>> remainder_counts(1536)
        [96, 192, 288, 384, 480, 576, 768, 960, 1152]
        >>> remainder_counts(24)
        [2, 3, 4, 6, 8, 9, 12, 15, 18]
    """
    step = 16 if n >= 256 else 1
    return sorted({max(step, round(n * share / 16 / step) * step) for share in SIXTEENTHS if n > 1} - {n})


def remainders(
    elimination: Elimination,
    makers: Sequence[Float[Tensor, "n in"]],
    reader: Float[Tensor, "out n"],
    maker_grams: Sequence[Float[Tensor, "in in"]],
    maker_metrics: Sequence[Float[Tensor, "n n"]],
    metric: Float[Tensor, "out out"],
) -> tuple[Remainder, ...]:
    """Return the decompositions of what is left at each of :func:`remainder_counts`.

    Args:
        elimination: the order of the neurons.
        makers: the matrices that make them, (n, in).
        reader: W of the matrix that reads them, (out, n).
        maker_grams: second moments of what the makers are fed.
        maker_metrics: of the makers' outputs.
        metric: of the reader's output.
    """
    roots = [psd_power(gram) for gram in maker_grams]
    before = column_lengths(reader, metric)
    found = []
    for count in remainder_counts(reader.shape[1]):
        stays, fitted = elimination.kept(count), elimination.weight(count)
        change = column_lengths(fitted, metric) / before[stays].clamp(min=torch.finfo(torch.float64).tiny)
        made = []
        for weight, gram_root, maker_metric in zip(makers, roots, maker_metrics, strict=True):
            left = change[:, None] * maker_metric[stays][:, stays] * change
            made.append(_by_inputs(weight[stays], gram_root, left))
        covariance = elimination.covariance(count)
        found.append(Remainder(count, (*made, weighted_svd(fitted, covariance, metric))))
    return tuple(found)


def column_lengths(weight: Float[Tensor, "out in"], metric: Float[Tensor, "out out"]) -> Float[Tensor, " in"]:
    """Return the length of each column in a metric."""
    return ((metric @ weight) * weight).sum(0).clamp(min=0.0).sqrt()


def _by_inputs(
    weight: Float[Tensor, "out in"], root: Float[Tensor, "in in"], metric: Float[Tensor, "out out"]
) -> Decomposition:
    """Return the weighted SVD by the eigenvectors V of ``Tᵀ T``, ``T = L W R``, with neither L nor R inverted.

    ``L⁻¹ U = W R V S⁻¹`` and ``Uᵀ L W = S⁻¹ Vᵀ Rᵀ Wᵀ H W``: however many outputs, their metric is not decomposed.
    """
    product = weight.mT @ metric @ weight
    values, vectors = torch.linalg.eigh(root.mT @ product @ root)
    rank = min(weight.shape)
    s, vectors = values.flip(0).clamp(min=0.0).sqrt()[:rank], vectors.flip(1)[:, :rank]
    inverse = torch.where(s > _NEGLIGIBLE * s[0], 1 / s, 0.0)
    turned = root @ vectors
    return Decomposition(weight @ turned * inverse, s, inverse[:, None] * (turned.mT @ product))
