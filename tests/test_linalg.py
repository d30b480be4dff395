"""Laws of the weighted SVD and of the matrix functions under it, against numpy, explicit roots and brute force."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from sklearn.covariance import oas

from autolr.errors import FactorizationError
from autolr.methods.weighted_svd import oas_intensity, psd_power, shrink, weighted_svd

SHAPES = {"wide": (7, 13), "tall": (13, 7), "square": (9, 9), "one-row": (1, 8), "one-column": (8, 1), "single": (1, 1)}
RIGHT = ["identity", "diagonal", "regular", "ill-conditioned", "singular"]
LEFT = ["identity", "diagonal", "regular"]


def random_psd(n, kind, rng):
    """(n, n) of a condition number; singular ones have a third of their directions, at least one if n > 1, missing."""
    if kind == "identity":
        return np.eye(n)
    if kind == "diagonal":
        return np.diag(rng.uniform(0.1, 4.0, n))
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
    values = {
        "regular": rng.uniform(0.1, 4.0, n),
        "ill-conditioned": np.logspace(0, -9, n),
        "singular": np.where(np.arange(n) < max(1, n - max(1, n // 3)), rng.uniform(0.5, 2.0, n), 0.0),
    }[kind]
    return (basis * values) @ basis.T


def explicit_root(gram):
    """Another root than the symmetric one: V diag(√λ), so R Rᵀ is the Gram matrix but R is not symmetric."""
    values, vectors = np.linalg.eigh(gram)
    return vectors * np.sqrt(values.clip(0.0))


def problem(shape, right, left, rank=None, seed=0):
    """W, the right Gram, the explicit R, the explicit symmetric L, and the solution."""
    rng = np.random.default_rng(seed)
    out_features, in_features = SHAPES[shape]
    weight = rng.standard_normal((out_features, in_features))
    if rank is not None:
        weight = weight[:, :rank] @ rng.standard_normal((rank, in_features))
    gram = random_psd(in_features, right, rng)
    left_gram = torch.from_numpy(random_psd(out_features, left, rng))
    passed = {"identity": None, "diagonal": torch.from_numpy(gram.diagonal().copy())}.get(right, torch.from_numpy(gram))
    left_passed = {"identity": None, "diagonal": left_gram.diagonal()}.get(left, left_gram)
    found = weighted_svd(torch.from_numpy(weight), passed, left_passed)
    return weight, explicit_root(gram), psd_power(left_gram).numpy(), found


def error(weight, approximation, root, metric):
    return float(np.square(metric @ (weight - approximation) @ root).sum())


everywhere = pytest.mark.parametrize(
    ("shape", "right", "left"), [(s, r, le) for s in SHAPES for r in RIGHT for le in LEFT]
)


@everywhere
def test_every_rank_attains_the_eckart_young_optimum_of_another_route(shape, right, left):
    """The SVD of L W R by numpy with a non-symmetric R gives the optimum; ours attains it, and the tails say so."""
    weight, root, metric, found = problem(shape, right, left)
    spectrum = np.linalg.svd(metric @ weight @ root, compute_uv=False)
    scale = np.square(spectrum).sum()
    tails = found.tails()
    for rank in range(min(weight.shape) + 1):
        a, b = found.truncate(rank)
        assert a.shape == (weight.shape[0], rank)
        assert b.shape == (rank, weight.shape[1])
        attained = error(weight, (a @ b).numpy(), root, metric)
        optimum = np.square(spectrum[rank:]).sum()
        assert attained == pytest.approx(optimum, rel=1e-9, abs=1e-12 * scale)
        assert float(tails[rank]) == pytest.approx(optimum, rel=1e-9, abs=1e-12 * scale)
        assert found.tail_energy(rank) == pytest.approx(float(tails[rank]), rel=1e-12, abs=1e-15 * scale)


@pytest.mark.parametrize("shape", ["wide", "tall", "square"])
def test_solving_back_through_a_regular_root_gives_the_same_matrix(shape):
    """M = L⁻¹ (L W R)_r R⁻¹, the textbook form, equals our product of factors where R can be inverted."""
    weight, root, metric, found = problem(shape, "regular", "regular")
    u, s, vt = np.linalg.svd(metric @ weight @ root, full_matrices=False)
    for rank in range(min(weight.shape) + 1):
        textbook = np.linalg.solve(metric, (u[:, :rank] * s[:rank]) @ vt[:rank]) @ np.linalg.inv(root)
        a, b = found.truncate(rank)
        np.testing.assert_allclose((a @ b).numpy(), textbook, atol=1e-10)


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from(["wide", "tall", "square", "one-row", "one-column"]),
    right=st.sampled_from(RIGHT),
    left=st.sampled_from(LEFT),
    share=st.floats(0.0, 1.0),
)
def test_no_random_matrix_of_the_same_rank_is_nearer(seed, shape, right, left, share):
    """Neither a random matrix of that rank, nor a small random step away from ours within that rank."""
    weight, root, metric, found = problem(shape, right, left, seed=seed)
    rank = round(share * min(weight.shape))
    a, b = (x.numpy() for x in found.truncate(rank))
    ours = error(weight, a @ b, root, metric)
    slack = 1e-10 * error(weight, 0 * weight, root, metric)
    rng = np.random.default_rng(seed)
    for step in (1e-4, 1e-2, 1.0):
        c = a + step * np.abs(a).max(initial=0.0) * rng.standard_normal(a.shape)
        d = b + step * np.abs(b).max(initial=0.0) * rng.standard_normal(b.shape)
        assert ours <= error(weight, c @ d, root, metric) + slack
    # the best right factor for a random left one: a stronger rival than a wholly random matrix
    c = rng.standard_normal(a.shape)
    d = np.linalg.lstsq(metric @ c, metric @ weight, rcond=None)[0]
    assert ours <= error(weight, c @ d, root, metric) + slack


@everywhere
def test_full_rank_reproduces_the_weight(shape, right, left):
    """Also along input directions that R does not see: nothing of the weight is lost at full rank."""
    weight, _, _, found = problem(shape, right, left)
    a, b = found.truncate(min(weight.shape))
    np.testing.assert_allclose((a @ b).numpy(), weight, atol=1e-7)


@pytest.mark.parametrize("shape", ["wide", "tall"])
def test_without_any_input_the_error_is_zero_and_full_rank_still_reproduces(shape):
    """A layer whose input never varies: every rank is exact in the metric, the weight is kept at full rank."""
    weight = torch.randn(SHAPES[shape], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    n = weight.shape[1]
    for gram in (torch.zeros(n, n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)):
        found = weighted_svd(weight, gram)
        assert found.tails().tolist() == [0.0] * (min(weight.shape) + 1)
        torch.testing.assert_close(found.left @ found.right, weight)


@pytest.mark.parametrize("shape", ["wide", "tall", "square", "one-row", "one-column"])
@pytest.mark.parametrize("right", RIGHT)
@pytest.mark.parametrize("left", ["singular", "ill-conditioned", "zero"])
def test_an_output_metric_that_misses_directions_is_raised_there(shape, right, left):
    """As if its small eigenvalues were a millionth of the largest; all zero, as if it were not there."""
    rng = np.random.default_rng(0)
    weight = torch.from_numpy(rng.standard_normal(SHAPES[shape]))
    n_out, n_in = weight.shape
    metric = torch.zeros(n_out, n_out).double() if left == "zero" else torch.from_numpy(random_psd(n_out, left, rng))
    gram = torch.from_numpy(random_psd(n_in, right, rng))
    found = weighted_svd(weight, gram, metric)
    raised = torch.eye(n_out).double() if left == "zero" else psd_power(metric, 1.0, floor=1e-6)
    root = psd_power(raised).numpy()
    best = np.linalg.svd(root @ weight.numpy() @ explicit_root(gram.numpy()), compute_uv=False)
    for rank in range(min(weight.shape) + 1):
        m = (found.left[:, :rank] @ found.right[:rank]).numpy()
        attained = error(weight.numpy(), m, explicit_root(gram.numpy()), root)
        assert attained == pytest.approx(np.square(best[rank:]).sum(), rel=1e-6, abs=1e-10 * np.square(best).sum())
    np.testing.assert_allclose(m, weight, atol=1e-6)


@pytest.mark.parametrize("shape", ["wide", "tall", "square"])
@pytest.mark.parametrize("right", RIGHT)
def test_a_rank_deficient_weight_needs_only_its_rank(shape, right):
    """A weight of rank 3 is exact at rank 3, and its curve is zero from there on."""
    weight, root, metric, found = problem(shape, right, "regular", rank=3)
    a, b = found.truncate(3)
    total = error(weight, 0 * weight, root, metric)
    assert error(weight, (a @ b).numpy(), root, metric) <= 1e-14 * total
    assert found.tail_energy(3) <= 1e-14 * total


@everywhere
def test_curves_fall_from_the_whole_energy_to_zero(shape, right, left):
    weight, root, metric, found = problem(shape, right, left)
    tails = found.tails()
    assert tails.dtype == torch.float64
    assert tails.shape == (min(weight.shape) + 1,)
    assert (tails.diff() <= 0).all()
    assert float(tails[0]) == pytest.approx(error(weight, 0 * weight, root, metric), rel=1e-9)
    assert float(tails[-1]) == 0.0


@given(seed=st.integers(0, 2**32 - 1), power=st.floats(0.1, 1.0), n=st.integers(1, 8))
def test_powers_add_up(seed, power, n):
    """G^p · G^(1−p) = G, and a floor below the least eigenvalue changes nothing."""
    gram = torch.from_numpy(random_psd(n, "regular", np.random.default_rng(seed)))
    rest = psd_power(gram, 1 - power) if power < 1 else torch.eye(n, dtype=torch.float64)
    torch.testing.assert_close(psd_power(gram, power) @ rest, gram, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(psd_power(gram, power, floor=1e-6), psd_power(gram, power), atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("kind", RIGHT)
def test_the_square_of_a_floored_root_has_raised_eigenvalues(kind):
    gram = random_psd(9, kind, np.random.default_rng(1))
    root = psd_power(torch.from_numpy(gram), floor=1e-6)
    values = np.linalg.eigvalsh(gram)
    floored = np.sort(np.maximum(values, 1e-6 * values.max()))
    np.testing.assert_allclose(np.linalg.eigvalsh((root @ root).numpy()), floored, rtol=1e-6)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 9), intensity=st.floats(0.0, 1.0))
def test_shrinkage_keeps_the_trace_and_moves_each_eigenvalue_towards_the_mean(seed, n, intensity):
    gram = random_psd(n, "regular", np.random.default_rng(seed))
    shrunk = shrink(torch.from_numpy(gram), intensity).numpy()
    assert np.trace(shrunk) == pytest.approx(np.trace(gram))
    values = np.linalg.eigvalsh(gram)
    moved = values + intensity * (values.mean() - values)
    np.testing.assert_allclose(np.linalg.eigvalsh(shrunk), moved, atol=1e-12)


@pytest.mark.parametrize(("p", "n"), [(5, 8), (12, 7), (30, 12), (30, 200)])
def test_the_shrinkage_intensity_is_the_fixed_point_of_its_definition(p, n):
    """Chen et al. 2010, equations 17 and 18: the oracle's estimate, iterated until it stays."""
    rng = np.random.default_rng(p * n)
    x = rng.standard_normal((n, p)) * np.linspace(0.3, 3.0, p)
    sample = x.T @ x / n
    target = np.trace(sample) / p * np.eye(p)
    rho = 0.5
    for _ in range(2000):
        estimate = (1 - rho) * sample + rho * target
        cross, squared = np.trace(estimate @ sample), np.trace(estimate) ** 2
        rho = ((1 - 2 / p) * cross + squared) / ((n + 1 - 2 / p) * cross + (1 - n / p) * squared)
    assert oas_intensity(torch.from_numpy(sample), n) == pytest.approx(min(rho, 1.0), rel=1e-6)


@pytest.mark.parametrize(("p", "n"), [(200, 100), (200, 1000), (120, 40)])
def test_the_shrinkage_intensity_agrees_with_scikit_learn(p, n):
    """scikit-learn leaves out the terms in 2/p, which is a relative difference of at most 2/p."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, p)) * np.logspace(0, 1, p)
    theirs = oas(x, assume_centered=True)[1]
    assert 0 < theirs < 1
    ours = oas_intensity(torch.from_numpy(x.T @ x / n), n)
    assert ours == pytest.approx(theirs, rel=2 / p)
    assert ours != pytest.approx(theirs, rel=1e-4 / p)


def test_the_shrinkage_intensity_falls_as_one_over_the_samples():
    gram = torch.from_numpy(random_psd(40, "regular", np.random.default_rng(0)))
    few, many = oas_intensity(gram, 10**4), oas_intensity(gram, 10**5)
    assert few / many == pytest.approx(10, rel=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("shape", ["wide", "tall"])
def test_nothing_infinite_passes(value, shape):
    """A NaN or infinite weight, Gram matrix or diagonal is an error, never a factorization."""
    weight = torch.ones(SHAPES[shape], dtype=torch.float64)
    n = weight.shape[1]
    broken = weight.clone()
    broken[0, 0] = value
    gram, diagonal = torch.eye(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64)
    for arguments in [(broken,), (broken, gram), (broken, diagonal)]:
        with pytest.raises(FactorizationError, match="weight or its output metric is not finite"):
            weighted_svd(*arguments)
    gram[0, 0] = diagonal[0] = value
    for right in (gram, diagonal):
        with pytest.raises(FactorizationError, match="not finite; check the calibration data"):
            weighted_svd(weight, right)
    with pytest.raises(FactorizationError, match="not finite"):
        psd_power(gram)


def test_float32_arguments_are_computed_in_float64():
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    found = weighted_svd(weight, torch.eye(6), torch.eye(4))
    assert found.left.dtype == found.right.dtype == found.singular_values.dtype == torch.float64
    torch.testing.assert_close(found.left @ found.right, weight.double(), atol=1e-12, rtol=0)


def test_arguments_stay_as_they_were():
    weight, gram = torch.randn(5, 4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    copies = weight.clone(), gram.clone()
    weighted_svd(weight, gram)
    psd_power(gram)
    shrink(gram, 0.5)
    assert torch.equal(weight, copies[0])
    assert torch.equal(gram, copies[1])


def test_outputs_without_signal_stay_finite():
    """Entries of a diagonal are raised as eigenvalues are."""
    weight = torch.tensor([[3.0, 0.0, 1.0], [0.0, 2.0, 1.0]], dtype=torch.float64)
    found = weighted_svd(weight, None, torch.tensor([1.0, 0.0]))
    assert found.left.isfinite().all()
    torch.testing.assert_close(found.left @ found.right, weight)


@pytest.mark.parametrize("gram", [torch.zeros(3, 3), torch.zeros(3)])
def test_the_weight_gives_the_order_where_no_input_was_seen(gram):
    found = weighted_svd(torch.diag(torch.tensor([1.0, 5.0, 3.0])), gram)
    kept = found.left[:, :1] @ found.right[:1]
    torch.testing.assert_close(kept.diagonal(), torch.tensor([0.0, 5.0, 0.0], dtype=torch.float64))


def test_rows_that_weigh_little_are_weighed_exactly():
    """A method that keeps rows reads its metric back: 1e-5 of the largest must not become more."""
    weight, metric = torch.randn(5, 7, dtype=torch.float64), torch.tensor([1.0, 0.3, 1e-5, 2.0, 1e-3]).double()
    found = weighted_svd(weight, None, metric.square())
    torch.testing.assert_close(
        metric[:, None] * found.left,
        torch.linalg.svd(metric[:, None] * weight)[0][:, :5].abs() * (metric[:, None] * found.left).sign(),
        atol=1e-8,
        rtol=1e-6,
    )


def test_the_shapes_that_annotations_name_are_checked_while_tests_run():
    with pytest.raises(TypeCheckError, match="psd_power"):
        psd_power(torch.ones(2, 3))
