"""The linear algebra shared by the closed-form methods: square roots of Gram matrices and the weighted SVD.

``minimise ‖L (W − M) R‖²_F over M of rank ≤ r`` is solved by the SVD ``L W R = U S Vᵀ`` as
``M = (L⁻¹ U_r) (U_rᵀ L W)``. In this form ``R`` is never inverted, so it may be singular; only ``L`` must be regular.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from autolr.errors import FactorizationError
from autolr.types import Decomposition


@dataclass(frozen=True)
class Root:
    """A symmetric square root (or another power) and its inverse, both (n, n) float64."""

    matrix: Float[Tensor, "n n"]
    inverse: Float[Tensor, "n n"]


def psd_power(gram: Float[Tensor, "n n"], power: float = 0.5) -> Float[Tensor, "n n"]:
    """Return the symmetric power of a positive semi-definite matrix; negative rounding noise counts as zero.

    Args:
        gram: (n, n), symmetric; computed in float64.
        power: > 0.

    Returns:
        (n, n) float64.

    Example:
        >>> psd_power(torch.diag(torch.tensor([4.0, 0.0]))).tolist()
        [[2.0, 0.0], [0.0, 0.0]]
    """
    values, vectors = torch.linalg.eigh(_symmetric(gram))
    result: Tensor = (vectors * values.clamp(min=0.0).pow(power)) @ vectors.mT
    return result


def psd_root(gram: Float[Tensor, "n n"], power: float = 0.5, floor: float = 1e-6) -> Root:
    """Return a power of a positive semi-definite matrix together with its inverse.

    Args:
        gram: (n, n), symmetric.
        power: > 0.
        floor: eigenvalues below ``floor · λ_max`` are raised to it, so that the inverse exists. A zero matrix gives
            the identity: without any signal every direction weighs the same.

    Returns:
        The power and its inverse, float64.
    """
    values, vectors = torch.linalg.eigh(_symmetric(gram))
    top = values[-1]
    values = values.clamp(min=float(floor * top)) if top > 0 else torch.ones_like(values)
    return Root((vectors * values.pow(power)) @ vectors.mT, (vectors * values.pow(-power)) @ vectors.mT)


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
    left_metric: Root | None = None,
) -> Decomposition:
    """Solve ``minimise ‖L (W − M) R‖_F`` for every rank at once, given ``R Rᵀ``.

    ``U`` and ``S²`` are the eigenvectors and eigenvalues of ``T Tᵀ = L W (R Rᵀ) Wᵀ Lᵀ``, so no root of the input Gram
    is needed where ``out ≤ in``; squaring costs singular values below 1e-8 of the largest, whose energy is below the
    resolution of float64 anyway. Otherwise, and for a diagonal ``R``, the SVD of ``T`` is taken. Full rank reproduces W
    everywhere.

    Args:
        weight: W, (out, in).
        right_gram: ``R Rᵀ``, (in, in) or its diagonal (in,); may be singular; None is the identity.
        left_metric: L with its inverse; None is the identity.

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
    whitened = weight if left_metric is None else left_metric.matrix @ weight
    if not torch.isfinite(whitened).all():
        raise FactorizationError("the weight or its output metric is not finite; check the model")
    try:
        u, s = _left_vectors(whitened, None if right_gram is None else _checked(right_gram))
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise FactorizationError(f"the decomposition did not converge: {error}") from error
    left = u if left_metric is None else left_metric.inverse @ u
    return Decomposition(left, s, u.mT @ whitened)


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
    if right_gram.ndim == 2 and out_features <= in_features:
        values, vectors = torch.linalg.eigh(_symmetric(whitened @ right_gram @ whitened.mT))
        return vectors.flip(1), values.flip(0).clamp(min=0.0).sqrt()
    # Directions that R does not see get a weight at the resolution of float64: they come last, but full rank reproduces
    # W there, too. Where R sees nothing at all, W itself gives the order.
    seen = right_gram.diagonal() if right_gram.ndim == 2 else right_gram
    if seen.max() <= 0:
        u, s, _ = torch.linalg.svd(whitened, full_matrices=False)
        return u, torch.zeros_like(s)
    trace = torch.finfo(torch.float64).eps
    if right_gram.ndim == 2:
        target = whitened @ psd_root(right_gram, floor=trace).matrix
    else:
        target = whitened * right_gram.clamp(min=trace * float(seen.max())).sqrt()
    u, s, _ = torch.linalg.svd(target, full_matrices=False)
    return u, s


def _symmetric(gram: Tensor) -> Tensor:
    gram = gram.double()
    if not torch.isfinite(gram).all():
        raise FactorizationError("a Gram matrix is not finite; check the calibration data")
    return (gram + gram.mT) / 2
