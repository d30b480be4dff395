"""The form ``neurons-low-rank``: a feed-forward pair keeps some of its neurons, and low rank of what they leave.

The matrices that make the neurons that stay, the one that reads them, or both are two thin ones. Of each of the numbers
of neurons at which the method has decomposed the rest, the ranks are those below the break-even of the smaller matrix;
a rank as large as that matrix's shorter side leaves it dense.
"""

from collections.abc import Sequence, Set
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from autolr.checkpoint.runtime.layers import CompressedLinear, SelectedLowRankLinear
from autolr.forms.base import Form, Given
from autolr.forms.low_rank import Factors, fill_
from autolr.forms.neurons import FORM as NEURONS
from autolr.forms.neurons import neurons
from autolr.methods.remainders import remainder_counts
from autolr.records import Choice, Unit, break_even_rank
from autolr.types import Decomposition

NAME = "neurons-low-rank"
_TIMED_COUNTS = (1 / 8, 3 / 8, 3 / 4)
_TIMED_RANKS = ((1 / 6, 1 / 6), (1 / 2, 1))
"""Of what makes the neurons and of what reads them, as shares of the break-even rank; at all of it they stay dense."""


def neurons_low_rank(method: str, count: int, make: int, read: int) -> Choice:
    """Return the choice of a number of neurons and of the ranks of what makes and of what reads them."""
    return Choice(NAME, method, (("neurons", count), ("make", make), ("read", read)))


class NeuronsLowRank(Form):
    """Low rank of what some of the neurons of a feed-forward pair leave."""

    name = NAME
    layer = SelectedLowRankLinear
    sizes: ClassVar = {
        "neurons": "neurons",
        "make": "rank of what makes them",
        "read": "rank of what reads them",
    }
    scale = NAME
    methods = ("obs",)
    of = "neurons"

    def options(self, given: Given, multiple: int) -> tuple[Sequence[Choice], np.ndarray]:
        """Return for each number of neurons the pairs of ranks that no other pair beats in weights and error."""
        choices: list[Choice] = []
        errors: list[float] = []
        *makers, reader = given.unit.matrices
        for remainder in given.decomposition.remainders:
            count, (*made, read) = remainder.count, remainder.matrices
            make_ranks = _ranks(count, makers[0].in_features, multiple)
            read_ranks = _ranks(count, reader.out_features, multiple)
            tails = np.add.outer(
                sum(part.tails().numpy() for part in made)[make_ranks], read.tails().numpy()[read_ranks]
            )
            pairs = [neurons_low_rank(given.method, count, a, b) for a in make_ranks for b in read_ranks]
            sizes = np.array([self.weights(given.unit, pair) for pair in pairs])
            removed = float(given.decomposition.errors[count])
            for place in _unbeaten(sizes, tails.ravel()):
                if not self._is_dense(given.unit, pairs[place]):
                    choices.append(pairs[place])
                    errors.append(removed + float(tails.flat[place]))
        return choices, np.array(errors)

    def weights(self, unit: Unit, choice: Choice) -> int:
        """Return the weights of all factors and of the matrices that stay dense."""
        count, total = choice["neurons"], 0
        for _, rank, wide in _sides(unit, choice):
            total += count * wide if rank >= min(count, wide) else rank * (count + wide)
        return total

    def bias_entries(self, unit: Unit, choice: Choice, biased: Set[str]) -> int:
        """Return the entries of the biases: a matrix that is low rank has one in any case."""
        *makers, reader = _sides(unit, choice)
        has = [rank < min(choice["neurons"], wide) or matrix.name in biased for matrix, rank, wide in makers]
        return reader[0].out_features + choice["neurons"] * sum(has)

    def index_bytes(self, unit: Unit, choice: Choice) -> int:
        """Return the bytes of the neurons' places, which each matrix has."""
        return NEURONS.index_bytes(unit, choice)

    def build(self, given: Given, choice: Choice, like: Tensor) -> CompressedLinear:
        """Return the layer that reads the neurons."""
        return self.layers(given, choice, like)[given.unit.modules[-1]]

    def layers(self, given: Given, choice: Choice, like: Tensor) -> dict[str, CompressedLinear]:
        """Return the layers that make and read the neurons; each is exact on the mean of what the dense one is fed."""
        count = choice["neurons"]
        built = NEURONS.layers(given, neurons(given.method, count), like)
        index = given.decomposition.kept(count).to(like.device)
        parts = given.decomposition.remainder(count).matrices
        means = [matrix.mean for matrix in given.before] + [given.mean]
        for (matrix, rank, wide), part, mean in zip(_sides(given.unit, choice), parts, means, strict=True):
            if rank >= min(count, wide):
                continue
            layer = _empty(matrix, count, rank, matrix is given.unit.matrices[-1], like)
            dense: Any = built[matrix.name].linear
            fill_(layer, _factors(part, rank, mean, layer.reads, index, dense.weight), dense.bias)
            with torch.no_grad():
                layer.index.copy_(index)
            built[matrix.name] = layer
        return built

    def empty_layers(self, unit: Unit, choice: Choice, like: Tensor) -> dict[str, CompressedLinear]:
        """Return the layers of a choice with any weights."""
        count, reader = choice["neurons"], unit.matrices[-1]
        built = NEURONS.empty_layers(unit, choice, like)
        for matrix, rank, wide in _sides(unit, choice):
            if rank < min(count, wide):
                built[matrix.name] = _empty(matrix, count, rank, matrix is reader, like)
        return built

    def timed(self, unit: Unit) -> Sequence[Choice]:
        """Return few, some and many neurons, with low ranks of all and with middle ranks of what makes them alone."""
        counts = remainder_counts(unit.matrices[-1].in_features)
        found = set()
        for share in _TIMED_COUNTS:
            count = min(counts, key=lambda n: abs(n - share * unit.matrices[-1].in_features))
            for make, read in _TIMED_RANKS:
                ranks = (_ranked(count, unit.in_features, make), _ranked(count, unit.out_features, read))
                found.add(neurons_low_rank("", count, *ranks))
        return sorted(found, key=lambda choice: self.weights(unit, choice))

    def terms(self, unit: Unit, choice: Choice) -> tuple[float, ...]:
        """Return a fixed part, the matrices that are two thin ones, the neurons and the weights."""
        thin = sum(rank < min(choice["neurons"], wide) for _, rank, wide in _sides(unit, choice))
        return 1.0, float(thin), float(choice["neurons"]), float(self.weights(unit, choice))

    def _is_dense(self, unit: Unit, choice: Choice) -> bool:
        return all(rank >= min(choice["neurons"], wide) for _, rank, wide in _sides(unit, choice))


def _sides(unit: Unit, choice: Choice) -> list[tuple[Unit, int, int]]:
    """Return each matrix with its rank and the side that keeps its size."""
    *makers, reader = unit.matrices
    return [(m, choice["make"], m.in_features) for m in makers] + [(reader, choice["read"], reader.out_features)]


def _ranks(count: int, wide: int, multiple: int) -> list[int]:
    """Return the ranks of a matrix of these sides: multiples below break-even, and the full one."""
    top = break_even_rank(count, wide)
    return [*range(min(multiple, max(1, top - 1)), top, multiple), min(count, wide)]


def _ranked(count: int, wide: int, share: float) -> int:
    """Return a share of the break-even rank of a matrix of these sides, or where it is 1 the full one."""
    return min(count, wide) if share == 1 else max(1, round(share * break_even_rank(count, wide)))


def _unbeaten(sizes: np.ndarray, errors: np.ndarray) -> list[int]:
    """Return the places where no smaller or equal size has a smaller error."""
    order = np.lexsort((errors, sizes))
    best = np.minimum.accumulate(errors[order])
    return [int(place) for k, place in enumerate(order) if k == 0 or errors[place] < best[k - 1]]


def _factors(
    part: Decomposition, rank: int, mean: Tensor | None, reads: bool, index: Tensor, weight: Tensor
) -> Factors:
    """Return the factors of a rank; the shift makes them exact on the mean."""
    left, right = (factor.contiguous().to(weight.device) for factor in part.truncate(rank))
    if mean is None:
        return Factors(left, right, left.new_zeros(len(left)))
    mu = mean.to(weight.device).double()
    mu = mu[index] if reads else mu
    shift = weight.double() @ mu - left.double() @ (right.double() @ mu)
    return Factors(left, right, shift.to(left.dtype))


def _empty(matrix: Unit, count: int, rank: int, reads: bool, like: Tensor) -> SelectedLowRankLinear:
    wide_in, wide_out = matrix.in_features, matrix.out_features
    sizes = (count, wide_out) if reads else (wide_in, count)
    return SelectedLowRankLinear(*sizes, rank, wide_in, wide_out, device=like.device, dtype=like.dtype)


FORM = NeuronsLowRank()
