"""Activation-aware SVD: columns count by the mean magnitude of their input."""

from jaxtyping import Float
from torch import Tensor

from autolr.methods.shrinkage import required
from autolr.methods.weighted_svd import weighted_svd
from autolr.types import Decomposition, LayerStats, Method

ALPHA = 0.5
"""Exponent on the mean magnitude; the publication's default."""


def decompose(weight: Float[Tensor, "out in"], stats: LayerStats | None) -> Decomposition:
    """Minimise ``‖(W − M) diag(E|x|)^α‖_F`` with α = 0.5.

    Args:
        weight: W, (out, in).
        stats: with moments.
    """
    return weighted_svd(weight, right_gram=required(stats, "asvd").mean_abs.pow(2 * ALPHA))


METHOD = Method("asvd", 1, frozenset({"moments"}), decompose, "Yuan et al. 2023, arXiv 2312.05821")
