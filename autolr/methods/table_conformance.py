"""The laws of a method for tables of token vectors, as :mod:`autolr.methods.conformance` runs them."""

import torch
from jaxtyping import Float
from torch import Tensor

from autolr.errors import FactorizationError
from autolr.methods.result_check import check_table
from autolr.types import LayerStats, Method, TableFactors

_CASES = {  # tokens, dim, rank of the table, occurrences
    "common": (60, 12, 12, 400),
    "tiny": (5, 9, 5, 20),
    "rank-deficient": (40, 14, 3, 400),
    "hardly seen": (80, 10, 10, 3),
}


def example_table_stats(weight: Float[Tensor, "dim vocabulary"], n_tokens: int, seed: int) -> LayerStats:
    """Return statistics of random tokens, few of them frequent, and output gradients.

    Args:
        weight: (dim, vocabulary), for the shapes.
        n_tokens: how often any token occurs.
        seed: of the random numbers.
    """
    dim, vocabulary = weight.shape
    random = torch.Generator().manual_seed(seed)
    odds = 1 / torch.arange(1, vocabulary + 1, dtype=torch.float64)
    drawn = torch.multinomial(odds, n_tokens, replacement=True, generator=random)
    frequency = torch.bincount(drawn, minlength=vocabulary) / float(n_tokens)
    g = torch.randn(n_tokens, dim, generator=random, dtype=torch.float64) * torch.arange(1, dim + 1)
    frequency = frequency.double()
    return LayerStats(n_tokens, max(1, n_tokens // 4), frequency, frequency, frequency, out_gram=g.mT @ g / n_tokens)


def check_table_method(method: Method, seed: int) -> None:
    """Run a method for tables through its laws.

    The laws: every token has a place; full rank reproduces the table with every core; errors are not negative, never
    grow with the rank or the core, and are zero at full rank; the same input gives the same output; the arguments are
    not changed.

    Raises:
        AssertionError: a law is broken; the message names the law, the case and the figure.
    """
    random = torch.Generator().manual_seed(seed)
    for case, (tokens, dim, inner, occurrences) in _CASES.items():
        weight = torch.randn(dim, inner, generator=random, dtype=torch.float64) @ torch.randn(
            inner, tokens, generator=random, dtype=torch.float64
        )
        stats = example_table_stats(weight, occurrences, seed)
        label = f"{method.name} on a {case} table ({tokens} tokens, {dim})"
        before = weight.clone()
        result, again = method.decompose(weight, stats), method.decompose(weight, stats)
        assert torch.equal(weight, before), f"{label} changed its argument, the weight"
        try:
            check_table(result, (dim, tokens))
        except FactorizationError as error:
            raise AssertionError(f"{label}: {error}") from error
        assert torch.equal(result.order, again.order), f"{label} is not deterministic in the order"
        _check_cores(result, weight, label)


def _check_cores(result: TableFactors, weight: Tensor, label: str) -> None:
    last: Tensor | None = None
    for core in result.cores:
        tails = result.tails(core.count)
        told = f"{label}, {core.count} tokens kept"
        assert (tails.diff() <= 0).all(), f"{told}: the error curve rises"
        assert float(tails[-1]) == 0.0, f"{told}: the error at full rank is {float(tails[-1])}"
        if last is not None:
            assert (tails <= last + 1e-9 * last[0]).all(), f"{told}: an error grows with the core"
        last = tails
        gap = weight - core.mean[:, None]
        again = torch.linalg.solve(result.root, core.vectors @ core.vectors.mT @ result.root @ gap)
        off = float((again - gap).abs().max() / weight.abs().max())
        assert off < 1e-6, f"{told}: full rank does not reproduce the table, relative error {off:.2e}"
