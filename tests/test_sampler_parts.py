"""Laws of the sampler's parts: the grid, the outcome transforms, the surrogate, the acquisition."""

import gpytorch
import numpy as np
import pytest
import torch
from botorch.acquisition.multi_objective import logei
from botorch.models import SingleTaskGP
from botorch.models.model_list_gp_regression import ModelListGP
from gpytorch.kernels import AdditiveKernel, LinearKernel, RBFKernel, ScaleKernel
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import LogNormalPrior
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from autolr.optimization.sampler import gaussian_process as surrogate
from autolr.optimization.sampler.acquisition import Acquisition, reference_point
from autolr.optimization.sampler.encoding import Encoding
from autolr.optimization.sampler.kernel import CURVE_LENGTHSCALE, Hyperparameters, curve_features, unit_parts
from autolr.optimization.sampler.maximize import mutate, sobol
from autolr.optimization.sampler.outcome_transforms import bounded, slack, utilities
from autolr.optimization.sampler.posterior import ModelList

SPACE = {
    "int": IntDistribution(2, 9),
    "int_log": IntDistribution(1, 1000, log=True),
    "int_step": IntDistribution(-4, 8, step=3),
    "float": FloatDistribution(-2.0, 3.0),
    "float_log": FloatDistribution(1e-6, 1e2, log=True),
    "float_step": FloatDistribution(-10.2, 10.2, step=0.1),
    "choice": CategoricalDistribution(("svd", "drone", None, 3)),
}


def test_points_of_a_sequence_are_legal_and_come_back():
    """Every point decodes to values the distributions contain, and encodes to itself."""
    encoding = Encoding(SPACE)
    points = sobol(encoding, 200, seed=1)
    params = [encoding.decode(point) for point in points]
    for row in params:
        for name, distribution in SPACE.items():
            assert distribution._contains(distribution.to_internal_repr(row[name])), (name, row[name])
    np.testing.assert_allclose(encoding.encode(params), points, atol=1e-12)
    assert encoding.keys(encoding.encode(params)) == encoding.keys(points)
    assert encoding.features(points).shape == (200, 6 + 4)


def test_every_level_is_as_likely():
    """Startup points use the ends of an integer range as often as its middle."""
    encoding = Encoding({"x": IntDistribution(0, 7)})
    levels = [encoding.decode(point)["x"] for point in sobol(encoding, 64, seed=0)]
    assert np.bincount(levels).tolist() == [8] * 8


def test_a_mutation_moves_few_coordinates_and_stays_on_the_grid():
    """At most the asked number of coordinates change, at least one does where there is room, all on the grid."""
    encoding = Encoding(SPACE)
    rng = np.random.default_rng(0)
    parents = sobol(encoding, 300, seed=2)
    children = mutate(encoding, parents, np.full(300, 2), rng)
    changed = (np.abs(children - parents) > 1e-9).sum(axis=1)
    assert changed.max() <= 2
    assert changed.mean() > 1.5
    np.testing.assert_allclose(encoding.snap(children), children, atol=1e-12)


@pytest.mark.parametrize("outlier", [1e3, 1e12, 1e305, np.inf])
def test_outliers_are_bounded_in_order(outlier):
    """A divergence is drawn to just outside the rest, above every other, and leaves the rest in its proportions."""
    values = np.array([1.0, 2.0, 4.0, 3.0, 5.0, outlier])
    pulled, slope = bounded(values)
    np.testing.assert_array_equal(pulled[:5], values[:5])
    assert 5.0 < pulled[5] < 20.0
    assert (slope[:5] == 1).all()
    assert slope[5] < 0.01


def test_utilities_are_standardised_and_maximised():
    """Mean 0, deviation 1, the sign by direction, the noise on the same scale; a constant objective stays finite."""
    values = np.array([[1.0, 10.0, 3.0], [2.0, 30.0, 3.0], [4.0, 20.0, 3.0]])
    y, noise = utilities(values, np.array([False, True, False]), np.full((3, 3), 0.5))
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(y.std(axis=0), [1, 1, 0], atol=1e-12)
    assert y[:, 0].argmax() == 0
    assert y[:, 1].argmax() == 1
    np.testing.assert_allclose(noise[:, 0], (0.5 / values[:, 0].std()) ** 2)


@pytest.mark.parametrize("values", [[-1.0, 2.0, 3.0], [-5.0, -6.0, np.inf], [0.0, 0.0, 1e300], [100.0, 101.0, -0.5]])
def test_a_constraint_keeps_its_zero(values):
    """What was feasible stays so, what was not does not become so."""
    values = np.array(values)
    assert ((slack(values) <= 0) == (values <= 0)).all()
    assert np.isfinite(slack(values)).all()


def data(n=20, d=5):
    rng = np.random.default_rng(3)
    X = rng.random((n, d)) - 0.5
    y = np.sin(5 * X[:, 0]) + X[:, 1] + 0.1 * rng.standard_normal(n)
    return X, (y - y.mean()) / y.std(), rng.random(n) * 0.05


def gpytorchs(X, y, noise, hyper, mean):
    """The same process as BoTorch's, with GPyTorch's kernels."""
    d = X.shape[1]
    curves = [ScaleKernel(RBFKernel(active_dims=[j])) for j in range(d)]
    kernel = ScaleKernel(RBFKernel(ard_num_dims=d)) + LinearKernel() + AdditiveKernel(*curves)
    column = [torch.from_numpy(values)[:, None] for values in (y, noise + hyper.noise)]
    model = SingleTaskGP(
        torch.from_numpy(X), column[0], train_Yvar=column[1], covar_module=kernel, outcome_transform=None
    ).double()
    rbf, linear = kernel.kernels[:2]
    rbf.outputscale = hyper.rbf
    rbf.base_kernel.lengthscale = torch.from_numpy(hyper.lengthscales)
    linear.variance = hyper.linear * 12.0 / d
    for curve in curves:
        curve.outputscale = hyper.curves / d
        curve.base_kernel.lengthscale = CURVE_LENGTHSCALE
    model.mean_module.constant.data.fill_(mean)
    return model.requires_grad_(requires_grad=False).eval()


def test_posterior_density_is_gpytorchs_and_its_gradient_is_right():
    """The closed form agrees with ExactMarginalLogLikelihood plus priors, and with finite differences."""
    X, y, noise = data()
    units = unit_parts(X, X)
    logs = np.random.default_rng(0).normal(0.0, 0.5, X.shape[1] + 4)
    value, gradient = surrogate.negative_log_posterior(logs, X, y, noise, units)

    hyper = Hyperparameters.from_logs(logs)
    model = gpytorchs(X, y, noise, hyper, surrogate.build(X, y, noise, hyper).mean).train()
    density = ExactMarginalLogLikelihood(model.likelihood, model)(model(*model.train_inputs), model.train_targets)
    location, scale = surrogate._prior(X.shape[1])
    priors = sum(
        float(LogNormalPrior(m, s).log_prob(torch.tensor(np.exp(x))))
        for m, s, x in zip(location, scale, logs, strict=True)
    )
    assert value == pytest.approx(-len(y) * float(density) - priors, rel=1e-5)

    for i in range(len(logs)):
        step = np.eye(len(logs))[i] * 1e-5
        up, down = (surrogate.negative_log_posterior(logs + s, X, y, noise, units)[0] for s in (step, -step))
        assert gradient[i] == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-4)


def test_the_joint_posterior_is_gpytorchs():
    """Two processes at batches that share points, at one batch, and at batches that share none; and its marginals."""
    X, y, noise = data()
    targets = [y, X[:, 1] - y]
    parts = [surrogate.fit(X, values, noise) for values in targets]
    models = [gpytorchs(X, values, noise, p.hyper, p.mean) for p, values in zip(parts, targets, strict=True)]
    points = torch.from_numpy(np.random.default_rng(1).random((4, 6, X.shape[1])) - 0.5)
    points[:, [0, 1, 4]] = points[:1, [0, 1, 4]]
    for at in (points, points[0], points[:, 2:4], points[:, 2:3]):
        with torch.no_grad(), gpytorch.settings.fast_computations(False, False, False):
            ours = ModelList(parts).posterior(at)
            theirs = ModelListGP(*models).posterior(at)
            np.testing.assert_allclose(ours.mean, theirs.mean, atol=1e-6)
            np.testing.assert_allclose(
                ours.distribution.covariance_matrix, theirs.distribution.covariance_matrix, atol=1e-6
            )
    mean, deviation = parts[0].marginal(points[0].numpy())
    joint_mean, joint = parts[0].joint(points[0].numpy())
    np.testing.assert_allclose(mean, joint_mean, atol=1e-9)
    np.testing.assert_allclose(deviation, np.sqrt(np.diag(joint)), rtol=1e-5)


def test_curves_cover_every_feature_there_is():
    """The features' products are the mean of one-dimensional RBFs, at range ends and one-hot columns too."""
    encoding = Encoding(SPACE)
    X = encoding.features(np.concatenate([sobol(encoding, 30, seed=0), encoding.snap(np.eye(len(encoding)))]))
    squared = (X[:, None, :] - X[None, :, :]) ** 2 / CURVE_LENGTHSCALE**2
    np.testing.assert_allclose(curve_features(X) @ curve_features(X).T, np.exp(-0.5 * squared).mean(axis=2), atol=1e-7)


def acquisition(m, pending=None, seed=5):
    X, y, _ = data(24)
    objectives = [surrogate.fit(X, y), surrogate.fit(X, -X.sum(axis=1) * 1.5), surrogate.fit(X, X[:, 2] * 3)][:m]
    return X, Acquisition(
        objectives=objectives,
        constraints=[surrogate.fit(X, slack(X[:, 0] - 0.3))],
        observed=X,
        pending=np.empty((0, 5)) if pending is None else pending,
        reference=np.full(m, -2.5),
        seed=seed,
    )


@pytest.mark.parametrize("m", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_screen_ranks_as_the_acquisition_does(m):
    """The cheap estimate orders candidates nearly as the acquisition proper, so its best are worth judging."""
    _, scores = acquisition(m)
    candidates = np.random.default_rng(8).random((80, 5)) - 0.5
    cheap, exact = scores.screen(candidates), scores(candidates)
    ranks = [np.argsort(np.argsort(values)) for values in (cheap, exact)]
    assert np.corrcoef(ranks)[0, 1] > 0.8


def test_points_that_become_pending_count_as_if_they_had_been():
    """Pending from the start or told later: the same scores."""
    candidates = np.random.default_rng(8).random((30, 5)) - 0.5
    _, told = acquisition(2)
    told.pend(candidates[:2])
    told.pend(candidates[2:3])
    _, known = acquisition(2, pending=candidates[:3])
    np.testing.assert_array_equal(told(candidates), known(candidates))
    np.testing.assert_array_equal(told.screen(candidates), known.screen(candidates))


@pytest.mark.parametrize("m", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_pending_point_is_worth_little(m):
    """Proposing what is already running gains far less than it did before."""
    _, before = acquisition(m)
    candidates = np.random.default_rng(8).random((100, 5)) - 0.5
    running = candidates[np.argsort(-before(candidates))[:2]]
    _, after = acquisition(m, pending=running)
    assert (after(running) < before(running) - 1.0).all()


def test_outcomes_have_base_samples_of_their_own():
    """The draws of two objectives are not correlated by their seed."""
    _, scores = acquisition(2)
    z = scores._exact.base_sampler.base_samples.squeeze()
    n_outcomes = 3
    flat = z.reshape(z.shape[0], -1, n_outcomes)
    for i in range(flat.shape[1]):
        assert abs(float(torch.corrcoef(flat[:, i].T)[0, 1])) < 0.6


def test_no_compiler_is_started():
    """BoTorch's compiled kernel stays unused, and its switch is left as found."""
    before = logei._load_attempted
    acquisition(2)
    assert logei._load_attempted == before
    assert logei._C is None


def test_global_generators_are_left_alone():
    """Neither numpy's nor torch's global generator moves, nor does either change the result."""
    torch.manual_seed(0)
    np.random.seed(0)
    state = torch.get_rng_state()
    X, scores = acquisition(2)
    first = scores(X[:5] + 0.01)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(1)
    np.testing.assert_array_equal(first, acquisition(2)[1](X[:5] + 0.01))


def test_with_one_point_on_the_front_a_dearer_and_better_one_is_still_worth_something():
    utilities = np.array([[1.0, 1.2], [0.2, -1.0], [-1.2, -0.2], [0.5, -1.0]])
    corner = reference_point(utilities, np.ones(4, dtype=bool), 0.1, focus=0)
    assert corner[0] < 1.0
    assert corner[1] < utilities[:, 1].min() - 1.0


def test_a_process_is_asked_about_no_points():
    """So it is where no trial so far is within the constraints, and none is pending."""
    assert curve_features(np.empty((0, 3))).shape == (0, curve_features(np.zeros((1, 3))).shape[1])
    process = surrogate.fit(np.random.default_rng(0).random((6, 3)) - 0.5, np.arange(6.0))
    mean, spread = process.marginal(np.empty((0, 3)))
    assert mean.shape == spread.shape == (0,)
