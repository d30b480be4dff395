"""The laws every method obeys, as one function, so that a third-party method can be tested with one call."""

import torch
from jaxtyping import Float
from torch import Tensor

from autolr.types import Decomposition, LayerStats, Method, break_even_rank


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
    return LayerStats(
        n_tokens=n_tokens,
        n_examples=max(1, n_tokens // 4),
        mean=x.mean(0),
        in_gram=x.mT @ x / n_tokens,
        mean_abs=x.abs().mean(0),
        fisher_in=((g.mT / n_tokens) @ x.square().mul(1.0)).square().sum(0) + 1e-3,
        out_gram=g.mT @ g / n_tokens,
    )


def check(method: Method, *, seed: int = 0) -> None:
    """Run a method through the laws on rectangular, rank-deficient, tiny and badly sampled layers.

    The laws: shapes and float64; finite; singular values fall; full rank reproduces the weight (wherever the inputs
    reach, exactly everywhere for a weight of full rank); the error curve falls to zero; the same input gives the same
    output; the arguments are not changed.

    Args:
        method: the method to test.
        seed: of the random layers.

    Raises:
        AssertionError: a law is broken; the message names the law, the case and the figure.

    Example:
        >>> from autolr.factorize.svd import METHOD
        >>> check(METHOD)
    """
    random = torch.Generator().manual_seed(seed)
    for case, (out_features, in_features, inner, n_tokens) in _CASES.items():
        weight = torch.randn(out_features, inner, generator=random, dtype=torch.float64) @ torch.randn(
            inner, in_features, generator=random, dtype=torch.float64
        )
        stats = example_stats(weight, n_tokens, seed) if method.needs else None
        before = weight.clone()
        result = method.decompose(weight, stats)
        again = method.decompose(weight, stats)
        label = f"{method.name} on a {case} layer ({out_features}, {in_features})"
        assert torch.equal(weight, before), f"{label} changed its argument"
        _check_record(result, weight, label)
        assert torch.equal(result.left, again.left), f"{label} is not deterministic"
        assert torch.equal(result.right, again.right), f"{label} is not deterministic"
        error = (result.left @ result.right - weight).abs().max() / weight.abs().max()
        assert error < 1e-6, f"{label}: full rank does not reproduce the weight, relative error {error:.2e}"


_CASES = {  # out, in, rank of the weight, tokens
    "wide": (12, 30, 12, 400),
    "tall": (30, 12, 12, 400),
    "square": (16, 16, 16, 400),
    "rank-deficient": (20, 14, 3, 400),
    "one-row": (1, 9, 1, 400),
    "one-column": (9, 1, 1, 400),
    "barely sampled": (10, 24, 10, 25),
    "undersampled": (10, 24, 10, 7),
}


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
    assert (result.singular_values.diff() <= 0).all(), f"{label}: singular values do not fall"
    tails = result.tails()
    assert (tails.diff() <= 0).all(), f"{label}: the error curve rises"
    assert float(tails[-1]) == 0.0, f"{label}: the error at full rank is {float(tails[-1])}"
    rank = min(break_even_rank(out_features, in_features), full)
    left, right = result.truncate(rank)
    assert left.shape[1] == right.shape[0] == rank, f"{label}: truncate({rank}) gave {left.shape[1]}"
