"""The module that runs in place of a table of token vectors.

This file depends on torch and on the layers beside it alone: a copy of both travels with every checkpoint.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autolr.checkpoint.runtime.layers import KINDS, CompressedLinear


class LowRankEmbedding(CompressedLinear):
    """``y = frequent[token]`` of some tokens, ``y = projection(factor[token])`` of all others.

    It stands for the matrix ``W`` (dim, vocabulary) that one-hot inputs would be multiplied by; the constant of the
    projection is the mean of what it stands for. At rank 0 that mean, a parameter named ``constant``, is all that the
    other tokens have.

    Args:
        in_features: tokens of the vocabulary.
        out_features: size of a token's vector.
        rank: size of a token's factor; 0 leaves one vector for all.
        core: how many tokens have their own vectors, below the vocabulary.
        device: where the parameters live.
        dtype: of the parameters.

    Attributes:
        place: (vocabulary,) int32 of each token: below ``core`` the row of ``frequent``, from there on the row of
            ``factor``; there is none without a core.

    Shape:
        input (...) integers, output (..., out_features).

    Example:
        >>> LowRankEmbedding(50, 8, rank=2, core=0)(torch.zeros(3, 4, dtype=torch.int64)).shape
        torch.Size([3, 4, 8])
    """

    kind: ClassVar[str] = "embedding"
    place: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        core: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, device, dtype)
        self.rank, self.core = rank, core
        where: dict[str, Any] = {"device": device or "cpu", "dtype": dtype}
        build: Callable[..., Any] = nn.utils.skip_init
        if core:
            self.frequent = build(nn.Embedding, core, out_features, **where)
            self.register_buffer("place", torch.arange(in_features, dtype=torch.int32, device=device))
        if rank:
            self.factor = build(nn.Embedding, in_features - core, rank, **where)
            self.projection = build(nn.Linear, rank, out_features, **where)
        else:
            self.constant = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))

    @property
    def bias(self) -> Tensor:
        """The mean of the tokens without a vector of their own, (out_features,)."""
        constant: Tensor = self.projection.bias if self.rank else self.constant
        return constant

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens' vectors, (..., out_features)."""
        place = self.place[tokens] if self.core else tokens
        if self.rank:
            output: Tensor = self.projection(self.factor((place - self.core).clamp(min=0))).to(self.weight.dtype)
        else:
            output = self.constant.expand(*tokens.shape, -1)
        if self.core:
            own = self.frequent(place.clamp(max=self.core - 1))
            output = torch.where((place < self.core)[..., None], own, output)
        return output

    def sizes(self) -> dict[str, int]:
        """Return the arguments that build an equal layer."""
        sizes = {"in_features": self.in_features, "out_features": self.out_features}
        return {**sizes, "rank": self.rank, "core": self.core}

    def dense_weight(self) -> Tensor:
        """Return the matrix of the tokens' vectors, (out_features, in_features) float64: the constant is in it."""
        rest = self.bias.double().expand(self.in_features - self.core, -1)
        if self.rank:
            rest = rest + self.factor.weight.double() @ self.projection.weight.double().mT
        if not self.core:
            return rest.mT
        return torch.cat([self.frequent.weight.double(), rest])[self.place.long()].mT

    def dense_bias(self) -> Tensor:
        """Return zeros: see :meth:`dense_weight`."""
        return torch.zeros_like(self.bias)


ALL_KINDS: dict[str, type[CompressedLinear]] = {**KINDS, LowRankEmbedding.kind: LowRankEmbedding}
"""What a layer of a checkpoint may be, by the kind that its configuration names."""
