"""The form ``heads``: attention keeps some of its heads, and what reads them is refitted.

Query, key and value lose the rows of the heads that go, the output their columns: four dense products of smaller sizes,
and an attention kernel that works on fewer heads. With grouped-query attention a key head goes with its query heads.

Source: Michel et al. 2019 (arXiv 1905.10650) for heads that can go, Hassibi & Stork 1993 for the order and the rest.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from autolr.checkpoint.runtime.layers import CompressedLinear, SelectedLinear
from autolr.forms.base import Form, Given
from autolr.forms.selection import INDEX_BYTES, empty_selected_layers, selected_layers
from autolr.records import Choice, Unit

NAME = "heads"


def heads(method: str, count: int) -> Choice:
    """Return the choice of a number of heads; of grouped-query attention, of heads of key and value."""
    return Choice(NAME, method, (("heads", count),))


class HeadsForm(Form):
    """Some of the heads of an attention."""

    name = NAME
    layer = SelectedLinear
    sizes: ClassVar = {"heads": "heads"}
    scale = NAME
    methods = ("obs-heads",)
    of = "heads"

    def choice(self, method: str, count: int) -> Choice:
        """Return the choice of a number of heads."""
        return Choice(self.name, method, (("heads", count),))

    def options(self, given: Given, multiple: int) -> tuple[Sequence[Choice], np.ndarray]:
        """Return each number of heads below all of them, the least first, and what leaving out the rest costs."""
        assert given.unit.heads is not None
        counts = range(1, given.unit.heads.groups)
        errors = given.decomposition.errors.double().numpy()
        return [self.choice(given.method, count) for count in counts], errors[
            [n * given.unit.heads.read for n in counts]
        ]

    def weights(self, unit: Unit, choice: Choice) -> int:
        """Return how many weights make and read the heads that stay."""
        return sum(self.products(unit, choice).values())

    def products(self, unit: Unit, choice: Choice) -> dict[str, int]:
        """Return how many weights each matrix has left."""
        entries = _entries(unit, choice)
        return {
            m.name: entries[m.name] * (m.out_features if m is unit.matrices[-1] else m.in_features)
            for m in unit.matrices
        }

    def attention(self, unit: Unit, choice: Choice) -> int:
        """Return how many entries the query heads that stay have together."""
        return _entries(unit, choice)[unit.modules[-1]]

    def bias_entries(self, unit: Unit, choice: Choice, biased: Set[str]) -> int:
        """Return the entries of the output's bias, and of those that query, key and value have."""
        *makers, reader = unit.matrices
        entries = _entries(unit, choice)
        return reader.out_features + sum(entries[maker.name] for maker in makers if maker.name in biased)

    def index_bytes(self, unit: Unit, choice: Choice) -> int:
        """Return the bytes of the places of the rows and columns that stay."""
        return INDEX_BYTES * sum(_entries(unit, choice).values())

    def build(self, given: Given, choice: Choice, like: Tensor) -> CompressedLinear:
        """Return the layer that reads the heads."""
        return self.layers(given, choice, like)[given.unit.modules[-1]]

    def layers(self, given: Given, choice: Choice, like: Tensor) -> dict[str, CompressedLinear]:
        """Return the layers that make and read the heads; their outputs are exact on the mean of all heads."""
        unit = given.unit
        assert unit.heads is not None
        columns = given.decomposition.kept(choice["heads"] * unit.heads.read)
        groups = columns[:: unit.heads.read] // unit.heads.read
        return selected_layers(given, {m.name: _places(m, unit, groups) for m in unit.matrices}, like)

    def empty_layers(self, unit: Unit, choice: Choice, like: Tensor) -> dict[str, CompressedLinear]:
        """Return the layers of a number of heads with any weights."""
        return empty_selected_layers(unit, _entries(unit, choice), like)

    def timed(self, unit: Unit) -> Sequence[Choice]:
        """Return few, half, and most of the heads."""
        assert unit.heads is not None
        n = unit.heads.groups
        return [self.choice("", count) for count in sorted({1, max(1, n // 4), n // 2, n - max(1, n // 4)} - {n})]

    def terms(self, unit: Unit, choice: Choice) -> tuple[float, ...]:
        """Return a fixed part and the heads: products and attention grow with them."""
        return 1.0, float(choice["heads"])

    def run(
        self,
        unit: Unit,
        layers: Mapping[str, nn.Module],
        inputs: Mapping[str, Tensor],
        activation: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Run query, key and value, attention without a mask, and the output."""
        assert unit.heads is not None
        *makers, last = unit.matrices
        query, key, value = (
            layers[m.name](inputs[m.name]).unflatten(-1, (-1, unit.heads.width)).transpose(1, 2) for m in makers
        )
        mixed = scaled_dot_product_attention(query, key, value, enable_gqa=unit.heads.queries > 1)
        output: Tensor = layers[last.name](mixed.transpose(1, 2).flatten(2))
        return output


def _entries(unit: Unit, choice: Choice) -> Mapping[str, int]:
    """Return how many rows of each matrix, of the output columns, the heads that stay have."""
    assert unit.heads is not None
    return {m.name: choice["heads"] * _wide(m, unit) // unit.heads.groups for m in unit.matrices}


def _wide(matrix: Unit, unit: Unit) -> int:
    return matrix.in_features if matrix is unit.matrices[-1] else matrix.out_features


def _places(matrix: Unit, unit: Unit, groups: Tensor) -> Tensor:
    """Return the rows, of the output the columns, of groups of heads."""
    assert unit.heads is not None
    width = _wide(matrix, unit) // unit.heads.groups
    return (groups[:, None] * width + torch.arange(width, device=groups.device)).flatten()


FORM = HeadsForm()
