"""Low rank of what neurons leave, against its definition."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autolr.methods.conformance import example_stats
from autolr.methods.obs import METHOD
from autolr.methods.packed import packed, unpacked
from autolr.methods.remainders import remainder_counts
from autolr.methods.shrinkage import well_conditioned
from autolr.methods.weighted_svd import psd_power, shrink
from autolr.types import Unit

N, IN, OUT = 18, 7, 5


def pair(seed: int, makers: int = 1, tokens: int = 300):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(N, IN)] * makers + [(OUT, N)]
    weights = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return weights, [example_stats(weight, tokens, seed + place) for place, weight in enumerate(weights)]


def best_error(left, weight, right, rank):
    """What the best matrix of a rank leaves of ``left weight right``, squared."""
    return float(torch.linalg.svdvals(left @ weight @ right)[rank:].square().sum())


@given(st.integers(0, 1000), st.sampled_from([1, 2]), st.sampled_from([300, 9]))
@settings(max_examples=10)
def test_tails_and_factors_are_those_of_the_definition(seed, makers, tokens):
    weights, stats = pair(seed, makers, tokens)
    found = METHOD.decompose(weights, stats)
    grams = [well_conditioned(layer.in_covariance, layer.n_tokens) for layer in stats]
    metrics = [shrink(layer.out_gram, 0.02) for layer in stats]
    reader_root = psd_power(metrics[-1])
    assert [remainder.count for remainder in found.remainders] == remainder_counts(N)
    for remainder in found.remainders:
        stays, fitted = found.kept(remainder.count), found.weight(remainder.count)
        change = (reader_root @ fitted).norm(dim=0) / (reader_root @ weights[-1][:, stays]).norm(dim=0)
        cases = [
            (change.diag() @ metric[stays][:, stays] @ change.diag(), weight[stays], gram)
            for weight, gram, metric in zip(weights[:-1], grams, metrics, strict=False)
        ]
        cases.append((metrics[-1], fitted, grams[-1][stays][:, stays]))
        for (metric, weight, gram), part in zip(cases, remainder.matrices, strict=True):
            left, right = psd_power(metric), psd_power(gram)
            size = best_error(left, weight, right, 0)
            for rank in range(min(weight.shape) + 1):
                best = best_error(left, weight, right, rank)
                a, b = part.truncate(rank)
                reached = float((left @ (weight - a @ b) @ right).square().sum())
                assert part.tail_energy(rank) == pytest.approx(best, abs=1e-5 * size)
                assert reached == pytest.approx(best, abs=1e-5 * size)


def test_without_any_gradient_all_outputs_weigh_the_same():
    weights, stats = pair(0)
    stats = [type(layer)(**{**vars(layer), "out_gram": torch.zeros_like(layer.out_gram)}) for layer in stats]
    found = METHOD.decompose(weights, stats)
    assert float(found.errors[0]) > 0
    [make, read] = found.remainders[4].matrices
    assert float(make.tails()[0]) > 0
    assert float(read.tails()[0]) > 0


def test_what_is_stored_is_what_was_found():
    weights, stats = pair(0, makers=2)
    found = METHOD.decompose(weights, stats)
    matrices = tuple(Unit(str(k), "x", 0, 1, *weight.shape) for k, weight in enumerate(weights))
    unit = Unit("pair", "x", 0, 1, OUT, IN, matrices=matrices, of="neurons")
    again = unpacked(packed(found, METHOD, unit, weights, torch.float32), METHOD)
    assert [remainder.count for remainder in again.remainders] == remainder_counts(N)
    for before, after in zip(found.remainders, again.remainders, strict=True):
        for one, other in zip(before.matrices, after.matrices, strict=True):
            assert torch.equal(one.singular_values, other.singular_values)
            rank = other.max_rank
            torch.testing.assert_close(other.left, one.left[:, :rank].float())
            torch.testing.assert_close(other.right, one.right[:rank].float())


def test_a_covariance_that_rounding_made_indefinite_is_no_obstacle():
    """As of neurons whose mean is large beside their variance, or that never fire."""
    weights, stats = pair(0)
    vectors = torch.linalg.qr(torch.randn(N, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    values = torch.cat([torch.full((6,), -1e-4), torch.linspace(0.1, 1.0, N - 6)]).double()
    gram = vectors @ values.diag() @ vectors.mT + torch.outer(stats[-1].mean, stats[-1].mean)
    stats[-1] = replace(stats[-1], in_gram=gram)
    found = METHOD.decompose(weights, stats)
    assert bool(torch.isfinite(found.errors).all())
    assert bool((found.errors.diff() <= 0).all())
    torch.testing.assert_close(found.weight(N), weights[-1][:, found.kept(N)])
