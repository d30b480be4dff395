"""K-FAC weighted SVD: the error is measured in the loss, through the Kronecker-factored Fisher information."""

from jaxtyping import Float
from torch import Tensor

from autolr.methods.shrinkage import required, well_conditioned
from autolr.methods.weighted_svd import shrink, weighted_svd
from autolr.types import Decomposition, LayerStats, Method

OUT_SHRINKAGE = 0.02
"""Share of the identity in the output metric: keeps directions of the output that the calibration loss never used."""


def decompose(weight: Float[Tensor, "out in"], stats: LayerStats | None) -> Decomposition:
    """Minimise ``‖H^½ (W − M) Cov^½‖_F`` with ``H = E[g gᵀ]`` shrunk towards the identity.

    With the bias correction, half the tail energy times the tokens of an example is the second-order increase of the
    loss (the divergence from the dense model, in nats), so tails of different layers can be compared.

    Args:
        weight: W, (out, in).
        stats: with gradients; Cov is shrunk where there are fewer tokens than the estimate needs.
    """
    stats = required(stats, "kfac", "out_gram")
    assert stats.out_gram is not None
    gram = well_conditioned(stats.in_covariance, stats.n_tokens)
    return weighted_svd(weight, gram, shrink(stats.out_gram, OUT_SHRINKAGE))


METHOD = Method(
    "kfac",
    1,
    frozenset({"moments", "gradients"}),
    decompose,
    "GFWSVD, arXiv 2505.17974; Martens & Grosse 2015 (ICML) for the Kronecker factorization",
)
