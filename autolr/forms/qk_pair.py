"""The form ``qk-pair``: the heads of an attention compare queries and keys in fewer entries, each in its best turn.

Both matrices are smaller dense ones: two products where low rank of both has four. What the attention sees keeps its
size; the entries that are left out are zeros, which add nothing to a score.

Source: Chen et al. 2021 (DRONE, NeurIPS); MoDeGPT, arXiv 2408.09632; A3, arXiv 2505.12942.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import ClassVar

import numpy as np
from torch import Tensor, nn

from autolr.checkpoint.runtime.layers import CompressedLinear, SpreadLinear
from autolr.forms.base import Form, Given
from autolr.forms.head_entries import (
    empty_spread,
    entry_counts,
    evenly,
    heads_of,
    places_bytes,
    rows_of_queries,
    spread,
    weights_by_module,
)
from autolr.records import Choice, Unit
from autolr.types import turned_rows

NAME = "qk-pair"
_TIMED = (1 / 8, 1 / 2, 7 / 8)


def qk_pair(method: str, count: int) -> Choice:
    """Return the choice of a number of entries of all keys of an attention."""
    return Choice(NAME, method, (("entries", count),))


class QkPair(Form):
    """Some of the entries in which queries and keys are compared."""

    name = NAME
    layer = SpreadLinear
    sizes: ClassVar = {"entries": "entries of all heads"}
    scale = NAME
    methods = ("svd-qk",)
    of = "query-key"

    def options(self, given: Given, multiple: int) -> tuple[Sequence[Choice], np.ndarray]:
        """Return each multiple of entries below all of them, the least first, and what leaving out the rest costs."""
        counts = entry_counts(given.unit, multiple)
        return [qk_pair(given.method, count) for count in counts], given.decomposition.errors.double().numpy()[counts]

    def weights(self, unit: Unit, choice: Choice) -> int:
        """Return how many weights make the entries that stay."""
        return sum(self.products(unit, choice).values())

    def products(self, unit: Unit, choice: Choice) -> dict[str, int]:
        """Return how many weights each matrix has left."""
        return weights_by_module(unit, _counts(unit, choice), None)

    def bias_entries(self, unit: Unit, choice: Choice, biased: Set[str]) -> int:
        """Return the entries of the biases that query and key have."""
        return sum(count for name, count in _counts(unit, choice).items() if name in biased)

    def index_bytes(self, unit: Unit, choice: Choice) -> int:
        """Return the bytes of the entries' places."""
        return places_bytes([*_counts(unit, choice).values()])

    def build(self, given: Given, choice: Choice, like: Tensor) -> CompressedLinear:
        """Return the layer that makes keys."""
        return self.layers(given, choice, like)[given.unit.modules[-1]]

    def layers(self, given: Given, choice: Choice, like: Tensor) -> dict[str, CompressedLinear]:
        """Return both layers."""
        (query,), made, heads = given.before, given.decomposition, heads_of(given.unit)
        kept = made.kept(choice["entries"]).to(given.weight.device)
        first, last = given.unit.matrices
        return {
            first.name: _turned(first, rows_of_queries(kept, heads), made.query_turn, query.weight, query.bias, like),
            last.name: _turned(last, kept, made.key_turn, given.weight, given.bias, like),
        }

    def turns(self, given: Given) -> Mapping[str, Tensor]:
        """Return the turns of queries and of keys."""
        made = given.decomposition
        return dict(zip(given.unit.modules, (made.query_turn, made.key_turn), strict=True))

    def empty_layers(self, unit: Unit, choice: Choice, like: Tensor) -> dict[str, CompressedLinear]:
        """Return both layers with any weights."""
        counts = _counts(unit, choice)
        return {m.name: empty_spread(m, counts[m.name], False, True, like) for m in unit.matrices}

    def timed(self, unit: Unit) -> Sequence[Choice]:
        """Return numbers of entries from few to nearly all."""
        return [qk_pair("", count) for count in evenly(unit, _TIMED)]

    def terms(self, unit: Unit, choice: Choice) -> tuple[float, ...]:
        """Return a fixed part and the entries."""
        return 1.0, float(choice["entries"])

    def run(
        self,
        unit: Unit,
        layers: Mapping[str, nn.Module],
        inputs: Mapping[str, Tensor],
        activation: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Run both layers, each on its own input; what lies between them stays as it is."""
        first, last = unit.modules
        layers[first](inputs[first])
        output: Tensor = layers[last](inputs[last])
        return output


def _turned(
    matrix: Unit, places: Tensor, turn: Tensor, weight: Tensor, bias: Tensor | None, like: Tensor
) -> SpreadLinear:
    turn = turn.to(weight.device).double()
    rows = turned_rows(weight.double(), turn)[places]
    return spread(matrix, places, False, rows, None if bias is None else turned_rows(bias.double(), turn)[places], like)


def _counts(unit: Unit, choice: Choice) -> Mapping[str, int]:
    query, key = unit.matrices
    return {query.name: choice["entries"] * heads_of(unit).queries, key.name: choice["entries"]}


FORM = QkPair()
