"""The form ``neurons``: a feed-forward pair keeps some of its neurons, and what reads them is refitted.

The matrices that make the neurons lose rows, the one that reads them loses columns: the products are dense ones of
smaller sizes, as quick as any, and the activation between them shrinks too.

Source: Kwon et al. 2022 (arXiv 2204.09656) for the reconstruction, Hassibi & Stork 1993 for the order.
"""

from collections.abc import Sequence, Set
from typing import ClassVar

import numpy as np
from torch import Tensor

from autolr.checkpoint.runtime.layers import CompressedLinear, SelectedLinear
from autolr.forms.base import Form, Given
from autolr.forms.selection import INDEX_BYTES, empty_selected_layers, selected_layers
from autolr.records import Choice, Unit

NAME = "neurons"
STEPS_OF_MULTIPLE = 2
"""Numbers of neurons are multiples of so many times the multiple of ranks."""
N_TIMED = 3


def neurons(method: str, count: int) -> Choice:
    """Return the choice of a number of neurons."""
    return Choice(NAME, method, (("neurons", count),))


class Neurons(Form):
    """Some of the neurons of a feed-forward pair."""

    name = NAME
    layer = SelectedLinear
    sizes: ClassVar = {"neurons": "neurons"}
    scale = NAME
    methods = ("obs",)
    of = "neurons"

    def choice(self, method: str, count: int) -> Choice:
        """Return the choice of a number of neurons."""
        return Choice(self.name, method, (("neurons", count),))

    def options(self, given: Given, multiple: int) -> tuple[Sequence[Choice], np.ndarray]:
        """Return each multiple of neurons below all of them, the least first, and what leaving out the rest costs."""
        counts = _counts(given.unit, STEPS_OF_MULTIPLE * multiple)
        errors = given.decomposition.errors.double().numpy()
        return [self.choice(given.method, count) for count in counts], errors[list(counts)]

    def weights(self, unit: Unit, choice: Choice) -> int:
        """Return how many weights read and make the neurons that stay."""
        return choice["neurons"] * sum(_side(matrix, matrix is unit.matrices[-1]) for matrix in unit.matrices)

    def bias_entries(self, unit: Unit, choice: Choice, biased: Set[str]) -> int:
        """Return the entries of the reader's bias, and of the makers' where they have one."""
        *makers, reader = unit.matrices
        return reader.out_features + choice["neurons"] * sum(maker.name in biased for maker in makers)

    def index_bytes(self, unit: Unit, choice: Choice) -> int:
        """Return the bytes of the neurons' places, which each matrix has."""
        return INDEX_BYTES * choice["neurons"] * len(unit.matrices)

    def build(self, given: Given, choice: Choice, like: Tensor) -> CompressedLinear:
        """Return the layer that reads the neurons."""
        return self.layers(given, choice, like)[given.unit.modules[-1]]

    def layers(self, given: Given, choice: Choice, like: Tensor) -> dict[str, CompressedLinear]:
        """Return the layers that make and read the neurons; their outputs are exact on the mean of all neurons."""
        index = given.decomposition.kept(choice["neurons"])
        return selected_layers(given, dict.fromkeys(given.unit.modules, index), like)

    def empty_layers(self, unit: Unit, choice: Choice, like: Tensor) -> dict[str, CompressedLinear]:
        """Return the layers of a number of neurons with any weights."""
        return empty_selected_layers(unit, dict.fromkeys(unit.modules, choice["neurons"]), like)

    def timed(self, unit: Unit) -> Sequence[Choice]:
        """Return numbers of neurons from few to nearly all."""
        n = unit.matrices[-1].in_features
        wanted = np.linspace(0, 1, 2 * N_TIMED + 1)[1::2] * n
        step = 16 if n > 16 * N_TIMED else 1
        return [self.choice("", count) for count in sorted({max(step, round(w / step) * step) for w in wanted})]


def _counts(unit: Unit, step: int) -> range:
    return range(min(step, unit.matrices[-1].in_features - 1), unit.matrices[-1].in_features, step)


def _side(matrix: Unit, reads: bool) -> int:
    """Return how many weights of a matrix one neuron has."""
    return matrix.out_features if reads else matrix.in_features


FORM = Neurons()
