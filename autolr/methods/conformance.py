"""The laws every method obeys, as one function, so that a third-party method can be tested with one call."""

from dataclasses import fields, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from autolr.errors import FactorizationError
from autolr.methods.attention_conformance import check_query_key, check_value_output
from autolr.methods.kronecker_shapes import rearranged
from autolr.methods.result_check import check_order, check_rearranged
from autolr.methods.table_conformance import check_table_method
from autolr.records import Heads
from autolr.types import Decomposition, Elimination, LayerStats, Method, break_even_rank


def example_stats(weight: Float[Tensor, "out in"], n_tokens: int, seed: int) -> LayerStats:
    """Return statistics of random correlated inputs and output gradients, for tests of methods.

    Args:
        weight: (out, in), for the shapes.
        n_tokens: how many random tokens they are measured on; fewer than ``in`` gives singular matrices.
        seed: of the random numbers.
    """
    out_features, in_features = weight.shape
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(in_features, in_features, generator=random, dtype=torch.float64)
    x = torch.randn(n_tokens, in_features, generator=random, dtype=torch.float64) @ mixing + 0.5
    g = torch.randn(n_tokens, out_features, generator=random, dtype=torch.float64)
    n_examples = max(1, n_tokens // 4)
    example = (torch.arange(n_tokens) // 4).clamp(max=n_examples - 1)
    of_masks = torch.zeros(n_examples, in_features, dtype=torch.float64).index_add(
        0, example, x * (g @ weight.double())
    )
    return LayerStats(
        n_tokens=n_tokens,
        n_examples=n_examples,
        mean=x.mean(0),
        in_gram=x.mT @ x / n_tokens,
        mean_abs=x.abs().mean(0),
        fisher_in=(g.square().mT @ x.square()).sum(0) / n_tokens,
        out_gram=g.mT @ g / n_tokens,
        mask_gram=of_masks.mT @ of_masks / n_examples,
    )


def check(method: Method, *, seed: int = 0) -> None:
    """Run a method through the laws on rectangular, rank-deficient, tiny and badly sampled layers.

    The laws: shapes and float64; finite; singular values are not negative and do not rise; full rank reproduces the
    weight, also along inputs that never occur; the error curve falls to zero; the same input gives the same output;
    the arguments are not changed; no statistics are read but the declared needs; a row-keeping method's rows share out
    its error, and no other method has row energies. Of a method for neurons: it orders all of them, all of them
    reproduce the weight, and errors do not grow with the neurons that stay. Those of a method for tables are in
    :mod:`autolr.methods.table_conformance`.

    Args:
        method: the method to test.
        seed: of the random layers.

    Raises:
        AssertionError: a law is broken; the message names the law, the case and the figure.

    Example:
        >>> from autolr.methods.svd import METHOD
        >>> check(METHOD)
    """
    if method.of == "embedding":
        check_table_method(method, seed)
        return
    random = torch.Generator().manual_seed(seed)
    for case, (out_features, in_features, inner, n_tokens, dead) in _CASES.items():
        weight = torch.randn(out_features, inner, generator=random, dtype=torch.float64) @ torch.randn(
            inner, in_features, generator=random, dtype=torch.float64
        )
        stats = _declared(method, example_stats(weight, n_tokens, seed), dead)
        before = weight.clone(), _copy(stats)
        label = f"{method.name} on a {case} layer ({out_features}, {in_features})"
        if method.of == "neurons":
            maker = torch.randn(in_features, _MAKER_INPUTS, generator=random, dtype=torch.float64)
            made = _declared(method, example_stats(maker, n_tokens, seed), 0)
            _check_elimination(method, [maker, weight], stats and [made, stats], label)
            continue
        if method.of == "heads":
            _check_elimination(method, [weight], stats and [stats], label, Heads(in_features, 1, 1))
            continue
        if method.of == "value-output":
            value = torch.randn(in_features, _MAKER_INPUTS, generator=random, dtype=torch.float64)
            check_value_output(method, [value, weight], [stats, stats] if stats else None, label)
            continue
        if method.of == "query-key":
            check_query_key(method, [weight, weight.flip(0)], [stats, stats] if stats else None, label)
            continue
        if method.rearranges:
            _check_rearranged(method, weight, stats, label)
            continue
        result = method.decompose(weight, stats)
        again = method.decompose(weight, stats)
        assert torch.equal(weight, before[0]), f"{label} changed its argument, the weight"
        for name, value in _tensors(stats).items():
            assert torch.equal(value, _tensors(before[1])[name]), f"{label} changed its argument, the {name}"
        _check_record(result, weight, label)
        _check_rows(method, result, label)
        for name, value in _tensors(result).items():
            assert torch.equal(value, _tensors(again)[name]), f"{label} is not deterministic in {name}"
        error = (result.left @ result.right - weight).abs().max() / weight.abs().max()
        assert error < 1e-6, f"{label}: full rank does not reproduce the weight, relative error {error:.2e}"


def _tensors(record: LayerStats | Decomposition | Elimination | None) -> dict[str, Tensor]:
    """Return the tensors of a record by name."""
    values = {} if record is None else {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _copy(stats: LayerStats | None) -> LayerStats | None:
    copies: dict[str, Any] = {name: value.clone() for name, value in _tensors(stats).items()}
    return None if stats is None else replace(stats, **copies)


def _declared(method: Method, stats: LayerStats, dead: int) -> LayerStats | None:
    """Return what the method says it needs of the statistics, with the first ``dead`` inputs always zero."""
    if not method.needs:
        return None
    stats = _copy(stats) or stats
    for name, value in _tensors(stats).items():
        if name != "out_gram":
            value[:dead] = 0.0
            value[..., :dead] = 0.0
    return stats if "gradients" in method.needs else replace(stats, fisher_in=None, out_gram=None, mask_gram=None)


_CASES = {  # out, in, rank of the weight, tokens, inputs that are always zero
    "wide": (12, 30, 12, 400, 0),
    "tall": (30, 12, 12, 400, 0),
    "square": (16, 16, 16, 400, 0),
    "rank-deficient": (20, 14, 3, 400, 0),
    "one-row": (1, 9, 1, 400, 0),
    "one-column": (9, 1, 1, 400, 0),
    "wide, partly unfed": (12, 30, 12, 400, 4),
    "tall, partly unfed": (30, 12, 12, 400, 4),
    "unfed": (20, 14, 14, 400, 14),
    "barely sampled": (10, 24, 10, 25, 0),
    "undersampled": (10, 24, 10, 7, 0),
    "tall, undersampled": (24, 10, 10, 7, 0),
}


_MAKER_INPUTS = 7
"""Inputs of the matrix that makes the neurons of an example."""


def _check_record(result: Decomposition, weight: Tensor, label: str) -> None:
    out_features, in_features = weight.shape
    full = min(out_features, in_features)
    assert result.left.shape == (out_features, full), f"{label}: left is {tuple(result.left.shape)}"
    assert result.right.shape == (full, in_features), f"{label}: right is {tuple(result.right.shape)}"
    assert result.singular_values.shape == (full,), f"{label}: {result.singular_values.shape[0]} singular values"
    for name in ("left", "singular_values", "right"):
        tensor = getattr(result, name)
        assert tensor.dtype == torch.float64, f"{label}: {name} is {tensor.dtype}, not float64"
        assert torch.isfinite(tensor).all(), f"{label}: {name} is not finite"
    assert (result.singular_values >= 0).all(), f"{label}: a singular value is negative"
    assert (result.singular_values.diff() <= 0).all(), f"{label}: singular values do not fall"
    tails = result.tails()
    assert (tails.diff() <= 0).all(), f"{label}: the error curve rises"
    assert float(tails[-1]) == 0.0, f"{label}: the error at full rank is {float(tails[-1])}"
    rank = min(break_even_rank(out_features, in_features), full)
    left, right = result.truncate(rank)
    assert left.shape[1] == right.shape[0] == rank, f"{label}: truncate({rank}) gave {left.shape[1]}"


def _check_rearranged(method: Method, weight: Tensor, stats: LayerStats | None, label: str) -> None:
    """Check that each part, at full rank, is the rearranged weight; all else of a part is a decomposition's law."""
    before = weight.clone()
    result, again = method.decompose(weight, stats), method.decompose(weight, stats)
    assert torch.equal(weight, before), f"{label} changed its argument, the weight"
    try:
        check_rearranged(result, weight)
    except FactorizationError as error:
        raise AssertionError(f"{label}: {error}") from error
    for part, same in zip(result, again, strict=True):
        told = f"{label}, A of {part.rows} x {part.columns}"
        blocks = rearranged(weight, part.rows, part.columns)
        _check_record(part.decomposition, blocks, told)
        for name, value in _tensors(part.decomposition).items():
            assert torch.equal(value, _tensors(same.decomposition)[name]), f"{told} is not deterministic in {name}"
        gap = float((part.decomposition.left @ part.decomposition.right - blocks).abs().max() / weight.abs().max())
        assert gap < 1e-6, f"{told}: all terms do not reproduce the weight, relative error {gap:.2e}"


def _check_elimination(method: Method, weights: list[Tensor], stats: Any, label: str, *heads: Heads) -> None:
    """Check an order of neurons: all of them reproduce the weight, and fewer never lose less; so of low rank."""
    before = [weight.clone() for weight in weights]
    result, again = method.decompose(weights, stats, *heads), method.decompose(weights, stats, *heads)
    assert all(map(torch.equal, weights, before)), f"{label} changed a weight"
    try:
        check_order(result, [(weight.shape[0], weight.shape[1]) for weight in weights])
    except FactorizationError as error:
        raise AssertionError(f"{label}: {error}") from error
    for name, value in _tensors(result).items():
        assert torch.equal(value, _tensors(again)[name]), f"{label} is not deterministic in {name}"
    weight, count = weights[-1], weights[-1].shape[1]
    assert float(result.errors[-1]) == 0.0, f"{label}: all neurons have an error of {float(result.errors[-1])}"
    gap = float((result.weight(count) - weight[:, result.kept(count)]).abs().max() / weight.abs().max())
    assert gap < 1e-6, f"{label}: all neurons do not reproduce the weight, relative error {gap:.2e}"
    for remainder in result.remainders:
        for place, part in enumerate(remainder.matrices):
            tails = part.tails()
            told = f"{label}: matrix {place} of what {remainder.count} neurons leave"
            assert (tails >= 0).all(), f"{told} has an error below zero"
            assert (tails.diff() <= 0).all(), f"{told} has an error curve that rises"
            assert torch.isfinite(part.left @ part.right).all(), f"{told} is not finite"


def _check_rows(method: Method, result: Decomposition, label: str) -> None:
    has_rows = result.row_energy is not None and result.row_metric is not None
    assert has_rows == method.keeps_rows, f"{label}: keeps_rows is {method.keeps_rows}, row energies: {has_rows}"
    if not has_rows:
        return
    total = result.tail_energy(0)
    for rank in range(result.max_rank + 1):
        shared_out, tail = float(result.row_residuals(rank).sum()), result.tail_energy(rank)
        assert abs(shared_out - tail) <= 1e-9 * total, f"{label}: rows share out {shared_out} of {tail} at rank {rank}"
