"""Optimal brain surgeon on the entries of attention's heads, between value and output, in their best turn.

What a head makes, ``c = W_v x`` mixed over positions, may be turned by any regular matrix, and the columns of the
output by its inverse: nothing changes, so nothing is lost by choosing the turn. It is that of the singular vectors of
``L W_o C^½`` of each head, whose entries are uncorrelated and of falling weight to the loss. Of the turned entries of
all heads those are removed, one after the other, that the loss misses least, and the output is refitted each time.

With grouped-query attention several query heads read one value: they share its turn, and an entry goes for all of them.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autolr.methods.elimination import eliminate
from autolr.methods.obs import measured_metrics
from autolr.methods.weighted_svd import psd_power
from autolr.records import Heads
from autolr.types import Elimination, LayerStats, Method, turned_rows

_FLOOR = 1e-6
"""Of the eigenvalues of a head's covariance, as a share of the largest: a turn must be regular."""


def decompose(weights: Sequence[Tensor], stats: Sequence[LayerStats | None] | None, heads: Heads) -> Elimination:
    """Order the entries of turned heads by what the loss would miss most, ``‖H^½ (W z − W′ z_J)‖²``.

    Half an error times the tokens of an example is the second-order increase of the loss, as with ``kfac``.

    Args:
        weights: of value, (groups x width, in), and output, (out, groups x queries x width).
        stats: of both, with gradients.
        heads: which entries are a head.
    """
    *_, output = weights
    [(covariance, metric)] = measured_metrics("obs-ov", [stats[-1] if stats else None])
    turn, back = _turns(output, covariance, metric, heads)
    columns = turned_columns(heads).to(output.device)
    inverse_turned = turned_rows(output.mT, back.mT).mT
    covariance = turned_rows(turned_rows(covariance, turn).mT, turn)[columns][:, columns]
    return replace(eliminate(inverse_turned[:, columns], covariance, metric, width=heads.queries), turn=turn)


def turned_columns(heads: Heads) -> Int[Tensor, " all_read"]:
    """Return the column of the output of each turned entry: by group, then by entry, then by query head.

    Example:
        >>> turned_columns(Heads(groups=1, queries=2, width=3)).tolist()
        [0, 3, 1, 4, 2, 5]
    """
    columns = torch.arange(heads.all_read).view(heads.groups, heads.queries, heads.width)
    return columns.mT.flatten()


def _turns(
    output: Float[Tensor, "out n"], covariance: Float[Tensor, "n n"], metric: Float[Tensor, "out out"], heads: Heads
) -> tuple[Float[Tensor, "groups width width"], Float[Tensor, "groups width width"]]:
    """Return the turn of each group of heads and its inverse."""
    turns, backs = [], []
    for group in torch.arange(heads.all_read, device=output.device).view(heads.groups, heads.queries, heads.width):
        spread = torch.stack([covariance[head][:, head] for head in group]).sum(0)
        needed = torch.stack([output[:, head].mT @ metric @ output[:, head] for head in group]).sum(0)
        root = psd_power(spread, floor=_FLOOR) if spread.any() else torch.eye(heads.width).to(spread)
        vectors = torch.linalg.eigh(root @ needed @ root).eigenvectors.flip(1)
        backs.append(root @ vectors)
        turns.append(torch.linalg.solve(root, vectors).mT)
    return torch.stack(turns), torch.stack(backs)


METHOD = Method(
    "obs-ov",
    1,
    frozenset({"moments", "gradients"}),
    decompose,
    "Hassibi & Stork 1993 (NeurIPS), the order; Chen et al. 2021 (DRONE) and arXiv 2408.09632 (MoDeGPT), the pair",
    of="value-output",
)
