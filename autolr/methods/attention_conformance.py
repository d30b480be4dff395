"""The laws of methods for pairs of an attention's matrices, as :mod:`autolr.methods.conformance` runs them."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from autolr.errors import FactorizationError
from autolr.methods.result_check import check_elimination, check_score_dims
from autolr.records import Heads, Unit
from autolr.types import Elimination, LayerStats, Method, ScoreDims, turned_rows

_ROUNDING = 1e-6


def heads_of(rows: int) -> Heads:
    """Return heads that so many rows fall into, a few entries wide if that is possible.

    Example:
        >>> heads_of(12), heads_of(9), heads_of(1)
        (Heads(groups=3, queries=1, width=4), Heads(groups=3, queries=1, width=3), Heads(groups=1, queries=1, width=1))
    """
    width = next(width for width in (4, 3, 2, 1) if rows % width == 0)
    return Heads(rows // width, 1, width)


def check_value_output(
    method: Method, weights: Sequence[Tensor], stats: Sequence[LayerStats] | None, label: str
) -> None:
    """Check an order of turned entries: all of them reproduce the output, and errors do not grow with those that stay.

    Raises:
        AssertionError: a law is broken.
    """
    value, output = weights
    heads = heads_of(len(value))
    before = [weight.clone() for weight in weights]
    made, again = method.decompose(weights, stats, heads), method.decompose(weights, stats, heads)
    assert all(map(torch.equal, weights, before)), f"{label} changed a weight"
    _check(lambda: check_elimination(made, [(w.shape[0], w.shape[1]) for w in (value, output)]), label)
    assert isinstance(made, Elimination)
    assert made.turn is not None, f"{label}: there is no turn"
    assert torch.equal(made.order, again.order), f"{label} is not deterministic"
    whole = turned_rows(made.weight(output.shape[1]).mT, made.turn.mT).mT  # W′ T, entry by entry
    gap = float((whole - output).abs().max() / output.abs().max())
    assert gap < _ROUNDING, f"{label}: all entries do not reproduce the output, relative error {gap:.2e}"


def check_query_key(method: Method, weights: Sequence[Tensor], stats: Sequence[LayerStats] | None, label: str) -> None:
    """Check an order of entries of scores: the turns undo one another, and errors do not grow with those that stay.

    Raises:
        AssertionError: a law is broken.
    """
    heads = heads_of(len(weights[0]))
    random = torch.Generator().manual_seed(0)
    biases = [torch.randn(len(weight), generator=random, dtype=torch.float64) for weight in weights]
    before = [weight.clone() for weight in weights]
    made, again = method.decompose(weights, stats, heads, biases), method.decompose(weights, stats, heads, biases)
    assert all(map(torch.equal, weights, before)), f"{label} changed a weight"
    rows, columns = weights[-1].shape
    _check(lambda: check_score_dims(made, Unit("", "", 0, 1, rows, columns, of="query-key", heads=heads)), label)
    assert isinstance(made, ScoreDims)
    assert torch.equal(made.order, again.order), f"{label} is not deterministic"
    assert float(made.errors[-1]) == 0.0, f"{label}: all entries have an error of {float(made.errors[-1])}"
    assert _undo_one_another(made.query_turn, made.key_turn), f"{label}: the turns change the scores of all entries"


def _undo_one_another(query: Float[Tensor, "groups w w"], key: Float[Tensor, "groups w w"]) -> bool:
    product = query.mT @ key
    return bool((product - torch.eye(product.shape[-1]).to(product)).abs().max() < _ROUNDING)


def _check(law: Callable[[], object], label: str) -> None:
    try:
        law()
    except FactorizationError as error:
        raise AssertionError(f"{label}: {error}") from error
