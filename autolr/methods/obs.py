"""Optimal brain surgeon on neurons: backward elimination in the K-FAC metric, what stays refitted at each step."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from autolr.methods.elimination import eliminate
from autolr.methods.kfac import OUT_SHRINKAGE
from autolr.methods.remainders import remainders
from autolr.methods.shrinkage import required, well_conditioned
from autolr.methods.weighted_svd import shrink
from autolr.types import Elimination, LayerStats, Method


def decompose(weights: Sequence[Tensor], stats: Sequence[LayerStats | None] | None) -> Elimination:
    """Order neurons by what the loss would miss most, ``‖H^½ (W x − W′ x_J)‖²`` with ``H = E[g gᵀ]`` of their reader.

    Half an error times the tokens of an example is the second-order increase of the loss, as with ``kfac``; so it is
    for the low rank of what is left.

    Args:
        weights: of the matrices that make the neurons, (neurons, in), and of the one that reads them, (out, neurons).
        stats: of these matrices, with gradients.
    """
    grams, metrics = zip(*measured_metrics("obs", stats or [None] * len(weights)), strict=True)
    *makers, reader = weights
    found = eliminate(reader, grams[-1], metrics[-1])
    return replace(found, remainders=remainders(found, makers, reader, grams[:-1], metrics[:-1], metrics[-1]))


def measured_metrics(method: str, stats: Sequence[LayerStats | None]) -> list[tuple[Tensor, Tensor]]:
    """Return the covariance of the inputs and the metric of the outputs of each matrix, both well conditioned.

    Raises:
        FactorizationError: a matrix was not calibrated, or without gradients.
    """
    pairs = []
    for measured in stats:
        layer = required(measured, method, "out_gram")
        assert layer.out_gram is not None
        seen = layer.out_gram if layer.out_gram.any() else torch.eye(len(layer.out_gram), dtype=torch.float64)
        metric = shrink(seen.to(layer.out_gram), OUT_SHRINKAGE)  # without any signal all outputs weigh the same
        pairs.append((well_conditioned(layer.in_covariance, layer.n_tokens), metric))
    return pairs


METHOD = Method(
    "obs",
    2,
    frozenset({"moments", "gradients"}),
    decompose,
    "Hassibi & Stork 1993 (NeurIPS); ZipLM, arXiv 2302.04089, for structures",
    of="neurons",
)
