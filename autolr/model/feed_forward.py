"""Which matrices of a block are the two sides of one layer of neurons, found by what they do, not by name.

Neuron j of a feed-forward pair is row j of the matrix that makes it (of two matrices, where one gates the other) and
column j of the matrix that reads it; between them stands a function of each neuron by itself. That is tried out: one
neuron is left out of the first block, and the reading matrix must be fed the other neurons just as they were. Value
and output of an attention do not pass, for heads have a size; nor does a fused gate, whose halves are one matrix.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from autolr.model.groups import Members, find_groups
from autolr.model.leave_out import others_unchanged
from autolr.model.record_calls import Batch
from autolr.types import Unit

FEED_FORWARD = "feed-forward"
"""What the unit of such matrices is called, behind the name of their block."""
_MOST_MAKERS = 2
"""Matrices that make one layer of neurons: one, or one and its gate."""


def find_feed_forwards(model: nn.Module, units: Sequence[Unit], batch: Batch) -> tuple[Unit, ...]:
    """Return a unit of several matrices for each layer of neurons, in forward order.

    Args:
        model: in any mode; it is left as it was.
        units: its matrices.
        batch: tokenized inputs of a few short sequences.

    Returns:
        Units whose ``matrices`` are those that make the neurons, then the one that reads them.
    """
    return find_groups(model, units, batch, FEED_FORWARD, "neurons", _tried)


def _tried(model: nn.Module, inside: Mapping[str, Unit], batch: Batch) -> Iterator[Members]:
    """Yield the names within one block of the matrices that make and read a layer of neurons."""
    members = list(inside)
    for place, reader in enumerate(members):
        makers = [name for name in members[:place] if inside[name].out_features == inside[reader].in_features]
        for count in range(1, min(_MOST_MAKERS, len(makers)) + 1):
            names = (*makers[-count:], reader)
            if _neurons_are_apart(model, [inside[name] for name in names], batch):
                yield names, None
                break


def _neurons_are_apart(model: nn.Module, pair: Sequence[Unit], batch: Batch) -> bool:
    """Tell whether leaving out one neuron leaves the others as they are."""
    *makers, reader = pair
    stay = torch.arange(reader.in_features - 1)
    return others_unchanged(model, dict.fromkeys(makers, stay), reader, stay, batch)
