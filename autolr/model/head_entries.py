"""Which matrices make and read the entries of attention's heads, found by what they do.

The entries of a head may be turned: value by any regular matrix and the columns of the output by its inverse, queries
by one and keys by its inverse's transpose, and nothing changes. That is tried out on the first block. So value and
output are one pair, query and key another, and fewer entries do in the best turn (forms ``ov-pair``, ``qk-pair``).
Queries and keys that are rotated by position or normalized do not pass, nor do fused projections.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autolr.model.attention import head_width
from autolr.model.groups import Members, find_groups
from autolr.model.leave_out import Affine, affine, fed
from autolr.model.record_calls import Batch
from autolr.records import Heads
from autolr.types import Unit, turned_rows

VALUE_OUTPUT = "value-output"
QUERY_KEY = "query-key"
_BEFORE = 4
"""Matrices called before the output among which its makers are looked for."""
_SEEN = 30
"""An effect counts as one from so many times the precision of the model's numbers on."""
_UNDONE = 0.03
"""Share of an effect that may be left where it is undone."""


def find_value_outputs(model: nn.Module, units: Sequence[Unit], batch: Batch) -> tuple[Unit, ...]:
    """Return a unit of value and output for each attention that has them, in forward order.

    Args:
        model: in any mode; it is left as it was.
        units: its matrices.
        batch: tokenized inputs of a few short sequences.
    """
    return find_groups(model, units, batch, VALUE_OUTPUT, VALUE_OUTPUT, _tried_value_output)


def find_query_keys(model: nn.Module, units: Sequence[Unit], batch: Batch) -> tuple[Unit, ...]:
    """Return a unit of query and key for each attention whose scores depend on their products alone."""
    return find_groups(model, units, batch, QUERY_KEY, QUERY_KEY, _tried_query_key)


def _tried_value_output(model: nn.Module, inside: Mapping[str, Unit], batch: Batch) -> Iterator[Members]:
    for reader, makers in _readers(inside):
        for maker in makers:
            heads = _layout(inside[maker], inside[reader], head_width(model))
            if heads and _is_value(model, inside[maker], inside[reader], heads, batch):
                yield (maker, reader), heads
                break


def _tried_query_key(model: nn.Module, inside: Mapping[str, Unit], batch: Batch) -> Iterator[Members]:
    taken: set[str] = set()  # what comes behind the output depends on them too
    for reader, makers in _readers(inside):
        for query, key in permutations([maker for maker in makers if maker not in taken], 2):
            if inside[query].out_features != inside[reader].in_features:
                continue
            heads = _layout(inside[key], inside[reader], head_width(model))
            if heads and _are_query_key(model, inside[query], inside[key], inside[reader], heads, batch):
                taken |= {query, key}
                yield (query, key), heads
                break


def _readers(inside: Mapping[str, Unit]) -> Iterator[tuple[str, list[str]]]:
    """Yield each matrix with those called shortly before it."""
    members = list(inside)
    for place, reader in enumerate(members):
        yield reader, members[max(0, place - _BEFORE) : place]


def _layout(key: Unit, reader: Unit, width: int) -> Heads | None:
    """Return how the rows of a value or key and the columns of the output fall into heads, None if they do not."""
    rows, columns = key.out_features, reader.in_features
    if not width or rows % width or columns % rows:
        return None
    return Heads(rows // width, columns // rows, width)


def _is_value(model: nn.Module, maker: Unit, reader: Unit, heads: Heads, batch: Batch) -> bool:
    """Tell whether turning the rows of a matrix turns what another is fed, and nothing else."""
    before = fed(model, reader, batch)
    if before is None:
        return False
    turn = _some_turn(heads, before)
    after = fed(model, reader, batch, {maker: _turned(model, maker, turn)})
    wanted = turned_rows(before.movedim(-1, 0).contiguous(), turn).movedim(0, -1)
    return _undone(wanted, before, after)


def _are_query_key(model: nn.Module, query: Unit, key: Unit, reader: Unit, heads: Heads, batch: Batch) -> bool:
    """Tell whether turns of two matrices that undo one another change nothing, where one alone does."""
    before = fed(model, reader, batch)
    if before is None:
        return False
    turn = _some_turn(heads, before)
    one = {query: _turned(model, query, turn)}
    both = one | {key: _turned(model, key, torch.linalg.inv(turn.float()).mT.to(turn))}
    changed = fed(model, reader, batch, one)
    return changed is not None and _undone(before, changed, fed(model, reader, batch, both))


def _undone(wanted: Tensor, other: Tensor, seen: Tensor | None) -> bool:
    """Tell whether what is seen is what is wanted, and not the other; what those differ by must be visible at all."""
    if seen is None or seen.shape != wanted.shape:
        return False
    effect, left = ((tensor - wanted).double().norm() for tensor in (other, seen))
    precision = torch.finfo(wanted.dtype).eps
    return bool(effect > _SEEN * precision * wanted.double().norm()) and bool(left < (_UNDONE + 8 * precision) * effect)


def _some_turn(heads: Heads, like: Tensor) -> Float[Tensor, "groups width width"]:
    """Return regular matrices that are no rotations."""
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(heads.groups, heads.width, heads.width, generator=generator)
    turn: Tensor = torch.linalg.qr(random).Q * torch.linspace(1.0, 4.0, heads.width)
    return turn.to(like)


def _turned(model: nn.Module, unit: Unit, turn: Float[Tensor, "groups width width"]) -> Affine:
    weight, bias = affine(model, unit)
    return turned_rows(weight, turn), None if bias is None else turned_rows(bias, turn)
