"""Laws of the methods: conformance, each is the best in its own metric, and each means what its publication says."""

from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import torch
from tiny import MATRIX_METHODS, given_of

from autolr import registry
from autolr.errors import AutolrError, FactorizationError, UsageError
from autolr.forms.low_rank import make_factors
from autolr.methods import METHODS, conformance, get_methods, kfac, losparse, matrix_methods, svd
from autolr.methods.result_check import check_record, check_values
from autolr.methods.shrinkage import TOKENS_PER_FEATURE, too_few_tokens, well_conditioned
from autolr.methods.weighted_svd import oas_intensity, shrink
from autolr.types import Decomposition, LayerStats, Method, break_even_rank

NAMES = MATRIX_METHODS


@pytest.mark.parametrize("name", METHODS.names())
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_method_conforms(name, seed):
    conformance.check(METHODS.get(name), seed=seed)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (1, 9), (9, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("decades", [0, 12, 30])
def test_every_method_passes_what_the_bank_checks_of_ill_conditioned_layers(name, shape, dtype, decades):
    """Weights of falling spectrum, inputs whose energies span decades, fewer tokens than features."""
    method, (out_features, in_features), full = METHODS.get(name), shape, min(shape)
    random = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, -decades / 2, in_features, dtype=torch.float64)
    weight = torch.randn(out_features, full, generator=random, dtype=torch.float64) @ (
        scales[:full, None] * torch.randn(full, in_features, generator=random, dtype=torch.float64)
    )
    weight = weight.to(dtype)
    stats = conformance.example_stats(weight, 7, 0)
    gram = scales[:, None] * stats.in_gram * scales
    stats = replace(stats, in_gram=gram, mean=stats.mean * scales, mean_abs=stats.mean_abs * scales)
    result = method.decompose(weight.double(), stats if method.needs else None)
    check_values(check_record(result, method, shape, break_even_rank(*shape)), weight)


def broken(change, needs=frozenset(), **options):
    """A method whose result on the weight is that of plain SVD after a change."""

    def decompose(weight, stats):
        return change(svd.decompose(weight, stats), weight, stats)

    return Method("broken", 1, frozenset(needs), decompose, "nobody", **options)


def changed(name, function):
    return lambda found, weight, stats: replace(found, **{name: function(getattr(found, name))})


def too_short(found, weight, stats):
    return Decomposition(found.left[:, :-1], found.singular_values[:-1], found.right[:-1])


def random(found, weight, stats):
    sign = torch.randn(found.left.shape[1]).sign()
    sign[0] = torch.randn(()).sign()
    return Decomposition(found.left * sign, found.singular_values, sign[:, None] * found.right)


def mutating(found, weight, stats):
    weight[0, 0] += 1.0
    return svd.decompose(weight, stats)


def mutating_statistics(found, weight, stats):
    stats.in_gram.mul_(2.0)
    return found


def reading_undeclared(found, weight, stats):
    return Decomposition(found.left, found.singular_values * stats.out_gram.trace(), found.right)


def rows_of_nothing(found, weight, stats):
    ones = torch.ones(weight.shape[0], dtype=torch.float64)
    return replace(found, row_energy=ones, row_metric=ones)


@pytest.mark.parametrize(
    ("method", "complaint"),
    [
        (broken(too_short), "left is"),
        (broken(changed("left", lambda x: x[:-1])), "left is"),
        (broken(changed("right", lambda x: x[:, 1:])), "right is"),
        (broken(changed("left", torch.Tensor.float)), "float32"),
        (broken(changed("singular_values", torch.Tensor.float)), "float32"),
        (broken(changed("left", lambda x: x * float("nan"))), "not finite"),
        (broken(changed("singular_values", lambda x: x.flip(0))), "do not fall"),
        (broken(changed("singular_values", lambda x: x.neg().flip(0))), "negative"),
        (broken(changed("left", lambda x: x * 1.001)), "does not reproduce"),
        (broken(lambda f, w, s: replace(f, right=f.right.flip(0))), "does not reproduce"),
        (broken(random), "not deterministic"),
        (broken(mutating), "changed its argument, the weight"),
        (broken(mutating_statistics, {"moments"}), "changed its argument, the in_gram"),
        (broken(rows_of_nothing), "keeps_rows"),
        (broken(rows_of_nothing, keeps_rows=True), "share out"),
        (broken(lambda f, w, s: f, keeps_rows=True), "keeps_rows"),
    ],
)
def test_conformance_catches_a_broken_method(method, complaint):
    with pytest.raises(AssertionError, match=complaint):
        conformance.check(method)


@pytest.mark.parametrize("needs", [set(), {"moments"}])
def test_conformance_hands_over_only_what_is_declared(needs):
    """A method that reads gradients without saying so fails here, not in somebody's search."""
    with pytest.raises((AttributeError, TypeError)):
        conformance.check(broken(reading_undeclared, needs))
    conformance.check(broken(lambda f, w, s: f, needs | {"gradients"}))


@dataclass
class Sample:
    """Tokens x (n, in), output gradients g (n, out), a weight and the statistics of both, each by an explicit loop."""

    x: np.ndarray
    g: np.ndarray
    weight: np.ndarray
    stats: LayerStats

    @classmethod
    def of(cls, out_features, in_features, n=300, seed=0):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((n, in_features)) @ rng.standard_normal((in_features, in_features)) + 1.0
        x *= np.logspace(-0.5, 0.5, in_features)
        g = rng.standard_normal((n, out_features)) @ rng.standard_normal((out_features, out_features))
        weight = rng.standard_normal((out_features, in_features))
        fisher = sum(np.square(np.outer(gi, xi)).sum(0) for gi, xi in zip(g, x, strict=True)) / n
        arrays = {
            "mean": x.mean(0),
            "in_gram": sum(np.outer(xi, xi) for xi in x) / n,
            "mean_abs": np.abs(x).mean(0),
            "fisher_in": fisher,
            "out_gram": sum(np.outer(gi, gi) for gi in g) / n,
        }
        return cls(x, g, weight, LayerStats(n, n, **{k: torch.from_numpy(v) for k, v in arrays.items()}))

    def metric(self, name):
        """(L, R) of a method, written down from its publication, R not symmetric where that is possible."""
        n, (out_features, in_features) = len(self.x), self.weight.shape
        left, centred = np.eye(out_features), self.x - self.x.mean(0)
        gram = self.g.T @ self.g / n
        shrunk = 0.98 * gram + 0.02 * np.trace(gram) / out_features * np.eye(out_features)
        right = {
            "svd": np.eye(in_features),
            "fwsvd": np.diag(np.sqrt((np.square(self.g).T @ np.square(self.x)).sum(0) / n)),
            "asvd": np.diag(np.sqrt(np.abs(self.x).mean(0))),
            "drone": self.x.T / np.sqrt(n),
        }.get(name, centred.T / np.sqrt(n))
        if name == "kfac":
            left = np.linalg.cholesky(shrunk).T
        if name == "losparse":
            left = np.diag(np.sqrt(shrunk.diagonal()))
        return left, right

    def error(self, name, approximation):
        left, right = self.metric(name)
        return float(np.square(left @ (self.weight - approximation) @ right).sum())

    def decompose(self, name):
        return METHODS.get(name).decompose(torch.from_numpy(self.weight), self.stats)


@pytest.fixture(scope="module", params=[(10, 16), (16, 10), (12, 12)], ids=["wide", "tall", "square"])
def sample(request):
    return Sample.of(*request.param)


@pytest.mark.parametrize("name", NAMES)
def test_no_method_is_better_in_another_ones_own_metric(sample, name):
    """Each method's error in the metric of its publication is the least of all at every rank, and its tails are it."""
    found = {other: sample.decompose(other) for other in NAMES}
    total = sample.error(name, 0 * sample.weight)
    for rank in range(min(sample.weight.shape) + 1):
        products = {other: (d.left[:, :rank] @ d.right[:rank]).numpy() for other, d in found.items()}
        errors = {other: sample.error(name, product) for other, product in products.items()}
        assert errors[name] <= min(errors.values()) + 1e-12 * total
        assert found[name].tail_energy(rank) == pytest.approx(errors[name], abs=1e-10 * total)
        if 0 < rank < min(sample.weight.shape):  # the metrics differ, and the others are not by accident the same
            assert all(errors[other] > 1.001 * errors[name] for other in NAMES if other != name)


def test_drone_is_the_best_low_rank_approximation_of_the_outputs(sample):
    """With tokens that span the input space, X Mᵀ is the truncated SVD of the output matrix X Wᵀ itself."""
    found = sample.decompose("drone")
    outputs = sample.x @ sample.weight.T
    u, s, vt = np.linalg.svd(outputs, full_matrices=False)
    for rank in range(min(sample.weight.shape) + 1):
        left, right = (t.numpy() for t in found.truncate(rank))
        np.testing.assert_allclose(sample.x @ (left @ right).T, (u[:, :rank] * s[:rank]) @ vt[:rank], atol=1e-8)


def test_drone_outputs_cannot_be_bettered_by_alternating_least_squares(sample):
    """A wholly different solver of the same problem ends at the same error."""
    rank = 4
    found = sample.decompose("drone")
    left, right = (t.numpy() for t in found.truncate(rank))
    outputs = sample.x @ sample.weight.T
    ours = np.square(outputs - sample.x @ (left @ right).T).sum()
    a = np.random.default_rng(0).standard_normal((outputs.shape[1], rank))
    for _ in range(3000):
        b = np.linalg.lstsq(sample.x, outputs @ np.linalg.pinv(a).T, rcond=None)[0].T
        a = np.linalg.lstsq(sample.x @ b.T, outputs, rcond=None)[0].T
    assert ours == pytest.approx(np.square(outputs - sample.x @ (a @ b).T).sum(), rel=1e-6)


@pytest.mark.parametrize("shape", [(10, 16), (16, 10)])
def test_afm_with_the_bias_correction_is_exact_where_inputs_vary_in_few_directions(shape):
    """Inputs μ + (3 directions): rank 3 is exact for afm with the shift, for drone it is not: μ costs it a rank."""
    rng = np.random.default_rng(0)
    x = 2.0 + rng.standard_normal((400, 3)) @ rng.standard_normal((3, shape[1]))
    weight = rng.standard_normal(shape)
    stats = LayerStats(400, 400, *(torch.from_numpy(v) for v in (x.mean(0), x.T @ x / 400, np.abs(x).mean(0))))
    errors = {}
    for name in ("afm", "drone"):
        found = METHODS.get(name).decompose(torch.from_numpy(weight), stats)
        factors = make_factors(given_of(found, torch.from_numpy(weight), stats.mean), 3)
        outputs = x @ factors.right.numpy().T @ factors.left.numpy().T + factors.shift.numpy()
        errors[name] = np.abs(outputs - x @ weight.T).max()
    assert errors["afm"] < 1e-6
    assert errors["drone"] > 1e-3


def test_afm_of_a_constant_input_costs_nothing_at_rank_zero():
    """The shift alone computes a layer whose input never changes, and the curve says so."""
    weight = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.full((5,), 3.0, dtype=torch.float64)
    found = METHODS.get("afm").decompose(weight, LayerStats(400, 100, x, torch.outer(x, x), x))
    factors = make_factors(given_of(found, weight, x), 0)
    torch.testing.assert_close(factors.shift, weight @ x)
    assert found.tails().tolist() == [0.0] * 6


def test_kfac_tails_are_the_mean_squared_change_of_the_loss_over_independent_gradients_and_inputs():
    """Σ_{j>r} s² = E_g E_x (gᵀ (W − M)(x − μ))², over every pair of a gradient and a token, in a double loop."""
    sample = Sample.of(5, 7, n=40)
    found = sample.decompose("kfac")
    scale = 0.02 * np.square(sample.g).sum(1).mean() / 5
    for rank in range(6):
        gap = sample.weight - (found.left[:, :rank] @ found.right[:rank]).numpy()
        changes = [gap @ (x - sample.x.mean(0)) for x in sample.x]
        along_gradients = np.mean([np.dot(g, change) ** 2 for g in sample.g for change in changes])
        of_the_shrinkage = np.mean([np.dot(change, change) for change in changes])
        expected = (1 - kfac.OUT_SHRINKAGE) * along_gradients + scale * of_the_shrinkage
        assert found.tail_energy(rank) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_losparse_rows_share_out_the_error(sample):
    """Each row's residual is its own weighted error, computed explicitly; they sum to the tail."""
    found = sample.decompose("losparse")
    left, right = sample.metric("losparse")
    total = found.tail_energy(0)
    for rank in range(min(sample.weight.shape) + 1):
        gap = sample.weight - (found.left[:, :rank] @ found.right[:rank]).numpy()
        explicit = [left[i, i] ** 2 * sum((gap[i] @ column) ** 2 for column in right.T) for i in range(len(gap))]
        np.testing.assert_allclose(found.row_residuals(rank).numpy(), explicit, atol=1e-9 * total)
        assert float(found.row_residuals(rank).sum()) == pytest.approx(found.tail_energy(rank), abs=1e-9 * total)


def test_losparse_rows_that_the_loss_never_used_still_count():
    """A zero row of H has a small positive weight, and no loss at all gives equal weights."""
    sample = Sample.of(6, 8)
    gram = sample.stats.out_gram.clone()
    gram[2] = gram[:, 2] = 0.0
    found = losparse.decompose(torch.from_numpy(sample.weight), replace(sample.stats, out_gram=gram))
    assert float(found.row_metric[2]) == pytest.approx(np.sqrt(0.02 * float(gram.trace()) / 6))
    found = losparse.decompose(torch.from_numpy(sample.weight), replace(sample.stats, out_gram=0 * gram))
    assert found.row_metric.tolist() == [1.0] * 6


def test_only_row_keeping_methods_have_row_residuals(sample):
    with pytest.raises(ValueError, match="no separable rows"):
        sample.decompose("svd").row_residuals(1)


@pytest.mark.parametrize("rank", [-1, 11])
def test_a_rank_outside_the_range_is_an_error(rank):
    found = Sample.of(10, 16).decompose("svd")
    with pytest.raises(ValueError, match=rf"rank must lie in \[0, 10\], got {rank}"):
        found.truncate(rank)


def test_enough_tokens_leave_the_matrix_alone_and_too_few_shrink_it():
    """At 4 tokens a feature nothing is changed; below, the oracle-approximating intensity makes it regular."""
    n, in_features = 10, 12
    x = torch.randn(n, in_features, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gram = x.mT @ x / n
    assert well_conditioned(gram, TOKENS_PER_FEATURE * in_features) is gram
    assert not too_few_tokens(in_features, TOKENS_PER_FEATURE * in_features)
    assert too_few_tokens(in_features, TOKENS_PER_FEATURE * in_features - 1)
    shrunk = well_conditioned(gram, n)
    torch.testing.assert_close(shrunk, shrink(gram, oas_intensity(gram, n)))
    assert float(torch.linalg.eigvalsh(gram)[0]) < 1e-12
    assert float(torch.linalg.eigvalsh(shrunk)[0]) > 1e-3


@pytest.mark.parametrize("name", ["drone", "afm"])
def test_shrinking_helps_on_tokens_that_were_not_seen(name):
    """With fewer tokens than ranks the shrunk metric's error under the true covariance is far lower."""
    in_features, out_features, n, rank = 48, 32, 6, 12
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(10):
        scales = np.logspace(0, -1, in_features)
        mixing = scales[:, None] * np.linalg.qr(rng.standard_normal((in_features, in_features)))[0]
        weight = torch.from_numpy(rng.standard_normal((out_features, in_features)))
        x = torch.from_numpy(rng.standard_normal((n, in_features)) @ mixing)
        stats = LayerStats(n, n, x.mean(0), x.mT @ x / n, x.abs().mean(0))
        errors = []
        for claimed in (n, 10**6):  # 10⁶ claimed tokens: not shrunk
            found = METHODS.get(name).decompose(weight, replace(stats, n_tokens=claimed))
            gap = (weight - found.left[:, :rank] @ found.right[:rank]).numpy()
            errors.append(np.square(gap @ mixing.T).sum())
        ratios.append(errors[0] / errors[1])
    assert max(ratios) < 0.8


@pytest.mark.parametrize("name", [n for n in NAMES if METHODS.get(n).needs])
def test_missing_statistics_are_named(name):
    weight = torch.ones(4, 5, dtype=torch.float64)
    with pytest.raises(FactorizationError, match=f"{name} needs calibration statistics"):
        METHODS.get(name).decompose(weight, None)
    if "gradients" in METHODS.get(name).needs:
        stats = replace(Sample.of(4, 5).stats, fisher_in=None, out_gram=None)
        with pytest.raises(FactorizationError, match=f"{name} needs calibration statistics .(fisher_in|out_gram)"):
            METHODS.get(name).decompose(weight, stats)


class Point(EntryPoint):
    """An entry point of a package that is not on the path."""

    def __init__(self, loaded):
        super().__init__("extra", "package.module:METHOD", "autolr.methods")
        vars(self).update(load=lambda: loaded)


@pytest.fixture
def register(monkeypatch):
    """Pretend that a package registers an object; the table is rebuilt before and after."""

    def pretend(loaded):
        monkeypatch.setattr(
            registry, "entry_points", lambda group: [Point(loaded)] if group == "autolr.methods" else []
        )
        METHODS.forget()

    yield pretend
    monkeypatch.undo()
    METHODS.forget()


def test_an_installed_package_adds_a_method(register):
    extra = replace(svd.METHOD, name="extra")
    register(extra)
    assert METHODS.get("extra") is extra
    assert set(METHODS.names()) == {
        *NAMES,
        "obs",
        "obs-heads",
        "obs-ov",
        "svd-qk",
        "groupreduce",
        "van-loan",
        "van-loan-kfac",
        "fisher",
        "fisher-heads",
        "extra",
    }
    assert get_methods(["extra", "svd"]) == (extra, svd.METHOD)


def test_a_name_in_use_is_refused(register):
    register(replace(svd.METHOD, version=2))
    with pytest.raises(AutolrError, match=r"of autolr\.methods registers the method name 'svd', which is in use"):
        METHODS.all()


def test_something_else_than_a_method_is_refused(register):
    register("svd")
    with pytest.raises(AutolrError, match=r"extra = package\.module:METHOD of autolr\.methods must be .*, got 'svd'"):
        METHODS.all()


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(UsageError, match=r"unknown method 'drome'; did you mean drone\?"):
        get_methods(["svd", "drome"])


@pytest.mark.parametrize("name", NAMES)
def test_the_table_is_keyed_by_name_and_says_its_source(name):
    method = METHODS.get(name)
    assert method.name == name
    assert method.version >= 1
    assert any(character.isdigit() for character in method.source)


def test_the_shapes_in_the_signatures_are_checked_while_the_tests_run():
    """A vector where a matrix is asked, a wrong number of columns: the annotations are executed, not decoration."""
    with pytest.raises(TypeError, match="weight"):
        svd.decompose(torch.ones(3, dtype=torch.float64), None)
    with pytest.raises(TypeError, match="singular_values"):
        Decomposition(torch.ones(3, 2), torch.ones(2, 2), torch.ones(2, 4))
    with pytest.raises(TypeError):
        Decomposition(torch.ones(3, 2), torch.ones(2), torch.ones(3, 4))
    stats = Sample.of(4, 5).stats
    with pytest.raises(TypeError):
        replace(stats, mean=torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize("name", [method.name for method in METHODS if method.comes_with_form])
def test_a_method_that_comes_with_a_form_is_not_asked_for_by_name(name):
    with pytest.raises(UsageError, match=f"--method {name} .*form"):
        matrix_methods([name])
