"""The least-squares problem of one layer that is refitted.

A layer is to give the outputs ``y`` that the dense layer has on its own inputs, from ``x``, what the compressed model
feeds it (of a layer that reads what is left of some neurons, those alone). What ``x`` is in the compressed model is
measured on few examples; what it would be in the dense model is known from all of the calibration data. Both are mixed:

    G = (1 − p) Cov(x) + p Cov(x dense)        X = (1 − p) Cov(y, x) + p W Cov(x dense)

and the layer's matrix is ``X G⁻¹``, of a rank-r layer the nearest of that rank in the metrics ``G`` and ``H = E[g gᵀ]``
(reduced-rank regression); its bias is such that the mean of ``y`` is met. The second terms draw a layer to what the
dense one does on inputs that are right, so it does not lean on errors of those before it that other text does not have.

Source: Izenman 1975 (J. Multivariate Analysis 5) for reduced-rank regression.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from autolr.checkpoint.runtime.layers import LowRankLinear, SelectedLinear, SelectedLowRankLinear, SpreadLinear
from autolr.forms.gauge import balance
from autolr.methods.shrinkage import well_conditioned
from autolr.methods.weighted_svd import weighted_svd
from autolr.recovery.kept import Kept
from autolr.types import LayerStats

PRIOR = 0.4
"""p, the share of the dense model's moments (0.25 to 0.5 were measured to be alike)."""
MOST_PRIOR = 0.9
TOKENS_PER_INPUT = 4
"""With fewer live tokens for each input p grows, up to ``MOST_PRIOR``; a layer of which nothing is known but these
tokens is left as it was."""
_REGULAR = 1e-6
"""Share of the mean second moment by which the solution is drawn to the layer's own, where inputs never occur."""

Refitted = LowRankLinear | SelectedLinear | SpreadLinear
"""Layers of which a part, on what it is fed, is a linear map to fit."""
_FITTED_WHOLE = (LowRankLinear, SelectedLinear, SelectedLowRankLinear, SpreadLinear)


@dataclass(frozen=True)
class Correction:
    """What a refit changes in one layer.

    Attributes:
        left: (out, rank), the outer factor; of a layer with one matrix that matrix, (out, in).
        right: (rank, in), the inner factor; None where there is one matrix.
        bias: (out,); None where the layer has none.
    """

    left: Float[Tensor, "out k"]
    right: Float[Tensor, "k in"] | None
    bias: Float[Tensor, " out"] | None


def correct(layer: Refitted, correction: Correction) -> None:
    """Give a compressed layer its refitted factor and bias, in place."""
    with torch.no_grad():
        if isinstance(layer, LowRankLinear):
            if layer.rank:
                assert correction.right is not None
                layer.left.weight.copy_(correction.left)
                layer.right.weight.copy_(correction.right)
        else:
            layer.linear.weight.copy_(correction.left)
        if correction.bias is not None:
            layer.bias.copy_(correction.bias)


def fitted_part(layer: Refitted) -> Float[Tensor, "out in"]:
    """Return the matrix of the part that is fitted, float64: all but rows that are kept dense."""
    if isinstance(layer, LowRankLinear):
        return layer.outer_weight.double() @ layer.inner_weight.double()
    return layer.linear.weight.double()


def computed_beside(layer: Refitted) -> Float[Tensor, "out in"] | None:
    """Return the matrix of the part that is not fitted, rows that are kept dense, float64; None where there is none."""
    if type(layer) in _FITTED_WHOLE:
        return None
    return layer.dense_weight() - fitted_part(layer)


@dataclass(frozen=True)
class LayerMoments:
    """What one layer is fed and is to answer, over all tokens.

    Attributes:
        n_tokens: how many there are.
        covariance: ``Cov(x)``, (in, in) float64.
        cross: ``Cov(y, x)``, (out, in) float64.
        mean: ``E[x]``, (in,) float64.
        offset: ``E[y]``, (out,) float64.
    """

    n_tokens: int
    covariance: Float[Tensor, "in in"]
    cross: Float[Tensor, "out in"]
    mean: Float[Tensor, " in"]
    offset: Float[Tensor, " out"]

    def solve(
        self,
        layer: Refitted,
        weight: Float[Tensor, "full_out full_in"],
        stats: LayerStats | None,
        metric: Float[Tensor, "out out"] | None,
        kept: Kept,
    ) -> Correction | None:
        """Return the solution; None where there are too few tokens for one.

        Args:
            layer: the compressed layer as it is.
            weight: of the dense one.
            stats: of the dense one; None: there are none.
            metric: of the layer's outputs; None is the identity.
            kept: what the layer has of the dense one's inputs and outputs.
        """
        enough = self.n_tokens / (TOKENS_PER_INPUT * len(self.mean))
        if stats is None and enough < 1:
            return None
        share = 0.0 if stats is None else min(MOST_PRIOR, PRIOR * max(1.0, 1 / enough))
        gram, cross, mean, offset = self.covariance, self.cross, self.mean, self.offset
        if layer.bias is None:
            gram, cross = gram + torch.outer(mean, mean), cross + torch.outer(offset, mean)
        if stats is not None:
            dense_gram, dense_cross = _dense_moments(layer, weight, stats, kept)
            gram = (1 - share) * gram + share * dense_gram
            cross = (1 - share) * cross + share * dense_cross
        left, right = _of_rank(layer, _regressed(gram, cross, fitted_part(layer)), gram, metric)
        matrix = left if right is None else left @ right
        bias = None if layer.bias is None else (offset - matrix @ mean).to(layer.bias)
        like = layer.outer_weight if isinstance(layer, LowRankLinear) else layer.linear.weight
        return Correction(left.to(like), None if right is None else right.to(like), bias)


def _regressed(
    gram: Float[Tensor, "in in"], cross: Float[Tensor, "out in"], old: Float[Tensor, "out in"]
) -> Float[Tensor, "out in"]:
    """Return ``X G⁻¹``, drawn to what it was where G is next to nothing."""
    ridge = (_REGULAR * gram.diagonal().mean()).clamp(min=torch.finfo(torch.float32).tiny)
    regular = gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    change: Tensor = torch.linalg.solve(regular, (cross - old @ gram).mT)
    return old + change.mT


def _of_rank(
    layer: Refitted, matrix: Float[Tensor, "out in"], gram: Float[Tensor, "in in"], metric: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return the factors of the nearest matrix of a layer's rank, balanced; of a layer of one matrix the matrix."""
    if not isinstance(layer, LowRankLinear):
        return matrix, None
    if layer.rank == 0:
        return matrix[:, :0], matrix[:0]
    return balance(*weighted_svd(matrix, gram, metric).truncate(layer.rank))


def _dense_moments(
    layer: Refitted, weight: Float[Tensor, "full_out full_in"], stats: LayerStats, kept: Kept
) -> tuple[Float[Tensor, "in in"], Float[Tensor, "out in"]]:
    """Return the moments that x and y have in the dense model, about the mean where the layer has a bias."""
    gram = stats.in_gram if layer.bias is None else stats.in_covariance
    gram = well_conditioned(gram.to(weight.device), stats.n_tokens)
    target, beside = weight.double(), computed_beside(layer)
    if beside is not None:
        target = target - beside
    mixed = kept.inputs(gram)  # with all inputs, of those that are left
    return kept.inputs(mixed.mT), kept.outputs(target) @ mixed
