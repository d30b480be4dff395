"""What an error in the outputs of a compressed layer means to the loss."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autolr.bank import reader
from autolr.checkpoint.runtime.layers import CompressedLinear, SelectedLinear, SpreadLinear
from autolr.methods.kfac import OUT_SHRINKAGE
from autolr.methods.remainders import column_lengths
from autolr.methods.weighted_svd import shrink
from autolr.model.units import unit_weight
from autolr.recovery.kept import Kept
from autolr.types import LayerStats, Unit


def output_metric(
    model: nn.Module,
    stats: Callable[[str], LayerStats | None],
    unit: Unit,
    group: Unit | None,
    layers: Mapping[str, CompressedLinear],
) -> Float[Tensor, "out out"] | None:
    """Return ``H = E[g gᵀ]`` of a layer's outputs, shrunk as ``kfac`` does; None without gradients or need of it.

    Of a layer that makes some neurons it is that of these, ``diag(s) H[J, J] diag(s)``, with ``s`` how much more the
    matrix that reads them now makes of each than the dense one did: see :mod:`autolr.methods.remainders`.

    Args:
        model: the dense model.
        stats: of a matrix, by its name.
        unit: the matrix.
        group: the unit of several matrices that it belongs to; None: it is by itself.
        layers: the compressed layers, by the modules that they replace.
    """
    device = unit_weight(model, unit).device
    if isinstance(layers[unit.name], SelectedLinear | SpreadLinear):
        return None  # of one matrix every output is fitted by itself
    metric = _metric(stats, unit, device)
    index = Kept.of(layers[unit.name]).index
    if metric is None or group is None or index is None or unit == reader(group):
        return metric
    last = reader(group)
    outer = _metric(stats, last, device)
    if outer is None:
        return metric[index][:, index]
    before = column_lengths(unit_weight(model, last).double()[:, index], outer)
    after = column_lengths(layers[last.name].dense_weight()[:, index], outer)
    change = after / before.clamp(min=torch.finfo(torch.float64).tiny)
    return change[:, None] * metric[index][:, index] * change


def _metric(stats: Callable[[str], LayerStats | None], unit: Unit, device: torch.device) -> Tensor | None:
    measured = stats(unit.name)
    if measured is None or measured.out_gram is None:
        return None
    return shrink(measured.out_gram.to(device), OUT_SHRINKAGE)
