"""Nearest sums of Kronecker products: the SVD of the rearranged weight, in several shapes of the factors."""

from jaxtyping import Float
from torch import Tensor

from autolr.methods.kronecker_shapes import rearranged, shapes
from autolr.methods.weighted_svd import weighted_svd
from autolr.types import LayerStats, Method, Rearranged


def decompose(weight: Float[Tensor, "out in"], stats: LayerStats | None) -> tuple[Rearranged, ...]:
    """Minimise ``‖W − Σ_{j≤s} A_j ⊗ B_j‖_F`` in each shape that is of use, for every s.

    A metric of inputs or outputs would have to be a Kronecker product of the same shape for the solution to stay exact.

    Args:
        weight: W, (out, in).
        stats: not used.

    Returns:
        One part a shape; none where sizes have too few divisors.
    """
    del stats
    return tuple(Rearranged(*shape, weighted_svd(rearranged(weight, *shape))) for shape in shapes(*weight.shape))


METHOD = Method(
    "van-loan",
    1,
    frozenset(),
    decompose,
    "Van Loan & Pitsianis 1993; KnGPT2, arXiv 2110.08152",
    rearranges=True,
)
