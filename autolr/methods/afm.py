"""Atomic feature mimicking: the variation of the layer's output is approximated, its mean goes into the bias."""

from jaxtyping import Float
from torch import Tensor

from autolr.methods.shrinkage import required, well_conditioned
from autolr.methods.weighted_svd import weighted_svd
from autolr.types import Decomposition, LayerStats, Method


def decompose(weight: Float[Tensor, "out in"], stats: LayerStats | None) -> Decomposition:
    """Minimise ``E‖(W − M)(x − μ)‖²``, that is ``‖(W − M) Cov^½‖_F``; exact together with the bias correction.

    Args:
        weight: W, (out, in).
        stats: with moments; Cov is shrunk where there are fewer tokens than the estimate needs.
    """
    stats = required(stats, "afm")
    return weighted_svd(weight, right_gram=well_conditioned(stats.in_covariance, stats.n_tokens))


METHOD = Method(
    "afm",
    1,
    frozenset({"moments"}),
    decompose,
    "Yu & Wu 2023 (AAAI), Compressing Transformers; Bolaco, arXiv 2405.10616",
)
