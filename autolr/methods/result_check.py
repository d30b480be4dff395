"""What a method's result must be before it is stored, checked wherever one is computed: any package may bring a method.

The whole of the laws is in :mod:`autolr.methods.conformance`; these are the ones that cost next to nothing.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from autolr.errors import FactorizationError
from autolr.methods.kronecker_shapes import rearranged
from autolr.methods.masks import Masks
from autolr.types import (
    Decomposition,
    Elimination,
    Method,
    Rearranged,
    Remainder,
    ScoreDims,
    TableFactors,
    Unit,
)

_ROUNDING = 1e-9
"""Share of the largest singular value by which another may rise or be negative."""
_REPRODUCED = 1e-3
"""Relative error of the weight at full rank (heuristic: the built-in methods stay below 1e-12 with metrics of any
condition, a method in single precision below 1e-4; what is wrong is off by the weight's own size)."""
_PROBES = 4
"""Random inputs on which the weight is compared."""


def check_record(result: object, method: Method, shape: tuple[int, int], least: int) -> Decomposition:
    """Return a method's result if it is a decomposition whose parts have their shapes.

    Args:
        result: what the method returned.
        method: whose result it is.
        shape: of the weight, (out, in).
        least: rank that it must have at least, the break-even rank.

    Raises:
        FactorizationError: it is something else; the message says what was seen.
    """
    if not isinstance(result, Decomposition):
        raise FactorizationError(f"a method must return an autolr.types.Decomposition, got {type(result).__name__}")
    out_features, in_features = shape
    full = min(shape)
    rank = len(result.right) if isinstance(result.right, Tensor) and result.right.ndim else 0
    if not least <= rank <= full:
        raise FactorizationError(f"right must have {least} to {full} rows, got {rank}")
    wanted: dict[str, tuple[int, ...]] = {
        "left": (out_features, rank),
        "right": (rank, in_features),
        "singular_values": (full,),
    }
    rows = {"row_energy": (out_features,), "row_metric": (out_features,)}
    wanted |= {name: size for name, size in rows.items() if method.keeps_rows or getattr(result, name) is not None}
    _check_floats(result, wanted)
    return result


def check_values(result: Decomposition, weight: Float[Tensor, "out in"]) -> None:
    """Refuse a decomposition, finite and of the right shapes, that is not one of a weight.

    Args:
        result: what a method returned.
        weight: W, (out, in), of any precision.

    Raises:
        FactorizationError: singular values rise or are negative, or the factors at full rank do not give the weight.
    """
    values = result.singular_values
    slack = _ROUNDING * float(values.abs().max())
    if float(values.min()) < -slack or (len(values) > 1 and float(values.diff().max()) > slack):
        raise FactorizationError("singular values must fall and not be negative")
    if result.max_rank < min(weight.shape):
        return
    random = torch.Generator().manual_seed(0)
    left, right = result.left.double(), result.right.double()
    x = torch.randn(weight.shape[1], _PROBES, generator=random, dtype=torch.float64).to(left.device)
    wanted = weight.to(left) @ x
    off, size = float((left @ (right @ x) - wanted).norm()), float(wanted.norm())
    if off > _REPRODUCED * size:
        raise FactorizationError(
            f"left @ right must give the weight at full rank, got an output off by {off:.1e} of a size of {size:.1e}"
        )


def check_rearranged(result: object, weight: Float[Tensor, "out in"]) -> tuple[Rearranged, ...]:
    """Return what a method that rearranges made, if each part is a decomposition of the weight rearranged in its shape.

    Args:
        result: what the method returned.
        weight: W, (out, in), of any precision.

    Raises:
        FactorizationError: it is something else; the message says what was seen.
    """
    if not isinstance(result, tuple) or not all(isinstance(part, Rearranged) for part in result):
        raise FactorizationError(
            f"a method must return a tuple of autolr.types.Rearranged, got {type(result).__name__}"
        )
    out_features, in_features = weight.shape
    for part in result:
        label = f"terms with A of {part.rows} x {part.columns}"
        if out_features % part.rows or in_features % part.columns:
            raise FactorizationError(f"{label} do not divide a weight of {out_features} x {in_features}")
        blocks = rearranged(weight, part.rows, part.columns)
        full = min(blocks.shape)
        seen = tuple(tuple(tensor.shape) for tensor in vars(part.decomposition).values() if tensor is not None)
        if seen != (wanted := ((len(blocks), full), (full,), (full, blocks.shape[1]))):
            raise FactorizationError(f"{label}: factors and singular values must be of shapes {wanted}, got {seen}")
        try:
            check_values(part.decomposition, blocks)
        except FactorizationError as error:
            raise FactorizationError(f"{label}: {error}") from error
    return result


def check_order(result: object, shapes: Sequence[tuple[int, int]]) -> Elimination | Masks:
    """Return what a method for neurons or heads made, if it is sound: see :func:`check_elimination`.

    Raises:
        FactorizationError: it is something else; the message says what was seen.
    """
    if not isinstance(result, Masks):
        return check_elimination(result, shapes)
    *_, (out_features, columns) = shapes
    count = len(result.fisher) if isinstance(result.fisher, Tensor) and result.fisher.ndim else 0
    if not count or columns % count:
        raise FactorizationError(f"fisher must be of a number of masks that divides {columns}, got {count}")
    sizes = {"fisher": (count, count), "gram": (count, count), "reader": (out_features, columns)}
    _check_floats(result, {**sizes, "errors": (columns + 1,)})
    if float(result.errors.diff().max()) > _ROUNDING * float(result.errors.abs().max()):
        raise FactorizationError("errors must not grow with the masks that stay")
    return result


def check_elimination(result: object, shapes: Sequence[tuple[int, int]]) -> Elimination:
    """Return what a method for neurons made, if it is an order of all of them with the parts that belong to it.

    Args:
        result: what the method returned.
        shapes: of the weights that make the neurons, (neurons, in), then of the one that reads them, (out, neurons).

    Raises:
        FactorizationError: it is something else, or its errors grow; the message says what was seen.
    """
    if not isinstance(result, Elimination):
        raise FactorizationError(f"a method must return an autolr.types.Elimination, got {type(result).__name__}")
    *makers, (out_features, count) = shapes
    _check_floats(result, {"root": (count, count), "projected": (out_features, count), "errors": (count + 1,)})
    if result.order.sort().values.tolist() != list(range(count)):
        raise FactorizationError(f"order must name each of {count} neurons once")
    if float(result.errors.diff().max()) > _ROUNDING * float(result.errors.abs().max()):
        raise FactorizationError("errors must not grow with the neurons that stay")
    for remainder in result.remainders:
        _check_remainder(remainder, [*((remainder.count, wide) for _, wide in makers), (out_features, remainder.count)])
    return result


def check_score_dims(result: object, unit: Unit) -> ScoreDims:
    """Return what a method for queries and keys made, if it is an order of all entries with what belongs to it.

    Args:
        result: what the method returned.
        unit: of query and key.

    Raises:
        FactorizationError: it is something else, or its errors grow; the message says what was seen.
    """
    if not isinstance(result, ScoreDims):
        raise FactorizationError(f"a method must return an autolr.types.ScoreDims, got {type(result).__name__}")
    assert unit.heads is not None
    groups, width = unit.heads.groups, unit.heads.width
    turn = (groups, width, width)
    _check_floats(result, {"errors": (groups * width + 1,), "query_turn": turn, "key_turn": turn})
    if result.order.sort().values.tolist() != list(range(groups * width)):
        raise FactorizationError(f"order must name each of {groups * width} entries once")
    if float(result.errors.diff().max()) > _ROUNDING * float(result.errors.abs().max()):
        raise FactorizationError("errors must not grow with the entries that stay")
    return result


def check_table(result: object, shape: tuple[int, int]) -> TableFactors:
    """Return what a method for embeddings made, if it is factors of the whole table with the parts that belong to it.

    Args:
        result: what the method returned.
        shape: of the table as a matrix, (dim, vocabulary).

    Raises:
        FactorizationError: it is something else, or singular values rise; the message says what was seen.
    """
    if not isinstance(result, TableFactors):
        raise FactorizationError(f"a method must return an autolr.types.TableFactors, got {type(result).__name__}")
    dim, vocabulary = shape
    if result.order.sort().values.tolist() != list(range(vocabulary)):
        raise FactorizationError(f"order must name each of {vocabulary} tokens once")
    if [core.count for core in result.cores][:1] != [0]:
        raise FactorizationError("the first core must be of no tokens")
    for core in result.cores:
        seen = tuple(tuple(part.shape) for part in (result.root, core.mean, core.vectors, core.singular_values))
        if seen != (wanted := ((dim, dim), (dim,), (dim, dim), (dim,))):
            raise FactorizationError(f"root, mean, vectors and values must be of shapes {wanted}, got {seen}")
        if not 0 <= core.count < vocabulary:
            raise FactorizationError(f"a core must be below the {vocabulary} tokens, got {core.count}")
        if float(core.singular_values.diff().max()) > _ROUNDING * float(core.singular_values.max()):
            raise FactorizationError("singular values must fall")
    return result


def _check_remainder(remainder: Remainder, shapes: Sequence[tuple[int, int]]) -> None:
    label = f"what {remainder.count} neurons leave"
    if len(remainder.matrices) != len(shapes):
        raise FactorizationError(f"{label} must be {len(shapes)} decompositions, got {len(remainder.matrices)}")
    for part, (out_features, in_features) in zip(remainder.matrices, shapes, strict=True):
        full = min(out_features, in_features)
        seen = (tuple(part.left.shape), tuple(part.singular_values.shape), tuple(part.right.shape))
        if seen != (wanted := ((out_features, full), (full,), (full, in_features))):
            raise FactorizationError(f"{label}: factors and singular values must be of shapes {wanted}, got {seen}")


def _check_floats(result: object, sizes: Mapping[str, tuple[int, ...]]) -> None:
    for name, size in sizes.items():
        tensor: object = getattr(result, name)
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tuple(tensor.shape) != size:
            raise FactorizationError(f"{name} must be floating-point numbers of shape {size}, got {_described(tensor)}")


def _described(value: object) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
