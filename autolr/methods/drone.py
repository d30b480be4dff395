"""DRONE: the layer's output on real inputs is approximated. SVD-LLM v1 and v2 have the same optimum."""

from jaxtyping import Float
from torch import Tensor

from autolr.methods.shrinkage import required, well_conditioned
from autolr.methods.weighted_svd import weighted_svd
from autolr.types import Decomposition, LayerStats, Method


def decompose(weight: Float[Tensor, "out in"], stats: LayerStats | None) -> Decomposition:
    """Minimise ``E‖W x − M x‖²``, that is ``‖(W − M) C^½‖_F`` with ``C = E[x xᵀ]``.

    Args:
        weight: W, (out, in).
        stats: with moments; C is shrunk where there are fewer tokens than the estimate needs.
    """
    stats = required(stats, "drone")
    return weighted_svd(weight, right_gram=well_conditioned(stats.in_gram, stats.n_tokens))


METHOD = Method(
    "drone",
    1,
    frozenset({"moments"}),
    decompose,
    "Chen et al. 2021 (NeurIPS); SVD-LLM, arXiv 2403.07378 and 2503.12340, reaches the same optimum",
)
