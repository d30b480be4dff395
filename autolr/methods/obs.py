"""Optimal brain surgeon on neurons: backward elimination in the K-FAC metric, what stays refitted at each step."""

from jaxtyping import Float
from torch import Tensor

from autolr.methods.elimination import eliminate
from autolr.methods.kfac import OUT_SHRINKAGE
from autolr.methods.shrinkage import required, well_conditioned
from autolr.methods.weighted_svd import shrink
from autolr.types import Elimination, LayerStats, Method


def decompose(weight: Float[Tensor, "out in"], stats: LayerStats | None) -> Elimination:
    """Order neurons by what the loss would miss most, ``‖H^½ (W x − W′ x_J)‖²`` with ``H = E[g gᵀ]`` of their reader.

    Half an error times the tokens of an example is the second-order increase of the loss, as with ``kfac``.

    Args:
        weight: W of the matrix that reads the neurons, (out, neurons).
        stats: of that matrix, with gradients.
    """
    stats = required(stats, "obs", "out_gram")
    assert stats.out_gram is not None
    covariance = well_conditioned(stats.in_covariance, stats.n_tokens)
    return eliminate(weight, covariance, shrink(stats.out_gram, OUT_SHRINKAGE))


METHOD = Method(
    "obs",
    1,
    frozenset({"moments", "gradients"}),
    decompose,
    "Hassibi & Stork 1993 (NeurIPS); ZipLM, arXiv 2302.04089, for structures",
    of="neurons",
)
