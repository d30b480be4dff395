"""Masks of heads and neurons tuned in the compressed model, layer by layer, by linear least squares.

A record of masks scales what stays for the inputs that the dense model gives (:mod:`autolr.methods.masks`). Here each
layer that reads heads or neurons is taken in the order of the pass, on what the layers before it, tuned already, make
of the data, and its scales are those at which its output is nearest to the dense layer's on its own inputs; its bias
is such that the mean is met. All else stays as it was.

Source: Kwon et al. 2022 (arXiv 2204.09656), section 3.4. Other than published, the normal equations are solved
directly, drawn to the scales there were by ``RIDGE``, rather than by LSMR; and what the compressed model adds the
layer's output to is not compared.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from autolr.bank import reader
from autolr.forms.masked_heads import NAME as MASKED_HEADS
from autolr.forms.masked_neurons import NAME as MASKED_NEURONS
from autolr.forms.swap import DecompositionSource
from autolr.methods.masks import RIDGE, by_mask, solved
from autolr.model.record_calls import Batch
from autolr.recovery.base import Recovery
from autolr.recovery.block_refit import SmallBlock
from autolr.recovery.refit import REFIT, compute_together
from autolr.recovery.regression import Correction, LayerMoments, Refitted, fitted_part
from autolr.types import Candidate, LayerStats, Unit

VERSION = 1
_MASKED = (MASKED_HEADS, MASKED_NEURONS)


class TunedBlock(SmallBlock):
    """A block of the compressed model whose layers that read masked heads or neurons are scaled anew."""

    def _solved(
        self, unit: Unit, layer: Refitted, moments: LayerMoments, stats: Callable[[str], LayerStats | None]
    ) -> Correction | None:
        wholes = [self.source.unit(name) for name, choice in self.choices.items() if choice.form in _MASKED]
        whole = next((whole for whole in wholes if reader(whole) == unit), None)
        return None if whole is None else scaled(layer, moments, whole.heads.read if whole.heads else 1)


def scaled(layer: Refitted, moments: LayerMoments, width: int) -> Correction:
    """Return a layer's columns scaled so that its output is nearest to what it is to answer.

    Args:
        layer: as it is.
        moments: of what it is fed, with what it is to answer.
        width: columns that have a scale in common.
    """
    weight = fitted_part(layer)
    gram = by_mask((weight.mT @ weight) * moments.covariance, width)
    cross = (weight * moments.cross).sum(0).view(-1, width).sum(1)
    change = solved(gram, cross - gram.sum(1), RIDGE * gram.diagonal().mean())
    matrix = weight * (1.0 + change).repeat_interleave(width)
    like: Tensor = next(layer.parameters())
    return Correction(matrix.to(like), None, (moments.offset - matrix @ moments.mean).to(like))


def tune_together(
    model: nn.Module,
    candidates: Sequence[Candidate],
    source: DecompositionSource,
    batches: Sequence[Batch],
    tick: Callable[[float], None] = lambda _: None,
) -> list[dict[str, Tensor]]:
    """Return what tuning changes in each candidate's layers, as ``<layer>/<part>`` -> tensor."""
    return compute_together(model, candidates, source, batches, tick, TunedBlock)


@torch.no_grad()
def _compute(
    model: nn.Module,
    candidate: Candidate,
    source: DecompositionSource,
    batches: Sequence[Batch],
    tick: Callable[[float], None],
) -> Mapping[str, Tensor]:
    [tensors] = tune_together(model, [candidate], source, batches, tick)
    return tensors


MASK_TUNING = Recovery(
    name="mask-tuning",
    version=VERSION,
    help="scale the heads and neurons that stay, layer by layer, to what the dense model computes there",
    did="scaled by least squares",
    compute=_compute,
    apply=REFIT.apply,
    compute_together=tune_together,
    examples=1024,
)
