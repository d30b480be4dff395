"""Optimal brain surgeon on the heads of attention: backward elimination in the K-FAC metric, the output refitted."""

from collections.abc import Sequence

from torch import Tensor

from autolr.methods.elimination import eliminate
from autolr.methods.obs import measured_metrics
from autolr.records import Heads
from autolr.types import Elimination, LayerStats, Method


def decompose(weights: Sequence[Tensor], stats: Sequence[LayerStats | None] | None, heads: Heads) -> Elimination:
    """Order heads by what the loss would miss most, ``‖H^½ (W x − W′ x_J)‖²`` with ``H = E[g gᵀ]`` of their reader.

    Half an error times the tokens of an example is the second-order increase of the loss, as with ``kfac``.

    Args:
        weights: of the matrices that make the heads, (entries, in), and of the one that reads them, (out, entries).
        stats: of these matrices, with gradients.
        heads: which entries are one.
    """
    *_, reader = weights
    [(gram, metric)] = measured_metrics("obs-heads", [stats[-1] if stats else None])
    return eliminate(reader, gram, metric, width=heads.read)


METHOD = Method(
    "obs-heads",
    1,
    frozenset({"moments", "gradients"}),
    decompose,
    "Hassibi & Stork 1993 (NeurIPS); Kurtić et al. 2023 (ZipLM, arXiv 2302.04089), for heads",
    of="heads",
)
