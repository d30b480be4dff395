"""The covariance of the sampler's processes: an RBF, a linear part, and a sum of curves of one feature each.

Symbols:
    n, c: points; d: features; r: functions that a curve is made of.
    X (n, d), a (n, d), b (c, d): features, centred on zero.
    lengthscales (d,), rbf, linear, curves, noise: the hyperparameters, all positive.

The covariance of two points is

    ``rbf exp(-½ Σ_j (x_j - x'_j)² / ℓ_j²) + linear (12 / d) x·x' + curves (1 / d) Σ_j exp(-½ (x_j - x'_j)² / λ²)``

with λ half a parameter's range. The factor 12/d makes ``linear`` the prior variance of the linear part over the unit
cube; ``curves`` is the variance of the additive part. What a low-rank model loses is nearly a sum over its layers, each
a curve of its own rank: the additive part learns that from few points in many dimensions (Duvenaud, Nickisch and
Rasmussen 2011, arXiv 1112.4394). Its lengthscale is fixed, so that it is a product of features, as a linear part is.
"""

import math
from dataclasses import dataclass

import numpy as np

from autolr.optimization.sampler.encoding import Array

MIN_NOISE = 1e-4  # as BoTorch's; with less, covariances of near points needed jitter that was larger than this
CURVE_LENGTHSCALE = 0.5  # of a feature, whose range is one


@dataclass(frozen=True)
class Hyperparameters:
    """The positive parameters: ``lengthscales`` (d,), ``rbf``, ``linear``, ``curves``, ``noise``."""

    lengthscales: Array
    rbf: float
    linear: float
    curves: float
    noise: float

    @classmethod
    def from_logs(cls, logs: Array) -> "Hyperparameters":
        """Read them from their logarithms, (d + 4,): lengthscales, rbf, linear, curves, noise above its floor."""
        rbf, linear, curves, noise = np.exp(logs[-4:]).tolist()
        return cls(np.exp(logs[:-4]), rbf, linear, curves, noise + MIN_NOISE)


def unit_parts(a: Array, b: Array) -> tuple[Array, Array]:
    """Return the linear part and the additive part with ``linear`` and ``curves`` at 1, (n, d), (c, d) -> two (n, c).

    No other hyperparameter enters them, so a fit needs them once.
    """
    return (12.0 / a.shape[1]) * (a @ b.T), curve_features(a) @ curve_features(b).T


def rbf_part(a: Array, b: Array, hyper: Hyperparameters) -> Array:
    """Return the RBF part between two sets of points, (n, d), (c, d) -> (n, c)."""
    scaled_a, scaled_b = a / hyper.lengthscales, b / hyper.lengthscales
    squared = (scaled_a**2).sum(1)[:, None] + (scaled_b**2).sum(1)[None, :] - 2.0 * scaled_a @ scaled_b.T
    return np.asarray(hyper.rbf * np.exp(-0.5 * np.maximum(squared, 0.0)))


def covariance(a: Array, b: Array, hyper: Hyperparameters) -> Array:
    """Return the covariance without noise between two sets of points, (n, d), (c, d) -> (n, c)."""
    linear, additive = unit_parts(a, b)
    return rbf_part(a, b, hyper) + hyper.linear * linear + hyper.curves * additive


def variance(X: Array, hyper: Hyperparameters) -> Array:
    """Return the diagonal of the covariance without noise, (n, d) -> (n,)."""
    return np.asarray(hyper.rbf + hyper.curves + hyper.linear * (12.0 / X.shape[1]) * (X**2).sum(axis=1))


def _curve(x: Array, nodes: Array) -> Array:
    """Return the one-dimensional RBF between values and nodes, (...) and (r,) -> (..., r)."""
    return np.asarray(np.exp(-0.5 * ((x[..., None] - nodes) / CURVE_LENGTHSCALE) ** 2))


def _nystroem() -> tuple[Array, Array]:
    """Return nodes over the range of every feature, one-hot ones included, and weights, (10,) and (10, r)."""
    nodes = np.linspace(-0.6, 0.8, 10)
    values, vectors = np.linalg.eigh(_curve(nodes, nodes))
    kept = values > 1e-7
    return nodes, vectors[:, kept] / np.sqrt(values[kept])


_NODES, _WEIGHTS = _nystroem()


def curve_features(X: Array) -> Array:
    """Return features whose products are the additive part (to about 1e-8), (n, d) -> (n, d r)."""
    n, d = X.shape  # there may be no points
    return (_curve(X, _NODES) @ _WEIGHTS).reshape(n, d * _WEIGHTS.shape[1]) / math.sqrt(d)
