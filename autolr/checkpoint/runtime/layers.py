"""The modules that run in place of a dense linear layer.

They keep the dense layer's interface (``in_features``, ``out_features``, a ``weight`` whose dtype and device can be
asked), and their inner ``Linear`` children stay visible to Trainer, PEFT and quantization. ``weight`` is an empty
buffer under the dense weight's name: software that does not know these layers then fails with a size mismatch
instead of loading random weights.

This file depends on torch alone: a copy of it travels with every checkpoint.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class CompressedLinear(nn.Module, ABC):
    """What every layer is that stands in place of a dense linear one; a checkpoint is made of such layers.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        device: where the parameters live.
        dtype: of the parameters.

    Attributes:
        kind: names the class in a checkpoint.
        weight: empty, see above.
    """

    kind: ClassVar[str]
    weight: Tensor
    bias: Any  # (out_features,), a parameter or a property that gives one

    def __init__(
        self,
        in_features: int,
        out_features: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.register_buffer("weight", torch.empty(0, device=device, dtype=dtype))

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Return the arguments that build an equal layer: with ``kind``, what a checkpoint writes down of it."""

    @abstractmethod
    def dense_weight(self) -> Tensor:
        """Return the matrix the layer multiplies by, (out_features, in_features) float64, on the layer's device."""

    def dense_bias(self) -> Tensor:
        """Return the bias of the matrix that :meth:`dense_weight` gives, as long as it has rows."""
        bias: Tensor = self.bias
        return bias

    def extra_repr(self) -> str:
        """Describe the layer in a model's printout."""
        return ", ".join(f"{name}={size}" for name, size in self.sizes().items())


def is_compressed(module: nn.Module) -> bool:
    """Tell whether a module is a layer of a checkpoint, by what it offers, not by its class: there may be copies."""
    return isinstance(getattr(module, "kind", None), str) and hasattr(module, "dense_weight")


class LowRankLinear(CompressedLinear):
    """``y = left(right(x)) + bias``: two thin linear layers in place of one (out, in) matrix.

    At rank 0 the bias, a parameter named ``constant``, is all there is: an empty product is refused by converters, and
    quantized to rubbish.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        rank: size between the two; 0 leaves the bias alone.
        device: where the parameters live.
        dtype: of the parameters.

    Shape:
        input (..., in_features), output (..., out_features).

    Example:
        >>> LowRankLinear(4, 6, rank=2)(torch.zeros(3, 4)).shape
        torch.Size([3, 6])
    """

    kind: ClassVar[str] = "low-rank"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, device, dtype)
        self.rank = rank
        if rank:
            self.right = _linear(in_features, rank, False, device, dtype)
            self.left = _linear(rank, out_features, True, device, dtype)
        else:
            self.constant = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))

    @property
    def bias(self) -> Tensor:
        """The bias, (out_features,); it lives in ``left``, at rank 0 in ``constant``."""
        return self.left.bias if self.rank else self.constant

    @property
    def outer_weight(self) -> Tensor:
        """The left factor, (out_features, rank)."""
        return self.left.weight if self.rank else self.constant.new_empty(self.out_features, 0)

    @property
    def inner_weight(self) -> Tensor:
        """The right factor, (rank, in_features)."""
        return self.right.weight if self.rank else self.constant.new_empty(0, self.in_features)

    def inner(self, x: Tensor) -> Tensor:
        """Return what lies between the factors, (..., rank)."""
        z: Tensor = self.right(x) if self.rank else x.new_empty(*x.shape[:-1], 0)
        return z

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output, (..., out_features)."""
        if self.rank:
            output: Tensor = self.left(self.right(x))
            return output
        output = self.constant.to(_result_dtype(x, self.constant)).expand(*x.shape[:-1], -1).contiguous()
        if torch.is_grad_enabled() and x.requires_grad:
            # The layers before have a gradient, of zero: distributed training takes one without for a fault.
            output = output + (0.0 * x[..., :1]).to(output.dtype)
        return output

    def sizes(self) -> dict[str, int]:
        """Return the arguments that build an equal layer: with ``kind``, what a checkpoint writes down of it."""
        return {"in_features": self.in_features, "out_features": self.out_features, "rank": self.rank}

    def dense_weight(self) -> Tensor:
        """Return the matrix the layer multiplies by, (out_features, in_features) float64, on the layer's device."""
        return self.outer_weight.double() @ self.inner_weight.double()


class LowRankRowsLinear(LowRankLinear):
    """A low-rank layer of which some output neurons are computed densely, addressed by index.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        rank: of the low-rank part.
        n_rows: how many output neurons are computed densely, in [1, out_features].
        device: where the parameters live.
        dtype: of the parameters.

    Shape:
        input (..., in_features), output (..., out_features).
    """

    kind: ClassVar[str] = "low-rank-rows"
    row_index: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        n_rows: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, rank, device, dtype)
        self.n_rows = n_rows
        self.rows = _linear(in_features, n_rows, False, device, dtype)
        self.register_buffer("row_index", torch.zeros(n_rows, dtype=torch.int64, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output, (..., out_features)."""
        return super().forward(x).index_add(-1, self.row_index, self.rows(x))

    def sizes(self) -> dict[str, int]:
        """Return the arguments that build an equal layer."""
        return {**super().sizes(), "n_rows": self.n_rows}

    def dense_weight(self) -> Tensor:
        """Return the matrix the layer multiplies by, (out_features, in_features) float64, on the layer's device."""
        return super().dense_weight().index_add(0, self.row_index, self.rows.weight.double())


class SelectedLinear(CompressedLinear):
    """A dense layer of which only some inputs or outputs are left: ``y = linear(x) + bias`` on fewer features.

    Args:
        in_features: how many inputs are left.
        out_features: how many outputs are left.
        full_in_features: inputs of the dense layer; as many as are left, or one side is selected.
        full_out_features: outputs of the dense layer.
        bias: whether there is one.
        device: where the parameters live.
        dtype: of the parameters.

    Attributes:
        index: places in the dense layer of what is left of the side that was selected, rising, int32.

    Shape:
        input (..., in_features), output (..., out_features).

    Example:
        >>> SelectedLinear(3, 6, 4, 6)(torch.zeros(2, 3)).shape
        torch.Size([2, 6])
    """

    kind: ClassVar[str] = "selected"
    index: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        full_in_features: int,
        full_out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, device, dtype)
        self.full_in_features, self.full_out_features = full_in_features, full_out_features
        self.linear = _linear(in_features, out_features, bias, device, dtype)
        left = in_features if self.reads else out_features
        self.register_buffer("index", torch.zeros(left, dtype=torch.int32, device=device))

    @property
    def bias(self) -> Any:
        """The bias, (out_features,), or None; it lives in ``linear``."""
        return self.linear.bias

    @property
    def reads(self) -> bool:
        """Whether it is the inputs of which some are left."""
        return self.in_features < self.full_in_features

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output, (..., out_features)."""
        output: Tensor = self.linear(x)
        return output

    def sizes(self) -> dict[str, int]:
        """Return the arguments that build an equal layer."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "full_in_features": self.full_in_features,
            "full_out_features": self.full_out_features,
            "bias": self.linear.bias is not None,
        }

    def dense_weight(self) -> Tensor:
        """Return the matrix of the dense layer's size with zeros where something was removed, float64."""
        weight = self.linear.weight.double()
        side, index = int(self.reads), self.index.long()
        full = weight.new_zeros(self.full_out_features, self.full_in_features)
        return weight if weight.shape == full.shape else full.index_copy(side, index, weight)

    def dense_bias(self) -> Tensor:
        """Return the bias of the dense layer's size, zero where there is none or an output was removed."""
        bias: Tensor | None = self.linear.bias
        if bias is None or len(bias) < self.full_out_features:
            full = self.linear.weight.new_zeros(self.full_out_features)
            return full if bias is None else full.index_copy(0, self.index.long(), bias)
        return bias


class SelectedLowRankLinear(LowRankLinear):
    """A low-rank layer of which only some inputs or outputs of the dense layer are left.

    Args:
        in_features: how many inputs are left.
        out_features: how many outputs are left.
        rank: size between the two factors, at least 1.
        full_in_features: inputs of the dense layer; as many as are left, or one side is selected.
        full_out_features: outputs of the dense layer.
        device: where the parameters live.
        dtype: of the parameters.

    Attributes:
        index: places in the dense layer of what is left of the side that was selected, rising, int32.

    Shape:
        input (..., in_features), output (..., out_features).
    """

    kind: ClassVar[str] = "selected-low-rank"
    index: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        full_in_features: int,
        full_out_features: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, rank, device, dtype)
        self.full_in_features, self.full_out_features = full_in_features, full_out_features
        left = in_features if self.reads else out_features
        self.register_buffer("index", torch.zeros(left, dtype=torch.int32, device=device))

    @property
    def reads(self) -> bool:
        """Whether it is the inputs of which some are left."""
        return self.in_features < self.full_in_features

    def sizes(self) -> dict[str, int]:
        """Return the arguments that build an equal layer."""
        full = {"full_in_features": self.full_in_features, "full_out_features": self.full_out_features}
        return {**super().sizes(), **full}

    def dense_weight(self) -> Tensor:
        """Return the matrix of the dense layer's size with zeros where something was removed, float64."""
        weight = super().dense_weight()
        full = weight.new_zeros(self.full_out_features, self.full_in_features)
        return full.index_copy(int(self.reads), self.index.long(), weight)

    def dense_bias(self) -> Tensor:
        """Return the bias of the dense layer's size, zero where an output was removed."""
        full = self.bias.new_zeros(self.full_out_features)
        return self.bias if self.reads else full.index_copy(0, self.index.long(), self.bias)


class SpreadLinear(CompressedLinear):
    """A dense layer of which only some inputs are read or some outputs computed; it is fed and gives all of them.

    Outputs that are not computed are zero.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        count: how many inputs are read, or outputs computed.
        reads: whether it is the inputs of which some are left.
        bias: whether there is one.
        device: where the parameters live.
        dtype: of the parameters.

    Attributes:
        index: places of what is left, rising, int32.

    Shape:
        input (..., in_features), output (..., out_features).

    Example:
        >>> SpreadLinear(4, 6, 2, False)(torch.zeros(3, 4)).shape
        torch.Size([3, 6])
    """

    kind: ClassVar[str] = "spread"
    index: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        count: int,
        reads: bool,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, device, dtype)
        self.count, self.reads = count, reads
        sizes = (count, out_features) if reads else (in_features, count)
        self.linear = _linear(*sizes, bias, device, dtype)
        self.register_buffer("index", torch.zeros(count, dtype=torch.int32, device=device))

    @property
    def bias(self) -> Any:
        """The bias, as long as the inner layer has outputs, or None; it lives in ``linear``."""
        return self.linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output, (..., out_features)."""
        if self.reads:
            read: Tensor = self.linear(x.index_select(-1, self.index))
            return read
        made: Tensor = self.linear(x)
        return made.new_zeros(*made.shape[:-1], self.out_features).index_copy(-1, self.index.long(), made)

    def sizes(self) -> dict[str, int]:
        """Return the arguments that build an equal layer."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "count": self.count,
            "reads": self.reads,
            "bias": self.linear.bias is not None,
        }

    def dense_weight(self) -> Tensor:
        """Return the matrix with zeros where something is left out, (out_features, in_features) float64."""
        weight = self.linear.weight.double()
        full = weight.new_zeros(self.out_features, self.in_features)
        return full.index_copy(int(self.reads), self.index.long(), weight)

    def dense_bias(self) -> Tensor:
        """Return the bias of the dense layer's size, zero where there is none or an output is left out."""
        full = self.linear.weight.new_zeros(self.out_features)
        bias: Tensor | None = self.linear.bias
        if bias is None or self.reads:
            return full if bias is None else bias
        return full.index_copy(0, self.index.long(), bias)


class KroneckerLinear(CompressedLinear):
    """``y = Σ_j (A_j ⊗ B_j) x + bias``, without ever multiplying a product out: ``Y = Σ_j A_j X B_jᵀ + bias``.

    X is the input as a matrix, (columns of A, columns of B), and Y the output, (rows of A, rows of B). Of the two
    orders, ``A (X Bᵀ)`` and ``(A X) Bᵀ``, that with fewer products is taken; all terms go through each of its two
    linear layers at once.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        terms: how many products are added up, at least 1.
        a_rows: rows of each A_j; they divide out_features.
        a_columns: columns of each A_j; they divide in_features.
        device: where the parameters live.
        dtype: of the parameters.

    Shape:
        input (..., in_features), output (..., out_features).

    Example:
        >>> KroneckerLinear(4, 6, terms=2, a_rows=3, a_columns=2)(torch.zeros(5, 4)).shape
        torch.Size([5, 6])
    """

    kind: ClassVar[str] = "kronecker"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        terms: int,
        a_rows: int,
        a_columns: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, device, dtype)
        self.terms, self.a_rows, self.a_columns = terms, a_rows, a_columns
        self.b_rows, self.b_columns = out_features // a_rows, in_features // a_columns
        a_first, b_first = kronecker_products(in_features, out_features, a_rows, a_columns)
        self.b_first = b_first < a_first
        first, second = ((a_rows, a_columns), (self.b_rows, self.b_columns))[:: -1 if self.b_first else 1]
        self.right = _linear(first[1], terms * first[0], False, device, dtype)
        self.left = _linear(terms * second[1], second[0], False, device, dtype)
        self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output, (..., out_features)."""
        x = x.reshape(*x.shape[:-1], self.a_columns, self.b_columns)
        z: Tensor = self.right(x if self.b_first else x.mT)  # (..., columns of the second factor, terms · rows)
        z = z.reshape(*z.shape[:-2], self.left.in_features, z.shape[-1] // self.terms)
        y: Tensor = self.left(z.mT)  # (..., rows of the first factor, rows of the second)
        y = (y.mT if self.b_first else y).flatten(-2)
        output: Tensor = y + self.bias.to(y.dtype)
        return output

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return all A_j, (terms, a_rows, a_columns), and all B_j, (terms, b_rows, b_columns)."""
        right, left = self.right.weight, self.left.weight
        first = right.reshape(self.terms, -1, right.shape[1])
        second = left.reshape(len(left), -1, self.terms).movedim(2, 0)
        return (second, first) if self.b_first else (first, second)

    def fill_(self, a: Tensor, b: Tensor) -> None:
        """Set the factors, of the shapes of :meth:`factors`, in place."""
        first, second = (b, a) if self.b_first else (a, b)
        with torch.no_grad():
            self.right.weight.copy_(first.flatten(0, 1))
            self.left.weight.copy_(second.movedim(0, 2).flatten(1))

    def sizes(self) -> dict[str, int]:
        """Return the arguments that build an equal layer."""
        sizes = {"terms": self.terms, "a_rows": self.a_rows, "a_columns": self.a_columns}
        return {"in_features": self.in_features, "out_features": self.out_features, **sizes}

    def dense_weight(self) -> Tensor:
        """Return the matrix the layer multiplies by, (out_features, in_features) float64, on the layer's device."""
        a, b = self.factors()
        product = torch.einsum("tac,tbd->abcd", a.double(), b.double())
        return product.reshape(self.out_features, self.in_features)


def kronecker_products(in_features: int, out_features: int, a_rows: int, a_columns: int) -> tuple[int, int]:
    """Return how many products a term ``A ⊗ B`` takes for a vector with A first, and with B first.

    Example:
        >>> kronecker_products(4, 6, 3, 2)
        (24, 20)
    """
    b_rows, b_columns = out_features // a_rows, in_features // a_columns
    return a_rows * b_columns * (a_columns + b_rows), a_columns * b_rows * (b_columns + a_rows)


KINDS: dict[str, type[CompressedLinear]] = {
    layer.kind: layer
    for layer in (
        LowRankLinear,
        LowRankRowsLinear,
        SelectedLinear,
        SelectedLowRankLinear,
        SpreadLinear,
        KroneckerLinear,
    )
}


def _result_dtype(x: Tensor, parameter: Tensor) -> torch.dtype:
    """Return the dtype that a Linear with such a parameter gives: autocast's, where that is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else parameter.dtype


def _linear(
    in_features: int, out_features: int, bias: bool, device: torch.device | str | None, dtype: torch.dtype | None
) -> nn.Linear:
    """Return a Linear whose parameters are allocated but not initialized: they are about to be filled."""
    build: Callable[..., nn.Linear] = nn.utils.skip_init
    return build(nn.Linear, in_features, out_features, bias=bias, device=device or "cpu", dtype=dtype)
