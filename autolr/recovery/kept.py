"""Which inputs or outputs of a dense layer a compressed one still has, and how they are turned."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from autolr.checkpoint.runtime.layers import CompressedLinear, SpreadLinear
from autolr.types import turned_rows


@dataclass(frozen=True)
class Kept:
    """What a compressed layer has of the dense one.

    Attributes:
        index: places of the inputs or outputs that are left; None: all are.
        reads: whether it is the inputs of which some are left.
        fed_all: whether it is fed the others too, as zeros.
        turn: (groups, width, width), what the entries of each head are multiplied by first; None: nothing.

    Example:
        >>> import torch
        >>> kept = Kept(torch.tensor([0, 2]), reads=False, fed_all=False, turn=None)
        >>> kept.outputs(torch.tensor([1.0, 2.0, 3.0])).tolist(), kept.inputs(torch.tensor([1.0, 2.0])).tolist()
        ([1.0, 3.0], [1.0, 2.0])
    """

    index: Tensor | None
    reads: bool
    fed_all: bool
    turn: Float[Tensor, "groups width width"] | None

    @classmethod
    def of(cls, layer: CompressedLinear, turn: Float[Tensor, "groups width width"] | None = None) -> "Kept":
        """Return what a layer has.

        Args:
            layer: the compressed one.
            turn: of the entries of heads, from its form.
        """
        index: Tensor | None = getattr(layer, "index", None)
        reads = bool(getattr(layer, "reads", False))
        return cls(None if index is None else index.long(), reads, reads and isinstance(layer, SpreadLinear), turn)

    def outputs(self, rows: Float[Tensor, "full_out ..."]) -> Float[Tensor, "out ..."]:
        """Return what is left of the dense layer's outputs, which are the first dimension."""
        return rows if self.index is None or self.reads else self._left(rows)

    def inputs(self, columns: Float[Tensor, "... full_in"]) -> Float[Tensor, "... in"]:
        """Return what is left of the dense layer's inputs, which are the last dimension."""
        if self.index is None or not self.reads:
            return columns
        return self._left(columns.movedim(-1, 0).contiguous()).movedim(0, -1)

    def fed(self, columns: Float[Tensor, "... fed"]) -> Float[Tensor, "... in"]:
        """Return the part that is read of what the compressed layer is fed, the last dimension."""
        return columns[..., self.index] if self.fed_all and self.index is not None else columns

    def _left(self, rows: Tensor) -> Tensor:
        turned = rows if self.turn is None else turned_rows(rows, self.turn.to(rows))
        left: Tensor = turned[self.index]
        return left
