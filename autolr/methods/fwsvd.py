"""Fisher-weighted SVD: columns of the weight count by the Fisher information of their parameters."""

from jaxtyping import Float
from torch import Tensor

from autolr.methods.shrinkage import required
from autolr.methods.weighted_svd import weighted_svd
from autolr.types import Decomposition, LayerStats, Method


def decompose(weight: Float[Tensor, "out in"], stats: LayerStats | None) -> Decomposition:
    """Minimise ``‖(W − M) diag(Σ_out F)^½‖_F``, F the Fisher information of each weight, from per-example gradients.

    Args:
        weight: W, (out, in).
        stats: with gradients.
    """
    fisher = required(stats, "fwsvd", "fisher_in").fisher_in
    assert fisher is not None
    return weighted_svd(weight, right_gram=fisher.clamp(min=0.0))


METHOD = Method(
    "fwsvd", 1, frozenset({"moments", "gradients"}), decompose, "Hsu et al. 2022 (ICLR), arXiv 2207.00112, equation 5"
)
