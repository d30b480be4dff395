"""Queries and keys of attention's heads in fewer entries: the SVD of the matrix of their scores.

A score is ``qᵀ k = x̃ᵀ W̃_qᵀ W̃_k ỹ`` with biases in the weights by an input that is always 1. In the metrics of what
both are fed, ``C_q^½ W̃_qᵀ W̃_k C_k^½ = U S Vᵀ``: keeping the largest singular values of a head loses the sum of the
others' squares, and no other matrix of that rank loses less. Singular values of different heads are compared by what
an error of a head's scores means to the loss, the squared gradients of a query's scores, ``tr(H_q C_k⁻¹) / width``.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from autolr.errors import FactorizationError
from autolr.methods.shrinkage import required
from autolr.records import Heads
from autolr.types import LayerStats, Method, ScoreDims

_FLOOR = 1e-6
"""Of the eigenvalues of a head's second moments, as a share of the largest: a turn must be regular."""
_RIDGE = 1e-4
"""What is added to the keys' moments where they are divided by, as a share of their mean."""
_LEAST = 1e-6
"""Singular value by which a turn is balanced, as a share of the largest."""


def decompose(
    weights: Sequence[Tensor],
    stats: Sequence[LayerStats | None] | None,
    heads: Heads,
    biases: Sequence[Tensor | None] = (None, None),
) -> ScoreDims:
    """Order the entries of turned queries and keys by what their scores would miss most.

    Args:
        weights: of query, (groups x queries x width, in), and key, (groups x width, in).
        stats: of both, with gradients.
        heads: which entries are a head.
        biases: of both.

    Raises:
        FactorizationError: something was not measured, or is not finite.
    """
    query, key = (required(layer, "svd-qk", "out_gram") for layer in stats or (None, None))
    of_queries = _moments(weights[0], biases[0], query, heads, heads.queries)
    of_keys = _moments(weights[1], biases[1], key, heads, 1)
    assert query.out_gram is not None
    gradients = _blocks(query.out_gram, heads, heads.queries)
    if not (torch.isfinite(of_queries).all() and torch.isfinite(of_keys).all()):
        raise FactorizationError("queries or keys are not finite; check the model and the calibration data")
    (query_roots, undo), (key_roots, _) = _roots(of_queries), _roots(of_keys)
    u, s, _ = torch.linalg.svd(query_roots.mT @ key_roots)
    balance = s.clamp(min=_LEAST * float(s.max())).sqrt()[..., None]
    query_turn = balance * (u.mT @ undo)
    key_turn = torch.linalg.inv(query_turn).mT.contiguous()
    keys = _divisible(of_keys)
    worth = torch.linalg.solve(keys, gradients).diagonal(dim1=1, dim2=2).mean(1) / heads.queries
    lost = _energies(query_turn, of_queries) * _energies(key_turn, of_keys)
    energy = (worth[:, None] * lost).flatten() * query.n_tokens / key.n_tokens  # per vector of the key, as errors are
    order = energy.argsort(descending=True, stable=True)
    left = energy[order].flip(0).cumsum(0).flip(0)
    return ScoreDims(order, torch.cat([left, left.new_zeros(1)]), query_turn, key_turn)


def _moments(
    weight: Float[Tensor, "rows in"], bias: Tensor | None, stats: LayerStats, heads: Heads, several: int
) -> Float[Tensor, "groups width width"]:
    """Return ``E[v vᵀ]`` of each group's heads, ``v = W x + b``, added up over those of a group."""
    rows = weight.view(heads.groups, several, heads.width, -1)
    moments = (rows @ stats.in_gram.to(weight)) @ rows.mT
    if bias is not None:
        offset = bias.double().view(heads.groups, several, heads.width, 1)
        mixed = (rows @ stats.mean.to(weight)[:, None]) @ offset.mT
        moments = moments + mixed + mixed.mT + offset @ offset.mT
    return moments.sum(1)


def _blocks(metric: Float[Tensor, "rows rows"], heads: Heads, several: int) -> Float[Tensor, "groups width width"]:
    """Return each group's blocks on the diagonal, added up over its heads."""
    count = heads.groups * several
    blocks = metric.view(count, heads.width, count, heads.width).diagonal(dim1=0, dim2=2).movedim(-1, 0)
    return blocks.reshape(heads.groups, several, heads.width, heads.width).sum(1)


def _roots(moments: Float[Tensor, "groups width width"]) -> tuple[Tensor, Tensor]:
    """Return R with ``R Rᵀ`` the moments, made regular, and its inverse, of each group; of nothing the identity."""
    values, vectors = torch.linalg.eigh((moments + moments.mT) / 2)
    largest = values[:, -1:]
    scale = torch.where(largest > 0, values.clamp(min=_FLOOR * largest), 1.0).sqrt()
    return vectors * scale[:, None], (vectors / scale[:, None]).mT


def _divisible(moments: Float[Tensor, "groups width width"]) -> Float[Tensor, "groups width width"]:
    """Return moments that can be divided by; where there is nothing, the identity."""
    largest = moments.diagonal(dim1=1, dim2=2).mean(1)
    ridge = torch.where(largest > 0, _RIDGE * largest, 1.0)
    return moments + ridge[:, None, None] * torch.eye(moments.shape[-1]).to(moments)


def _energies(
    turn: Float[Tensor, "groups width width"], moments: Float[Tensor, "groups width width"]
) -> Float[Tensor, "groups width"]:
    """Return the second moment of each turned entry."""
    return ((turn @ moments) * turn).sum(-1).clamp(min=0.0)


METHOD = Method(
    "svd-qk",
    1,
    frozenset({"moments", "gradients"}),
    decompose,
    "Chen et al. 2021 (DRONE, NeurIPS); arXiv 2408.09632 (MoDeGPT), arXiv 2505.12942 (A3)",
    of="query-key",
)
