"""The linear algebra shared by the closed-form methods: square roots of Gram matrices and the weighted SVD.

``minimise ‖L (W − M) R‖²_F over M of rank ≤ r`` is solved by the SVD ``L W R = U S Vᵀ`` as
``M = (L⁻¹ U_r) (U_rᵀ L W)``. In this form ``R`` is not inverted, so it may be singular; only ``L`` must be regular.
Where ``R`` is regular too, ``M = (W R V_r) (V_rᵀ R⁻¹)`` is the same.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from autolr.errors import FactorizationError
from autolr.types import Decomposition

_REGULAR_INPUT = 1e-7
"""Least pivot of an input Gram's root, as a share of the largest, with which it is divided by."""
_REGULAR_OUTPUT = 1e-3
"""The same of an output metric's."""
_FLOOR = 1e-6
"""Of the eigenvalues of an output metric that is not regular, as a share of the largest."""
_FLOOR_OF_DIAGONAL = 1e-13
"""Of the entries of a diagonal one, which is inverted entry by entry: only what is next to nothing is raised."""
_NEGLIGIBLE = 1e-8
"""Share of the largest singular value below which another is noise, having been found squared."""


def psd_power(gram: Float[Tensor, "n n"], power: float = 0.5, floor: float = 0.0) -> Float[Tensor, "n n"]:
    """Return the symmetric power of a positive semi-definite matrix; negative rounding noise counts as zero.

    Args:
        gram: (n, n), symmetric; computed in float64.
        power: > 0.
        floor: eigenvalues below this share of the largest are raised to it.

    Returns:
        (n, n) float64.

    Example:
        >>> gram = torch.diag(torch.tensor([4.0, 0.0]))
        >>> psd_power(gram).tolist(), psd_power(gram, floor=0.25).tolist()
        ([[2.0, 0.0], [0.0, 0.0]], [[2.0, 0.0], [0.0, 1.0]])
    """
    values, vectors = torch.linalg.eigh(_symmetric(gram))
    values = values.clamp(min=max(0.0, floor * float(values[-1])))
    result: Tensor = (vectors * values.pow(power)) @ vectors.mT
    return result


def shrink(gram: Float[Tensor, "n n"], intensity: float) -> Float[Tensor, "n n"]:
    """Return ``(1 − a)·G + a·tr(G)/n·I``, which keeps the trace.

    Args:
        gram: (n, n).
        intensity: a in [0, 1].

    Example:
        >>> shrink(torch.diag(torch.tensor([2.0, 0.0])), 0.5).tolist()
        [[1.5, 0.0], [0.0, 0.5]]
    """
    n = gram.shape[0]
    shrunk = (1 - intensity) * gram
    shrunk.diagonal().add_(intensity * gram.diagonal().sum() / n)
    return shrunk


def oas_intensity(gram: Float[Tensor, "n n"], n_samples: int) -> float:
    """Return the oracle-approximating shrinkage intensity of a covariance estimated from ``n_samples`` samples.

    It falls as 1 / n_samples and depends on the matrix through two traces only.

    Returns:
        a in [0, 1], for :func:`shrink`.

    Source: Chen, Wiesel, Eldar & Hero 2010, IEEE Trans. Signal Processing 58(10), equation 23.

    Example:
        >>> oas_intensity(torch.eye(4, dtype=torch.float64), 10)
        1.0
    """
    p = gram.shape[0]
    trace = float(gram.diagonal().sum())
    trace_of_square = float(gram.square().sum())
    denominator = (n_samples + 1 - 2 / p) * (trace_of_square - trace**2 / p)
    if denominator <= 0:
        return 1.0
    return min(1.0, ((1 - 2 / p) * trace_of_square + trace**2) / denominator)


def weighted_svd(
    weight: Float[Tensor, "out in"],
    right_gram: Float[Tensor, "in in"] | Float[Tensor, " in"] | None = None,
    left_gram: Float[Tensor, "out out"] | Float[Tensor, " out"] | None = None,
) -> Decomposition:
    """Solve ``minimise ‖L (W − M) R‖_F`` for every rank at once, given ``R Rᵀ`` and ``Lᵀ L``.

    Any roots will do, so triangular ones are taken, and of ``T = L W R`` the eigenvectors of the smaller of ``T Tᵀ``
    and ``Tᵀ T``. Squaring costs singular values below 1e-8 of the largest, whose energy is below the resolution of
    float64 anyway. For ``out > in`` that divides by ``R``; where it is not regular, and for a diagonal ``R``, the SVD
    of ``T`` is taken. Full rank reproduces W everywhere.

    Args:
        weight: W, (out, in).
        right_gram: ``R Rᵀ``, (in, in) or its diagonal (in,); may be singular; None is the identity.
        left_gram: ``Lᵀ L``, (out, out) or its diagonal (out,); None is the identity, and so is zero: without any signal
            every direction weighs the same. Eigenvalues below 1e-6 (of a diagonal 1e-13) of the largest may be raised
            to it.

    Returns:
        The decomposition at full rank, float64.

    Raises:
        FactorizationError: a matrix is not finite, or the decomposition did not converge.

    Source: Eckart & Young 1936.

    Example:
        >>> d = weighted_svd(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        >>> d.singular_values.tolist(), d.tail_energy(1)
        ([3.0, 1.0], 1.0)
    """
    weight = weight.double()
    try:
        metric = _Metric.of(left_gram)
        whitened = metric.times(weight)
        if not torch.isfinite(whitened).all():
            raise FactorizationError("the weight or its output metric is not finite; check the model")
        gram = None if right_gram is None else _checked(right_gram)
        if gram is not None and gram.ndim == 2 and len(weight) > len(gram):
            root = _triangle(gram, _REGULAR_INPUT)
            if root is not None:
                return _by_right_vectors(weight, whitened, root)
        u, s = _left_vectors(whitened, gram)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise FactorizationError(f"the decomposition did not converge: {error}") from error
    return Decomposition(metric.solve(u), s, u.mT @ whitened)


@dataclass(frozen=True)
class _Metric:
    """A regular L, its diagonal (out,) or an upper triangle (out, out); None is the identity."""

    factor: Tensor | None

    @classmethod
    def of(cls, gram: Tensor | None) -> "_Metric":
        """Return L with ``Lᵀ L`` the given matrix or diagonal."""
        if gram is None:
            return cls(None)
        gram = _checked(gram)
        if not gram.any():
            return cls(None)
        if gram.ndim == 1:
            return cls(gram.clamp(min=_FLOOR_OF_DIAGONAL * float(gram.max())).sqrt())
        lower = _triangle(gram, _REGULAR_OUTPUT)
        if lower is None:
            lower = torch.linalg.cholesky(psd_power(gram, 1.0, _FLOOR))
        return cls(lower.mT)

    def times(self, x: Float[Tensor, "out k"]) -> Float[Tensor, "out k"]:
        """Return ``L x``."""
        if self.factor is None:
            return x
        return self.factor[:, None] * x if self.factor.ndim == 1 else self.factor @ x

    def solve(self, x: Float[Tensor, "out k"]) -> Float[Tensor, "out k"]:
        """Return ``L⁻¹ x``."""
        if self.factor is None:
            return x
        if self.factor.ndim == 1:
            return x / self.factor[:, None]
        solved: Tensor = torch.linalg.solve_triangular(self.factor, x, upper=True)
        return solved


def _triangle(gram: Float[Tensor, "n n"], least: float) -> Float[Tensor, "n n"] | None:
    """Return the lower Cholesky factor; None where a pivot is missing or less than a share of the largest."""
    lower, failed = torch.linalg.cholesky_ex(gram)
    pivots = lower.diagonal()
    return None if failed or not pivots.min() > least * pivots.max() else lower


def _by_right_vectors(
    weight: Float[Tensor, "out in"], whitened: Float[Tensor, "out in"], root: Float[Tensor, "in in"]
) -> Decomposition:
    """Return the decomposition by the eigenvectors V of ``Tᵀ T``: ``M = W R V_r V_rᵀ R⁻¹``, scaled as ``L⁻¹ U``."""
    target = whitened @ root
    values, vectors = torch.linalg.eigh(_symmetric(target.mT @ target))
    s, vectors = values.flip(0).clamp(min=0.0).sqrt(), vectors.flip(1)
    scale = s.clamp(min=_NEGLIGIBLE * float(s[0])) if s[0] > 0 else torch.ones_like(s)
    right = torch.linalg.solve_triangular(root.mT, vectors, upper=True).mT
    return Decomposition(weight @ (root @ vectors) / scale, s, scale[:, None] * right)


def _checked(right_gram: Tensor) -> Tensor:
    """Return ``R Rᵀ`` in float64, a matrix or a diagonal, after checking that it is finite."""
    if right_gram.ndim == 2:
        return _symmetric(right_gram)
    if not torch.isfinite(right_gram).all():
        raise FactorizationError("the weights of the input features are not finite; check the calibration data")
    return right_gram.double()


def _left_vectors(whitened: Tensor, right_gram: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the left singular vectors (out, min(out, in)) and singular values, falling, of ``whitened R``."""
    out_features, in_features = whitened.shape
    if right_gram is None:
        u, s, _ = torch.linalg.svd(whitened, full_matrices=False)
        return u, s
    seen = right_gram.diagonal() if right_gram.ndim == 2 else right_gram
    if seen.max() <= 0:  # R sees nothing at all: W itself gives the order
        u, s, _ = torch.linalg.svd(whitened, full_matrices=False)
        return u, torch.zeros_like(s)
    if right_gram.ndim == 2 and out_features <= in_features:
        values, vectors = torch.linalg.eigh(_symmetric(whitened @ right_gram @ whitened.mT))
        return vectors.flip(1), values.flip(0).clamp(min=0.0).sqrt()
    # Directions that R does not see get a weight at the resolution of float64: they come last, but full rank reproduces
    # W there, too.
    trace = torch.finfo(torch.float64).eps
    if right_gram.ndim == 2:
        target = whitened @ psd_power(right_gram, floor=trace)
    else:
        target = whitened * right_gram.clamp(min=trace * float(seen.max())).sqrt()
    u, s, _ = torch.linalg.svd(target, full_matrices=False)
    return u, s


def _symmetric(gram: Tensor) -> Tensor:
    gram = gram.double()
    if not torch.isfinite(gram).all():
        raise FactorizationError("a Gram matrix is not finite; check the calibration data")
    return (gram + gram.mT) / 2
