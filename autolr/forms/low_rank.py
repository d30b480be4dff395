"""The form ``low-rank``: ``y = left (right x) + b``, two thin matrices in place of one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from autolr.checkpoint.runtime.layers import LowRankLinear
from autolr.forms.base import REFERENCE_SHARE, ROUNDING, Form, Given
from autolr.forms.gauge import balance
from autolr.records import Choice, Unit

NAME = LowRankLinear.kind
N_TIMED = 5
"""Ranks at which each shape of layer is timed."""


def low_rank(method: str, rank: int) -> Choice:
    """Return the choice of a rank."""
    return Choice(NAME, method, (("rank", rank),))


@dataclass(frozen=True)
class Factors:
    """A low-rank layer's numbers: ``y = left (right x) + b + shift``.

    Attributes:
        left: (out, rank).
        right: (rank, in).
        shift: (out,), what is added to the layer's bias.
    """

    left: Float[Tensor, "out rank"]
    right: Float[Tensor, "rank in"]
    shift: Float[Tensor, " out"]


def make_factors(given: Given, rank: int) -> Factors:
    """Slice a decomposition to a rank and correct the bias for the mean of what was cut away.

    The shift is ``(W − left·right) μ``: with it the layer is exact on its mean input.

    Returns:
        Contiguous factors, in the decomposition's dtype, on the weight's device.
    """
    weight = given.weight
    left, right = (factor.contiguous().to(weight.device) for factor in given.decomposition.truncate(rank))
    return Factors(left, right, shift_of(given, left, right))


def shift_of(given: Given, left: Float[Tensor, "out rank"], right: Float[Tensor, "rank in"]) -> Float[Tensor, " out"]:
    """Return ``(W − left·right) μ``, (out,), in the factors' dtype; zero without a mean."""
    if given.mean is None:
        return left.new_zeros(given.weight.shape[0])
    mu = given.mean.to(left.device).double()
    dense = given.weight.to(left.dtype).double()
    return (dense @ mu - left.double() @ (right.double() @ mu)).to(left.dtype)


def make_layer(factors: Factors, bias: Float[Tensor, " out"] | None, like: Tensor) -> LowRankLinear:
    """Return the layer that runs the factors, balanced, on the device and in the dtype of a tensor."""
    layer = LowRankLinear(
        factors.right.shape[1], factors.left.shape[0], factors.right.shape[0], like.device, like.dtype
    )
    fill_(layer, factors, bias)
    return layer


def fill_(layer: LowRankLinear, factors: Factors, bias: Float[Tensor, " out"] | None) -> None:
    """Give a layer its factors, balanced, and its bias, in place."""
    shift = factors.shift
    with torch.no_grad():
        if layer.rank:
            left, right = balance(factors.left, factors.right)  # in their own precision, which may be higher
            layer.left.weight.copy_(left)
            layer.right.weight.copy_(right)
        layer.bias.copy_(shift if bias is None else shift + bias.to(shift))


class LowRank(Form):
    """Two thin matrices in place of one."""

    name = NAME
    layer = LowRankLinear
    sizes: ClassVar = {"rank": "rank"}
    scale = NAME

    def options(self, given: Given, multiple: int) -> tuple[Sequence[Choice], np.ndarray]:
        """Return the multiples of a rank below break-even, 0 first, and the energy of what each leaves out."""
        ranks = rank_grid(given.unit, multiple)
        tails = given.decomposition.tails().numpy()
        return [low_rank(given.method, rank) for rank in ranks], tails[list(ranks)]

    def weights(self, unit: Unit, choice: Choice) -> int:
        """Return ``rank (out + in)``."""
        return choice["rank"] * (unit.out_features + unit.in_features)

    def build(self, given: Given, choice: Choice, like: Tensor) -> LowRankLinear:
        """Return the layer of a rank."""
        return make_layer(make_factors(given, choice["rank"]), given.bias, like)

    def reference(self, unit: Unit, choices: Sequence[Choice], errors: np.ndarray) -> int:
        """Return the place of a third of the useful ranks: those below break-even that still cut something away."""
        least = ROUNDING * float(errors.max(initial=0.0))
        positive = [place for place, choice in enumerate(choices) if choice["rank"] > 0]
        beyond = [choices[place]["rank"] for place in positive if errors[place] <= least]
        wanted = REFERENCE_SHARE * min([unit.break_even, *beyond])
        useful = [place for place in positive if errors[place] > least]
        return min(useful or [0], key=lambda place: abs(choices[place]["rank"] - wanted))

    def timed(self, unit: Unit) -> Sequence[Choice]:
        """Return ranks from 0 to break-even."""
        return [low_rank("", rank) for rank in timed_ranks(unit)]

    def terms(self, unit: Unit, choice: Choice) -> tuple[float, ...]:
        """Return whether there are factors or a bias alone, and the rank."""
        return terms_of_rank(choice["rank"])


def terms_of_rank(rank: int) -> tuple[float, ...]:
    """Return what the time of two factors grows with; at rank 0 there are none.

    Example:
        >>> terms_of_rank(0), terms_of_rank(24)
        ((1.0, 0.0, 0.0), (0.0, 1.0, 24.0))
    """
    return float(rank == 0), float(rank > 0), float(rank)


def rank_grid(unit: Unit, multiple: int) -> range:
    """Return the ranks offered for a unit: 0 and the multiples below its break-even rank.

    Example:
        >>> list(rank_grid(Unit("a", "a", 0, 1, 32, 32), 8))
        [0, 8]
    """
    return range(0, unit.break_even, multiple)


def timed_ranks(unit: Unit, count: int | None = None) -> list[int]:
    """Return the ranks at which a shape is timed, ``N_TIMED`` where no count is given: closer where they are small.

    Example:
        >>> timed_ranks(Unit("a", "a", 0, 1, 384, 384), 5)
        [0, 24, 64, 120, 192]
    """
    top, count = unit.break_even, count or N_TIMED
    wanted = top * np.linspace(0, 1, count) ** 1.75
    step = 8 if top > 8 * count else 1
    return sorted({min(top, int(np.ceil(rank / step - 1e-9)) * step) for rank in wanted})


FORM = LowRank()
