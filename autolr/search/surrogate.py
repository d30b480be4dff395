"""A BoTorch Gaussian process with a linear and an RBF part, fitted to the maximum of its posterior in milliseconds.

Symbols:
    n: observations; d: features.
    X (n, d): features of the observations, centred on zero.
    y (n,): observations, standardised.
    noise (n,): known observation variances; the inferred variance ``s`` is added to them.
    lengthscales (d,), rbf, linear, s: the hyperparameters, all positive.

The covariance of two points is ``rbf exp(-½ Σ_j (x_j - x'_j)² / ℓ_j²) + linear (12 / d) x·x'`` and the mean a constant,
set to its generalised least squares value. The factor 12/d makes ``linear`` the prior variance of the linear part over
the unit cube. The prior of the lengthscales grows with √d, as does BoTorch's (Hvarfner, Hellsten and Nardi 2024, arXiv
2402.02229); the noise prior is BoTorch's too.

The model is a ``SingleTaskGP``; only its hyperparameters are found here, because the covariance is small and evaluated
often: with the gradient in closed form a fit takes 5 to 60 ms where ``fit_gpytorch_mll`` takes 0.2 to 1.4 s (60
observations in 12 dimensions, 200 in 24), and a proposal must not cost more than the trial it proposes. The tests hold
the likelihood and its gradient against GPyTorch's.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from botorch.models import SingleTaskGP
from gpytorch.kernels import LinearKernel, RBFKernel, ScaleKernel
from scipy.linalg import cho_solve, cholesky, lapack, solve_triangular
from scipy.optimize import minimize

from autolr.search.encoding import Array

_NOISE = (-4.0, 1.0)  # log-normal priors: (location, scale) of the logarithm
_RBF = (0.0, 1.0)
_LINEAR = (0.0, 1.0)
_MIN_NOISE = 1e-4  # as BoTorch's; with less, covariances of near points needed jitter that was larger than this
_MAX_STEPS = 50


def _lengthscale_prior(d: int) -> tuple[float, float]:
    return math.sqrt(2.0) + 0.5 * math.log(d), math.sqrt(3.0)


@dataclass(frozen=True)
class Hyperparameters:
    """The positive parameters of the covariance: ``lengthscales`` (d,), ``rbf``, ``linear``, ``noise``."""

    lengthscales: Array
    rbf: float
    linear: float
    noise: float

    @classmethod
    def from_logs(cls, logs: Array) -> "Hyperparameters":
        """Read them from their logarithms, (d + 3,): lengthscales, rbf, linear, noise above its floor."""
        values = np.exp(logs)
        return cls(values[:-3], float(values[-3]), float(values[-2]), float(values[-1]) + _MIN_NOISE)


def covariance(a: Array, b: Array, hyper: Hyperparameters) -> tuple[Array, Array]:
    """Return the RBF part and the linear part between two sets of points, (n, d) and (c, d) -> two of (n, c)."""
    scaled_a, scaled_b = a / hyper.lengthscales, b / hyper.lengthscales
    squared = (scaled_a**2).sum(1)[:, None] + (scaled_b**2).sum(1)[None, :] - 2.0 * scaled_a @ scaled_b.T
    rbf = hyper.rbf * np.exp(-0.5 * np.maximum(squared, 0.0))
    return rbf, hyper.linear * (12.0 / a.shape[1]) * (a @ b.T)


def _gls_mean(inverse: Array, y: Array) -> float:
    weights = inverse.sum(axis=0)
    return float(weights @ y / weights.sum())


def negative_log_posterior(logs: Array, X: Array, y: Array, noise: Array) -> tuple[float, Array]:
    """Return the objective of the fit and its gradient.

    The log marginal likelihood with the mean profiled out, plus the log-normal priors' log densities, negated.

    Args:
        logs: (d + 3,) as :meth:`Hyperparameters.from_logs` reads them.
        X: (n, d).
        y: (n,).
        noise: (n,) known variances.

    Returns:
        The value and the gradient by ``logs``, (d + 3,).
    """
    n, d = X.shape
    hyper = Hyperparameters.from_logs(logs)
    rbf, linear = covariance(X, X, hyper)
    K = rbf + linear
    K[np.diag_indices(n)] += hyper.noise + noise
    factor, info = lapack.dpotrf(K, lower=1)
    if info:
        return 1e10, np.zeros_like(logs)
    inverse, _ = lapack.dpotri(factor, lower=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    residual = y - _gls_mean(inverse, y)
    alpha = inverse @ residual
    value = 0.5 * residual @ alpha + np.log(np.diag(factor)).sum() + 0.5 * n * math.log(2.0 * math.pi)

    weights = 0.5 * (inverse - np.outer(alpha, alpha))  # of the derivative of K
    by_rbf = weights * rbf
    gradient = np.empty_like(logs)
    # Σ_ab M_ab (x_aj - x_bj)² = 2 Σ_a x_aj² Σ_b M_ab - 2 x_jᵀ M x_j
    spread = 2.0 * ((X**2).T @ by_rbf.sum(1) - ((by_rbf @ X) * X).sum(0))
    gradient[:d] = spread / hyper.lengthscales**2
    gradient[d] = by_rbf.sum()
    gradient[d + 1] = (weights * linear).sum()
    gradient[d + 2] = np.trace(weights) * (hyper.noise - _MIN_NOISE)

    location, scale = _prior(d)
    z = (logs - location) / scale
    value += float((0.5 * z**2 + logs).sum() + np.log(scale).sum() + 0.5 * len(logs) * math.log(2.0 * math.pi))
    return float(value), gradient + z / scale + 1.0


def _prior(d: int) -> tuple[Array, Array]:
    """Return location and scale of the logarithms' normal priors, two of (d + 3,)."""
    rows = [_lengthscale_prior(d)] * d + [_RBF, _LINEAR, _NOISE]
    location, scale = np.array(rows).T
    return location, scale


def optimum(X: Array, y: Array, noise: Array) -> Hyperparameters:
    """Return the hyperparameters of the highest posterior density.

    Every fit starts at one point of the prior and takes at most fifty L-BFGS steps: the result is a function of the
    data alone, which is what lets a resumed study go on exactly as an uninterrupted one.

    Args:
        X: (n, d), centred on zero, n at least 1.
        y: (n,), standardised.
        noise: (n,) known variances.
    """
    location, scale = _prior(X.shape[1])
    start = location - scale**2
    start[:-3] = location[:-3]  # heuristic: the mode of a lengthscale is far too short for a start, its median is not
    found = minimize(
        negative_log_posterior,
        start,
        args=(X, y, noise),
        jac=True,
        method="L-BFGS-B",
        bounds=[(math.log(0.025), math.log(1e3))] * X.shape[1] + [(-12.0, 8.0)] * 3,
        options={"maxiter": _MAX_STEPS},
    )
    return Hyperparameters.from_logs(found.x)


@dataclass(frozen=True)
class Surrogate:
    """A fitted process: BoTorch's model, and what its marginal posterior needs.

    ``marginal`` gives what ``model.posterior`` does at single points, a twentieth of the time for a thousand of them.

    Attributes:
        model: the conditioned process, in evaluation mode.
        X: (n, d).
        hyper: its hyperparameters.
        mean: its constant mean.
        factor: (n, n) lower Cholesky factor L of the covariance K of the observations.
        alpha: (n,) ``K⁻¹ (y - mean)``.
    """

    model: SingleTaskGP
    X: Array
    hyper: Hyperparameters
    mean: float
    factor: Array
    alpha: Array

    def marginal(self, points: Array) -> tuple[Array, Array]:
        """Return the posterior mean and standard deviation at each point, (c, d) -> two of (c,)."""
        cross = np.add(*covariance(self.X, points, self.hyper))
        explained = solve_triangular(self.factor, cross, lower=True, check_finite=False)
        prior = self.hyper.rbf + self.hyper.linear * (12.0 / points.shape[1]) * (points**2).sum(axis=1)
        variance = np.maximum(prior - (explained**2).sum(axis=0), 1e-12)
        return self.mean + cross.T @ self.alpha, np.sqrt(variance)

    def joint(self, points: Array) -> tuple[Array, Array]:
        """Return the joint posterior's mean and covariance, (u, d) -> (u,) and (u, u)."""
        cross = np.add(*covariance(self.X, points, self.hyper))
        explained = solve_triangular(self.factor, cross, lower=True, check_finite=False)
        prior = np.add(*covariance(points, points, self.hyper))
        return self.mean + cross.T @ self.alpha, prior - explained.T @ explained


def build(X: Array, y: Array, noise: Array, hyper: Hyperparameters) -> Surrogate:
    """Return the process with these hyperparameters, conditioned on the observations."""
    K = np.add(*covariance(X, X, hyper)) + np.diag(noise + hyper.noise)
    factor = cholesky(K, lower=True)
    ones = cho_solve((factor, True), np.ones(len(y)))
    mean = float(ones @ y / ones.sum())
    return Surrogate(
        model=_botorch_model(X, y, noise + hyper.noise, hyper, mean),
        X=X,
        hyper=hyper,
        mean=mean,
        factor=factor,
        alpha=cho_solve((factor, True), y - mean),
    )


def _botorch_model(X: Array, y: Array, variance: Array, hyper: Hyperparameters, mean: float) -> SingleTaskGP:
    kernel = ScaleKernel(RBFKernel(ard_num_dims=X.shape[1])) + LinearKernel()
    column = [torch.from_numpy(values)[:, None] for values in (y, variance)]
    model = SingleTaskGP(
        torch.from_numpy(X), column[0], train_Yvar=column[1], covar_module=kernel, outcome_transform=None
    ).double()
    rbf, linear = kernel.kernels
    rbf.outputscale = hyper.rbf
    rbf.base_kernel.lengthscale = torch.from_numpy(hyper.lengthscales)
    linear.variance = hyper.linear * 12.0 / X.shape[1]
    model.mean_module.constant.data.fill_(mean)
    model.requires_grad_(requires_grad=False)
    return model.eval()


def fit(X: Array, y: Array, noise: Array | None = None) -> Surrogate:
    """Fit the hyperparameters to the observations and condition on them; see :func:`optimum` for the arguments."""
    known = np.zeros(len(y)) if noise is None else noise
    return build(X, y, known, optimum(X, y, known))
