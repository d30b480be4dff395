"""Layers of which some rows or columns are left: those that make something lose rows, the one that reads it columns."""

from collections.abc import Mapping

import torch
from torch import Tensor

from autolr.checkpoint.runtime.layers import CompressedLinear, SelectedLinear
from autolr.forms.base import Given
from autolr.records import Unit

INDEX_BYTES = 4
"""Of the place of a row or column that is left."""


def selected_layers(given: Given, stays: Mapping[str, Tensor], like: Tensor) -> dict[str, CompressedLinear]:
    """Return the smaller layers of a unit; the output of the last is exact on the mean of all its inputs.

    Args:
        given: the dense unit and its elimination.
        stays: module -> the rows that stay, of the last matrix the columns, rising.
        like: gives device and dtype.
    """
    unit, last = given.unit, given.unit.modules[-1]
    index = {name: places.to(given.weight.device) for name, places in stays.items()}
    fitted = given.decomposition.weight(len(index[last])).to(given.weight.device)
    bias = fitted.new_zeros(len(fitted)) if given.bias is None else given.bias.double()
    if given.mean is not None:
        mean = given.mean.to(fitted)
        bias = bias + given.weight.double() @ mean - fitted @ mean[index[last]]
    made: dict[str, tuple[Tensor, Tensor | None]] = {last: (fitted, bias)}
    for maker in given.before:
        rows = index[maker.unit.name]
        made[maker.unit.name] = maker.weight[rows], None if maker.bias is None else maker.bias[rows]
    layers = {}
    for matrix in unit.matrices:
        weight, own_bias = made[matrix.name]
        layer = _empty(matrix, len(index[matrix.name]), matrix.name == last, own_bias is not None, like)
        with torch.no_grad():
            layer.linear.weight.copy_(weight)
            layer.index.copy_(index[matrix.name])
            if own_bias is not None:
                layer.linear.bias.copy_(own_bias)
        layers[matrix.name] = layer
    return dict(layers)


def empty_selected_layers(unit: Unit, counts: Mapping[str, int], like: Tensor) -> dict[str, CompressedLinear]:
    """Return such layers with any weights; so many rows, of the last matrix columns, are left of each."""
    last = unit.matrices[-1]
    return {m.name: _empty(m, counts[m.name], m is last, True, like) for m in unit.matrices}


def _empty(matrix: Unit, count: int, reads: bool, bias: bool, like: Tensor) -> SelectedLinear:
    wide_in, wide_out = matrix.in_features, matrix.out_features
    sizes = (count, wide_out) if reads else (wide_in, count)
    return SelectedLinear(*sizes, wide_in, wide_out, bias, device=like.device, dtype=like.dtype)
