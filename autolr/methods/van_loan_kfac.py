"""Sums of Kronecker products in the metric of the loss, as far as that is a Kronecker product of the same shape.

``kfac`` measures errors by ``‖H^½ (W − M) Cov^½‖``. Kronecker products stay such products under ``L`` and ``R`` only if
these are products of the same shapes, so ``H`` and ``Cov`` are replaced by the nearest: exactly ``Cov`` where A has one
column, exactly ``H`` where it has one row. In that metric the solution is exact.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from autolr.errors import FactorizationError
from autolr.methods.kfac import OUT_SHRINKAGE
from autolr.methods.kronecker_shapes import rearranged, shapes
from autolr.methods.shrinkage import required, well_conditioned
from autolr.methods.weighted_svd import shrink
from autolr.types import Decomposition, LayerStats, Method, Rearranged

_ROUNDS = 5
"""Alternations that find the nearest product; each gives positive semidefinite factors again."""
_FLOOR = 1e-6
"""Share of the mean eigenvalue that is added to each factor, so that it has an inverse."""


def decompose(weight: Float[Tensor, "out in"], stats: LayerStats | None) -> tuple[Rearranged, ...]:
    """Minimise ``‖L (W − Σ_{j≤s} A_j ⊗ B_j) R‖_F`` in each shape that is of use, for every s.

    Args:
        weight: W, (out, in).
        stats: with gradients; Cov is shrunk where there are fewer tokens than the estimate needs.

    Returns:
        One part a shape; none where sizes have too few divisors.
    """
    stats = required(stats, "van-loan-kfac", "out_gram")
    assert stats.out_gram is not None
    inputs = well_conditioned(stats.in_covariance, stats.n_tokens)
    outputs = shrink(stats.out_gram, OUT_SHRINKAGE)
    found = []
    for rows, columns in shapes(*weight.shape):
        (left_a, left_b), (right_a, right_b) = nearest_product(outputs, rows), nearest_product(inputs, columns)
        table = rearranged(weight.double(), rows, columns)
        found.append(Rearranged(rows, columns, _solved(table, (left_a, right_a), (left_b, right_b))))
    return tuple(found)


def nearest_product(gram: Float[Tensor, "n n"], size: int) -> tuple[Float[Tensor, "p p"], Float[Tensor, "q q"]]:
    """Return positive definite P, of a size that divides n, and Q whose product ``P ⊗ Q`` is nearest to a matrix.

    Args:
        gram: positive semidefinite; of zero P and Q are identities.
        size: of P.

    Example:
        >>> P, Q = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([[3.0]])
        >>> torch.kron(*nearest_product(torch.kron(P, Q), 2)).round(decimals=3).tolist()
        [[6.0, 3.0], [3.0, 6.0]]

    Source:
        Van Loan & Pitsianis 1993.
    """
    blocks = gram.double().reshape(size, len(gram) // size, size, -1)
    if not torch.isfinite(blocks).all():
        raise FactorizationError("a Gram matrix is not finite; check the calibration data")
    inner = torch.eye(blocks.shape[1], dtype=blocks.dtype, device=blocks.device)
    outer = torch.eye(size, dtype=blocks.dtype, device=blocks.device)
    if not blocks.any():
        return outer, inner
    for _ in range(_ROUNDS):
        outer = torch.einsum("iajb,ab->ij", blocks, inner) / inner.square().sum()
        inner = torch.einsum("iajb,ij->ab", blocks, outer) / outer.square().sum()
    return _regular(outer), _regular(inner)


def _regular(gram: Tensor) -> Tensor:
    gram = (gram + gram.mT) / 2
    return gram + _FLOOR * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)


def _solved(table: Float[Tensor, "a b"], of_a: tuple[Tensor, Tensor], of_b: tuple[Tensor, Tensor]) -> Decomposition:
    """Return the SVD of a rearranged weight in a metric, by those of the rows and columns of A, and of B."""
    metric_a, metric_b = _Roots(*of_a), _Roots(*of_b)
    seen = metric_a.times(table)
    u, s, _ = torch.linalg.svd(metric_b.times(seen.mT).mT, full_matrices=False)
    return Decomposition(metric_a.solve(u), s, u.mT @ seen)


class _Roots:
    """Multiplies the entries of many matrices X, as columns, to those of ``L X R``."""

    def __init__(self, left_gram: Tensor, right_gram: Tensor) -> None:
        self.left = torch.linalg.cholesky(left_gram).mT
        self.right = torch.linalg.cholesky(right_gram).mT

    def times(self, x: Float[Tensor, "entries k"]) -> Float[Tensor, "entries k"]:
        """Return the entries of each ``L X R``."""
        return self._each(x, torch.matmul)

    def solve(self, x: Float[Tensor, "entries k"]) -> Float[Tensor, "entries k"]:
        """Return the entries of each ``L⁻¹ X R⁻¹``."""
        return self._each(x, lambda root, y: torch.linalg.solve_triangular(root, y, upper=True))

    def _each(self, x: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Change all columns, then all rows, of the matrices at once."""
        rows, columns = len(self.left), len(self.right)
        y = change(self.left, x.reshape(rows, -1)).reshape(rows, columns, -1)
        y = change(self.right, y.movedim(1, 0).reshape(columns, -1)).reshape(columns, rows, -1)
        return y.movedim(0, 1).reshape(rows * columns, -1)


METHOD = Method(
    "van-loan-kfac",
    1,
    frozenset({"moments", "gradients"}),
    decompose,
    "Van Loan & Pitsianis 1993; Martens & Grosse 2015 (ICML) for the metric",
    rearranges=True,
)
