"""What a method returns, as the tensors that are stored of it, and back."""

from collections.abc import Mapping

import torch
from torch import Tensor

from autolr.errors import FactorizationError
from autolr.methods.result_check import check_elimination, check_record, check_values
from autolr.types import Decomposition, Elimination, Method, Unit

Result = Decomposition | Elimination


def packed(made: object, method: Method, unit: Unit, weight: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return what is stored: factors to the break-even rank in a dtype of their own, all errors in float64.

    Args:
        made: what the method returned.
        method: whose result it is.
        unit: that was decomposed.
        weight: of the unit, (out, in); of a unit of several matrices that of the last.
        dtype: of the factors.

    Raises:
        FactorizationError: it is not what the method must return, not finite, or not of this weight.
    """
    shape = (weight.shape[0], weight.shape[1])
    if method.of == "neurons":
        order = check_elimination(made, shape)
        factors = {"root": order.root.to(dtype), "projected": order.projected.to(dtype)}
        return _finite({"order": order.order.to(torch.int32), **factors, "errors": order.errors})
    result = check_record(made, method, shape, unit.break_even)
    kept = min(unit.break_even, result.max_rank)
    tensors = {
        "left": result.left[:, :kept].to(dtype),
        "right": result.right[:kept].to(dtype),
        "singular_values": result.singular_values,
    }
    rows = {"row_energy": result.row_energy, "row_metric": result.row_metric}
    tensors = _finite(tensors | {name: value for name, value in rows.items() if value is not None})
    check_values(result, weight)
    return tensors


def _finite(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise FactorizationError(f"{name} is not finite")
    return tensors


def unpacked(tensors: Mapping[str, Tensor], method: Method) -> Result:
    """Rebuild a method's result from :func:`packed`'s tensors."""
    return Elimination(**tensors) if method.of == "neurons" else Decomposition(**tensors)
