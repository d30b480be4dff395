"""Inputs of a matrix removed one after the other, the least needed first, the rest refitted by least squares.

``y = W x`` is to be computed from some entries ``x_J`` of its input alone. With ``C = Cov(x)`` and the output metric
``H = Lᵀ L`` the best that can be done is ``y ≈ W′ x_J + b′``, ``W′ = W C[:, J] C[J, J]⁻¹``. Which entries to keep is
found backwards (optimal brain surgeon, Hassibi & Stork 1993): the removal of ``x_j`` costs ``(w_jᵀ H w_j) / (C⁻¹)_jj``
where the rest is refitted at once, the cheapest goes, and ``W`` and ``C⁻¹`` become those of what is left.

In the order found, with ``C = rootᵀ root`` (upper triangle), ``e = root⁻ᵀ x`` is white, and the first k entries of x
span what the first k of e do. So ``W x = projected e`` with ``projected = W rootᵀ``; keeping k entries keeps the first
k columns of ``projected``, and costs the squared norms of the others. Every size is a slice, as with singular vectors.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autolr.errors import FactorizationError
from autolr.methods.weighted_svd import psd_power
from autolr.types import Elimination

SHARE_AT_ONCE = 32
"""One in so many of the inputs that are left is removed at once, then scores are computed anew (measured on 1,536
neurons of a real encoder: errors as with 256, at a fifth of the time)."""
_REGULAR = 1e-7
"""What is added to the covariance's diagonal, as a share of its mean."""
_LEAST_PIVOT = 1e-6
"""Share of the largest pivot of the covariance's root below which another is taken for a rounding error."""
_FLOOR = 1e-6
"""Of the eigenvalues of a covariance that is not positive definite, as a share of the largest."""


def eliminate(
    weight: Float[Tensor, "out in"],
    covariance: Float[Tensor, "in in"],
    metric: Float[Tensor, "out out"],
    share_at_once: int = SHARE_AT_ONCE,
    width: int = 1,
) -> Elimination:
    """Find the order in which inputs are removed, the least needed first.

    Args:
        weight: W, (out, in).
        covariance: of the inputs, (in, in); may be singular.
        metric: ``H = Lᵀ L`` of the output, (out, out), positive semi-definite.
        share_at_once: of the inputs left, one in so many is removed before scores are computed anew; at least one.
        width: inputs that go together, as those of a head do.

    Returns:
        The elimination, float64.

    Raises:
        FactorizationError: something is not finite.

    Source: Hassibi & Stork 1993 (NeurIPS); block removal as in Kurtić et al. 2023 (ZipLM, arXiv 2302.04089).

    Example:
        >>> x = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], dtype=torch.float64)  # the third is the others' sum
        >>> found = eliminate(torch.ones(1, 3), x.T @ x, torch.eye(1))
        >>> bool(found.errors[2] < 1e-5)
        True
    """
    weight, covariance, metric = weight.double(), covariance.double(), metric.double()
    for what, tensor in (("weight", weight), ("input covariance", covariance), ("output metric", metric)):
        if not torch.isfinite(tensor).all():
            raise FactorizationError(f"the {what} is not finite; check the model and the calibration data")
    covariance = _regular(covariance)
    if width == 1:
        order = _order(weight, covariance, metric, share_at_once)
    else:
        order = _order_of_groups(weight, covariance, metric, share_at_once, width)
    root = torch.linalg.cholesky(covariance[order][:, order], upper=True)
    projected = weight[:, order] @ root.mT
    energy = ((metric @ projected) * projected).sum(0).clamp(min=0.0)
    errors = torch.cat([energy.flip(0).cumsum(0).flip(0), energy.new_zeros(1)])
    return Elimination(order, root, projected, errors)


def _regular(covariance: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Return a covariance that is symmetric and positive definite.

    A mean that is large beside the variance leaves rounding errors of its own size, larger than what is added.
    """
    covariance = (covariance + covariance.mT) / 2
    n, mean = len(covariance), float(covariance.diagonal().mean())
    regular = covariance + torch.eye(n, dtype=torch.float64, device=covariance.device) * (
        _REGULAR * max(mean, 0) or 1.0
    )
    lower, failed = torch.linalg.cholesky_ex(regular)
    pivots = lower.diagonal()
    if failed or not pivots.min() > _LEAST_PIVOT * pivots.max():
        return psd_power(covariance, 1.0, floor=_FLOOR)
    return regular


def _order(weight: Tensor, covariance: Tensor, metric: Tensor, share_at_once: int) -> Int[Tensor, " in"]:
    """Return the inputs, the last to be removed first."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
    left = torch.arange(weight.shape[1], device=weight.device)
    removed: list[Tensor] = []
    while len(left) > 1:
        scores = ((metric @ weight) * weight).sum(0) / inverse.diagonal()
        count = max(1, len(left) // share_at_once)
        gone = scores.topk(count, largest=False, sorted=True).indices
        stay = torch.ones(len(left), dtype=torch.bool, device=left.device)
        stay[gone] = False
        removed.append(left[gone])
        across = torch.linalg.solve(inverse[gone][:, gone], inverse[gone][:, stay])
        weight = weight[:, stay] - weight[:, gone] @ across
        inverse = inverse[stay][:, stay] - inverse[stay][:, gone] @ across
        left = left[stay]
    return torch.cat([*removed, left]).flip(0)


def _order_of_groups(
    weight: Tensor, covariance: Tensor, metric: Tensor, share_at_once: int, width: int
) -> Int[Tensor, " in"]:
    """Return the inputs group by group, the last to be removed first; of a group in their own order."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
    left = torch.arange(weight.shape[1], device=weight.device).view(-1, width)
    removed: list[Tensor] = []
    while len(left) > 1:
        columns = weight.view(len(weight), -1, width).movedim(1, 0)
        blocks = inverse.view(len(left), width, len(left), width).diagonal(dim1=0, dim2=2).movedim(-1, 0)
        scores = torch.linalg.solve(blocks, columns.mT @ (metric @ columns)).diagonal(dim1=1, dim2=2).sum(1)
        gone = scores.topk(max(1, len(left) // share_at_once), largest=False, sorted=True).indices
        stay = torch.ones(len(left), dtype=torch.bool, device=left.device)
        stay[gone] = False
        mine = (gone[:, None] * width + torch.arange(width, device=left.device)).flatten()
        rest = stay.repeat_interleave(width)
        across = torch.linalg.solve(inverse[mine][:, mine], inverse[mine][:, rest])
        weight = weight[:, rest] - weight[:, mine] @ across
        inverse = inverse[rest][:, rest] - inverse[rest][:, mine] @ across
        removed.extend(left[gone])
        left = left[stay]
    return torch.cat([*left, *removed[::-1]])
