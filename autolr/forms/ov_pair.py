"""The form ``ov-pair``: the heads of an attention hand over fewer entries, each in its best turn.

Value makes them and the output reads them, both smaller dense matrices: two products where low rank of both has four.
What lies between, as the attention sees it, keeps its size; the entries that are left out are zeros.

Source: Chen et al. 2021 (DRONE, NeurIPS); MoDeGPT, arXiv 2408.09632.
"""

from collections.abc import Mapping, Sequence, Set

import numpy as np
from torch import Tensor

from autolr.checkpoint.runtime.layers import CompressedLinear
from autolr.forms.base import Given
from autolr.forms.entry_pair import EntryPair
from autolr.forms.head_entries import (
    entry_counts,
    heads_of,
    rows_of_queries,
    spread,
)
from autolr.methods.obs_ov import turned_columns
from autolr.records import Choice, Unit
from autolr.types import turned_rows

NAME = "ov-pair"


def ov_pair(method: str, count: int) -> Choice:
    """Return the choice of a number of entries of all values of an attention."""
    return Choice(NAME, method, (("entries", count),))


class OvPair(EntryPair):
    """Some of the entries that heads hand over."""

    name = NAME
    scale = NAME
    methods = ("obs-ov",)
    of = "value-output"
    last_reads = True

    def options(self, given: Given, multiple: int) -> tuple[Sequence[Choice], np.ndarray]:
        """Return each multiple of entries below all of them, the least first, and what leaving out the rest costs."""
        counts, queries = entry_counts(given.unit, multiple), heads_of(given.unit).queries
        errors = given.decomposition.errors.double().numpy()
        return [ov_pair(given.method, count) for count in counts], errors[[count * queries for count in counts]]

    def counts(self, unit: Unit, choice: Choice) -> Mapping[str, int]:
        """Return how many entries each matrix has left, by its name."""
        value, output = unit.matrices
        return {value.name: choice["entries"], output.name: choice["entries"] * heads_of(unit).queries}

    def bias_entries(self, unit: Unit, choice: Choice, biased: Set[str]) -> int:
        """Return the entries of the output's bias, and of the value's where it has one."""
        value, output = unit.matrices
        return output.out_features + (choice["entries"] if value.name in biased else 0)

    def layers(self, given: Given, choice: Choice, like: Tensor) -> dict[str, CompressedLinear]:
        """Return both layers; the output is exact on the mean of what it is fed."""
        (value,), made, heads = given.before, given.decomposition, heads_of(given.unit)
        device, turn = given.weight.device, made.turn.to(given.weight.device).double()
        kept = made.kept(choice["entries"] * heads.queries).to(device)
        entries = kept[:: heads.queries] // heads.queries
        columns = turned_columns(heads).to(device)
        fitted = made.weight(len(kept)).to(device)[:, columns[kept].argsort()]
        bias = fitted.new_zeros(len(fitted)) if given.bias is None else given.bias.double()
        places = rows_of_queries(entries, heads)
        if given.mean is not None:
            mean = given.mean.to(device).double()
            bias = bias + given.weight.double() @ mean - fitted @ turned_rows(mean, turn)[places]
        weight = turned_rows(value.weight.double(), turn)[entries]
        own_bias = None if value.bias is None else turned_rows(value.bias.double(), turn)[entries]
        first, last = given.unit.matrices
        return {
            first.name: spread(first, entries, False, weight, own_bias, like),
            last.name: spread(last, places, True, fitted, bias, like),
        }

    def turns(self, given: Given) -> Mapping[str, Tensor]:
        """Return the turn of values, which is that of what the output reads too."""
        return dict.fromkeys(given.unit.modules, given.decomposition.turn)


FORM = OvPair()
