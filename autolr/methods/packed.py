"""What a method returns, as the tensors that are stored of it, and back."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from autolr.errors import FactorizationError
from autolr.methods.kronecker_shapes import most_terms
from autolr.methods.masks import Masks
from autolr.methods.result_check import (
    check_order,
    check_rearranged,
    check_record,
    check_score_dims,
    check_table,
    check_values,
)
from autolr.types import (
    Core,
    Decomposition,
    Elimination,
    Method,
    Rearranged,
    Remainder,
    ScoreDims,
    TableFactors,
    Unit,
    break_even_rank,
)

Result = Decomposition | Elimination | Masks | ScoreDims | TableFactors | tuple[Rearranged, ...]


def packed(
    made: object, method: Method, unit: Unit, weights: Sequence[Tensor], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return what is stored: factors to the break-even rank in a dtype of their own, all errors in float64.

    Args:
        made: what the method returned.
        method: whose result it is.
        unit: that was decomposed.
        weights: of its matrices, (out, in), in their order.
        dtype: of the factors.

    Raises:
        FactorizationError: it is not what the method must return, not finite, or not of this weight.
    """
    *_, weight = weights
    shape = (weight.shape[0], weight.shape[1])
    if method.of == "query-key":
        dims = check_score_dims(made, unit)
        turns = {"query_turn": dims.query_turn.to(dtype), "key_turn": dims.key_turn.to(dtype)}
        return _finite({"order": dims.order.to(torch.int32), "errors": dims.errors, **turns})
    if method.of == "embedding":
        return _finite(_table_packed(check_table(made, shape), dtype))
    if method.of != "matrix":
        order = check_order(made, [(w.shape[0], w.shape[1]) for w in weights])
        if isinstance(order, Masks):
            parts = {name: getattr(order, name).to(dtype) for name in ("fisher", "gram", "reader")}
            return _finite({**parts, "errors": order.errors})
        factors = {"root": order.root.to(dtype), "projected": order.projected.to(dtype)}
        if order.turn is not None:
            factors["turn"] = order.turn.to(dtype)
        rest = _remainders_packed(order.remainders, dtype)
        return _finite({"order": order.order.to(torch.int32), **factors, "errors": order.errors, **rest})
    if method.rearranges:
        return _finite(_rearranged_packed(check_rearranged(made, weight), shape, dtype))
    result = check_record(made, method, shape, unit.break_even)
    rows = {"row_energy": result.row_energy, "row_metric": result.row_metric}
    tensors = _truncated(result, unit.break_even, dtype)
    tensors = _finite(tensors | {name: value for name, value in rows.items() if value is not None})
    check_values(result, weight)
    return tensors


def _truncated(result: Decomposition, rank: int, dtype: torch.dtype) -> dict[str, Tensor]:
    kept = min(rank, result.max_rank)
    factors = {"left": result.left[:, :kept].to(dtype), "right": result.right[:kept].to(dtype)}
    return {**factors, "singular_values": result.singular_values}


def _table_packed(table: TableFactors, dtype: torch.dtype) -> dict[str, Tensor]:
    tensors = {"order": table.order.to(torch.int32), "root": table.root.to(dtype)}
    for core in table.cores:
        tensors[f"{core.count}/mean"] = core.mean.to(dtype)
        tensors[f"{core.count}/vectors"] = core.vectors.to(dtype)
        tensors[f"{core.count}/singular_values"] = core.singular_values
    return tensors


def _table_unpacked(tensors: Mapping[str, Tensor]) -> TableFactors:
    counts = sorted({int(name.partition("/")[0]) for name in tensors if "/" in name})
    parts = ("mean", "vectors", "singular_values")
    cores = (Core(count, *(tensors[f"{count}/{part}"] for part in parts)) for count in counts)
    return TableFactors(tensors["order"], tensors["root"], tuple(cores))


def _rearranged_packed(parts: Sequence[Rearranged], shape: tuple[int, int], dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        f"{part.rows}x{part.columns}/{name}": tensor
        for part in parts
        for name, tensor in _truncated(part.decomposition, most_terms(shape, part.rows, part.columns), dtype).items()
    }


def _rearranged_unpacked(tensors: Mapping[str, Tensor]) -> tuple[Rearranged, ...]:
    parts: dict[tuple[int, int], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        shape, what = name.split("/")
        rows, columns = shape.split("x")
        parts.setdefault((int(rows), int(columns)), {})[what] = tensor
    return tuple(Rearranged(*shape, Decomposition(**part)) for shape, part in sorted(parts.items()))


def _remainders_packed(remainders: Sequence[Remainder], dtype: torch.dtype) -> dict[str, Tensor]:
    tensors = {}
    for remainder in remainders:
        for place, part in enumerate(remainder.matrices):
            rank = break_even_rank(part.left.shape[0], part.right.shape[1])
            for name, tensor in _truncated(part, rank, dtype).items():
                tensors[f"{remainder.count}/{place}/{name}"] = tensor
    return tensors


def _remainders_unpacked(tensors: Mapping[str, Tensor]) -> tuple[Remainder, ...]:
    parts: dict[int, dict[int, dict[str, Tensor]]] = {}
    for name, tensor in tensors.items():
        count, place, what = name.split("/")
        parts.setdefault(int(count), {}).setdefault(int(place), {})[what] = tensor
    return tuple(
        Remainder(count, tuple(Decomposition(**part) for _, part in sorted(found.items())))
        for count, found in sorted(parts.items())
    )


def _finite(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise FactorizationError(f"{name} is not finite")
    return tensors


def unpacked(tensors: Mapping[str, Tensor], method: Method) -> Result:
    """Rebuild a method's result from :func:`packed`'s tensors."""
    if method.rearranges:
        return _rearranged_unpacked(tensors)
    if method.of == "matrix":
        return Decomposition(**tensors)
    if method.of == "query-key":
        return ScoreDims(**tensors)
    if method.of == "embedding":
        return _table_unpacked(tensors)
    if "fisher" in tensors:
        return Masks(**tensors)
    own = {name: tensor for name, tensor in tensors.items() if "/" not in name}
    rest = {name: tensor for name, tensor in tensors.items() if "/" in name}
    return Elimination(**own, remainders=_remainders_unpacked(rest))
