"""What the forms of pairs of an attention's matrices share: fewer entries of all heads, in layers that are spread."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from autolr.checkpoint.runtime.layers import CompressedLinear, SpreadLinear
from autolr.forms.base import Form, Given
from autolr.forms.head_entries import empty_spread, evenly, places_bytes
from autolr.records import Choice, Unit

_TIMED = (1 / 8, 1 / 2, 7 / 8)


class EntryPair(Form):
    """Two matrices of an attention of which some entries of all heads are left."""

    layer = SpreadLinear
    sizes: ClassVar = {"entries": "entries of all heads"}
    last_reads: ClassVar[bool]

    @abstractmethod
    def counts(self, unit: Unit, choice: Choice) -> Mapping[str, int]:
        """Return how many entries each matrix makes or reads, by its name."""

    def reads(self, unit: Unit, matrix: Unit) -> bool:
        """Tell whether a matrix reads the entries; else it makes them."""
        return self.last_reads and matrix is unit.matrices[-1]

    def weights(self, unit: Unit, choice: Choice) -> int:
        """Return how many weights make and read the entries that stay."""
        return sum(self.products(unit, choice).values())

    def products(self, unit: Unit, choice: Choice) -> dict[str, int]:
        """Return how many weights each matrix has left."""
        counts = self.counts(unit, choice)
        wide = {m.name: m.out_features if self.reads(unit, m) else m.in_features for m in unit.matrices}
        return {name: counts[name] * side for name, side in wide.items()}

    def index_bytes(self, unit: Unit, choice: Choice) -> int:
        """Return the bytes of the entries' places."""
        return places_bytes([*self.counts(unit, choice).values()])

    def build(self, given: Given, choice: Choice, like: Tensor) -> CompressedLinear:
        """Return the last of the two layers."""
        return self.layers(given, choice, like)[given.unit.modules[-1]]

    def empty_layers(self, unit: Unit, choice: Choice, like: Tensor) -> dict[str, CompressedLinear]:
        """Return both layers with any weights."""
        counts = self.counts(unit, choice)
        return {m.name: empty_spread(m, counts[m.name], self.reads(unit, m), True, like) for m in unit.matrices}

    def timed(self, unit: Unit) -> Sequence[Choice]:
        """Return numbers of entries from few to nearly all."""
        return [Choice(self.name, "", (("entries", count),)) for count in evenly(unit, _TIMED)]

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
