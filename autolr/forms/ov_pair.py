"""The form ``ov-pair``: the heads of an attention hand over fewer entries, each in its best turn.

Value makes them and the output reads them, both smaller dense matrices: two products where low rank of both has four.
What lies between, as the attention sees it, keeps its size; the entries that are left out are zeros.

Source: Chen et al. 2021 (DRONE, NeurIPS); MoDeGPT, arXiv 2408.09632.
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
from autolr.methods.obs_ov import turned_columns
from autolr.records import Choice, Unit
from autolr.types import turned_rows

NAME = "ov-pair"
_TIMED = (1 / 8, 1 / 2, 7 / 8)


def ov_pair(method: str, count: int) -> Choice:
    """Return the choice of a number of entries of all values of an attention."""
    return Choice(NAME, method, (("entries", count),))


class OvPair(Form):
    """Some of the entries that heads hand over."""

    name = NAME
    layer = SpreadLinear
    sizes: ClassVar = {"entries": "entries of all heads"}
    scale = NAME
    methods = ("obs-ov",)
    of = "value-output"

    def options(self, given: Given, multiple: int) -> tuple[Sequence[Choice], np.ndarray]:
        """Return each multiple of entries below all of them, the least first, and what leaving out the rest costs."""
        counts, queries = entry_counts(given.unit, multiple), heads_of(given.unit).queries
        errors = given.decomposition.errors.double().numpy()
        return [ov_pair(given.method, count) for count in counts], errors[[count * queries for count in counts]]

    def weights(self, unit: Unit, choice: Choice) -> int:
        """Return how many weights make and read the entries that stay."""
        return sum(self.products(unit, choice).values())

    def products(self, unit: Unit, choice: Choice) -> dict[str, int]:
        """Return how many weights each matrix has left."""
        return weights_by_module(unit, _counts(unit, choice), unit.matrices[-1])

    def bias_entries(self, unit: Unit, choice: Choice, biased: Set[str]) -> int:
        """Return the entries of the output's bias, and of the value's where it has one."""
        value, output = unit.matrices
        return output.out_features + (choice["entries"] if value.name in biased else 0)

    def index_bytes(self, unit: Unit, choice: Choice) -> int:
        """Return the bytes of the entries' places."""
        return places_bytes([*_counts(unit, choice).values()])

    def build(self, given: Given, choice: Choice, like: Tensor) -> CompressedLinear:
        """Return the layer that reads the entries."""
        return self.layers(given, choice, like)[given.unit.modules[-1]]

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

    def empty_layers(self, unit: Unit, choice: Choice, like: Tensor) -> dict[str, CompressedLinear]:
        """Return both layers with any weights."""
        counts, last = _counts(unit, choice), unit.matrices[-1]
        return {m.name: empty_spread(m, counts[m.name], m is last, True, like) for m in unit.matrices}

    def timed(self, unit: Unit) -> Sequence[Choice]:
        """Return numbers of entries from few to nearly all."""
        return [ov_pair("", count) for count in evenly(unit, _TIMED)]

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


def _counts(unit: Unit, choice: Choice) -> Mapping[str, int]:
    value, output = unit.matrices
    return {value.name: choice["entries"], output.name: choice["entries"] * heads_of(unit).queries}


FORM = OvPair()
