"""The form ``qk-pair``: the heads of an attention compare queries and keys in fewer entries, each in its best turn.

Both matrices are smaller dense ones: two products where low rank of both has four. What the attention sees keeps its
size; the entries that are left out are zeros, which add nothing to a score.

Source: Chen et al. 2021 (DRONE, NeurIPS); MoDeGPT, arXiv 2408.09632; A3, arXiv 2505.12942.
"""

from collections.abc import Mapping, Sequence, Set

import numpy as np
from torch import Tensor

from autolr.checkpoint.runtime.layers import CompressedLinear, SpreadLinear
from autolr.forms.base import Given
from autolr.forms.entry_pair import EntryPair
from autolr.forms.head_entries import (
    entry_counts,
    heads_of,
    rows_of_queries,
    spread,
)
from autolr.records import Choice, Unit
from autolr.types import turned_rows

NAME = "qk-pair"


def qk_pair(method: str, count: int) -> Choice:
    """Return the choice of a number of entries of all keys of an attention."""
    return Choice(NAME, method, (("entries", count),))


class QkPair(EntryPair):
    """Some of the entries in which queries and keys are compared."""

    name = NAME
    scale = NAME
    methods = ("svd-qk",)
    of = "query-key"
    last_reads = False

    def options(self, given: Given, multiple: int) -> tuple[Sequence[Choice], np.ndarray]:
        """Return each multiple of entries below all of them, the least first, and what leaving out the rest costs."""
        counts = entry_counts(given.unit, multiple)
        return [qk_pair(given.method, count) for count in counts], given.decomposition.errors.double().numpy()[counts]

    def counts(self, unit: Unit, choice: Choice) -> Mapping[str, int]:
        """Return how many entries each matrix has left, by its name."""
        query, key = unit.matrices
        return {query.name: choice["entries"] * heads_of(unit).queries, key.name: choice["entries"]}

    def bias_entries(self, unit: Unit, choice: Choice, biased: Set[str]) -> int:
        """Return the entries of the biases that query and key have."""
        return sum(count for name, count in self.counts(unit, choice).items() if name in biased)

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


def _turned(
    matrix: Unit, places: Tensor, turn: Tensor, weight: Tensor, bias: Tensor | None, like: Tensor
) -> SpreadLinear:
    turn = turn.to(weight.device).double()
    rows = turned_rows(weight.double(), turn)[places]
    return spread(matrix, places, False, rows, None if bias is None else turned_rows(bias.double(), turn)[places], like)


FORM = QkPair()
