"""Plain truncated SVD: the best approximation of the weight itself, blind to inputs and loss."""

from jaxtyping import Float
from torch import Tensor

from autolr.methods.weighted_svd import weighted_svd
from autolr.types import Decomposition, LayerStats, Method


def decompose(weight: Float[Tensor, "out in"], stats: LayerStats | None) -> Decomposition:
    """Minimise ``‖W − M‖_F``.

    Args:
        weight: W, (out, in).
        stats: not used.
    """
    del stats
    return weighted_svd(weight)


METHOD = Method("svd", 1, frozenset(), decompose, "Eckart & Young 1936; Ben Noach & Goldberg 2020 (AACL)")
