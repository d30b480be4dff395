"""LoSparse in its training-free form: a low-rank part, and a few output rows kept dense.

The coherent part of the weight is factorized; the rows it serves worst, weighted by how much the loss listens to them,
are computed exactly. How the budget is split between rank and rows is part of the choice.

Deviations from the publication: (1) the factorization is weighted, ``L = diag(H)^½`` and ``R = Cov^½``, because the
plain SVD it starts from needs training to be useful; (2) a kept row replaces the low-rank row instead of being added
to it, which is the same sum with ``S = W − left·right`` on that row.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from autolr.methods.shrinkage import required, well_conditioned
from autolr.methods.weighted_svd import shrink, weighted_svd
from autolr.types import Decomposition, LayerStats, Method

OUT_SHRINKAGE = 0.02
"""Share of the mean in the row weights: a row that the calibration loss never used is not free."""


def decompose(weight: Float[Tensor, "out in"], stats: LayerStats | None) -> Decomposition:
    """Minimise ``‖diag(H)^½ (W − M) Cov^½‖_F``; the diagonal metric keeps the rows' shares of the error separable.

    Args:
        weight: W, (out, in).
        stats: with gradients.
    """
    stats = required(stats, "losparse", "out_gram")
    assert stats.out_gram is not None
    weights = shrink(stats.out_gram, OUT_SHRINKAGE).diagonal().clamp(min=0.0)
    metric = weights.sqrt() if weights.max() > 0 else torch.ones_like(weights)
    # Rows of zero weight would make L singular; a millionth of the largest keeps L⁻¹ finite without mattering.
    metric = metric.clamp(min=1e-6 * float(metric.max()))
    gram = well_conditioned(stats.in_covariance, stats.n_tokens)
    solved = weighted_svd(weight, gram, metric.square())
    scaled = metric[:, None] * weight.double()
    energy = ((scaled @ gram) * scaled).sum(1).clamp(min=0.0)
    return Decomposition(solved.left, solved.singular_values, solved.right, row_energy=energy, row_metric=metric)


METHOD = Method(
    "losparse",
    1,
    frozenset({"moments", "gradients"}),
    decompose,
    "Li et al. 2023 (ICML), arXiv 2306.11222",
    keeps_rows=True,
)
