"""What trials returned, brought to a scale on which a Gaussian process is a fair model.

Symbols:
    n: trials; m: objectives.
    values (n, m): as told to Optuna, infinities allowed.
    utilities (n, m): to be maximised, mean 0 and standard deviation 1.
    slack (n,): one constraint, feasible where it is at most 0; the scale changes, the zero does not.

Between the fences ``q25 - 3 IQR`` and ``q75 + 3 IQR`` (Tukey's far-out fences) values are only shifted and scaled.
Beyond them the excess ``e`` becomes ``IQR e / (IQR + e)``: order is kept, so the front is the same front, but a
perplexity of 1e8 after a divergence counts as "just outside" and cannot flatten the rest. A rank transform would be as
robust; it would bend the cost, which is linear in the ranks, and with it the best thing the model knows.
"""

from dataclasses import dataclass, replace

import numpy as np

from autolr.optimization.sampler.encoding import Array, Mask

_MAX_ERROR = 1e4  # deviations of the utilities: says nothing any more, and leaves the covariance well conditioned


@dataclass(frozen=True)
class Fences:
    """Where the pulling begins, and how wide what lies beyond becomes."""

    low: float
    high: float
    scale: float

    @classmethod
    def of(cls, values: Array) -> "Fences":
        """Return the fences of values (n,), n at least 1, of which only the finite ones count."""
        finite = values[np.isfinite(values)]
        if not len(finite):
            finite = np.zeros(1)
        low, high = (float(quartile) for quartile in np.quantile(finite, [0.25, 0.75]))
        scale = (high - low) or float(np.abs(finite - np.median(finite)).mean()) or 1.0
        return cls(low - 3.0 * scale, high + 3.0 * scale, scale)

    def pull(self, values: Array) -> tuple[Array, Array]:
        """Return the values pulled in, (n,), and the derivative of the map at each, (n,)."""
        inside = np.clip(values, self.low, self.high)
        excess = np.minimum(np.abs(values - inside), 1e300)
        shrink = self.scale / (self.scale + excess)
        return inside + np.sign(values - inside) * excess * shrink, shrink**2

    def pull_errors(self, values: Array, stderr: Array) -> Array:
        """Return the errors (n,) of values pulled in; an error that reaches back over the fence is not made smaller."""
        _, slope = self.pull(values)
        beyond = (values - stderr > self.high) | (values + stderr < self.low)
        return np.where(beyond, slope, 1.0) * stderr


def bounded(values: Array, keep_zero: bool = False) -> tuple[Array, Array]:
    """Pull far outliers in, keeping the order.

    Args:
        values: (n,), n at least 1; infinite values are put outside all finite ones.
        keep_zero: keep zero between the fences, so that signs stay.

    Returns:
        The bounded values, (n,), and the derivative of the map at each, (n,).

    Example:
        >>> bounded(np.array([0.0, 1.0, 2.0, 3.0, np.inf]))[0].tolist()
        [0.0, 1.0, 2.0, 3.0, 8.25]
    """
    fences = Fences.of(values)
    if keep_zero:
        fences = replace(fences, low=min(fences.low, 0.0), high=max(fences.high, 0.0))
    return fences.pull(values)


def utilities(values: Array, maximize: Mask, stderr: Array | None = None) -> tuple[Array, Array]:
    """Return utilities and their observation variance.

    Fences, mean and deviation are those of the values whose standard error is at most the interquartile range: a vague
    estimate, however far out, moves no other value.

    Args:
        values: (n, m).
        maximize: (m,) of bool, whether an objective is maximised.
        stderr: (n, m) standard errors of the values, where they are known.

    Returns:
        Utilities (n, m) and variances (n, m), both on the scale of the utilities; variances are 0 without ``stderr``.
    """
    errors = np.zeros_like(values) if stderr is None else np.minimum(stderr, 1e300)
    rows = zip(values.T, errors.T, maximize.tolist(), strict=True)
    columns = [(Scale.of(v, e, up), v, e) for v, e, up in rows]
    y = np.stack([scale.utility(v) for scale, v, _ in columns], axis=1)
    return y, np.stack([scale.variance(v, e) for scale, v, e in columns], axis=1)


@dataclass(frozen=True)
class Scale:
    """The map from one objective's values to utilities."""

    fences: Fences
    center: float
    spread: float  # negative where the objective is minimised

    @classmethod
    def of(cls, values: Array, stderr: Array, maximize: bool) -> "Scale":
        """Return the map that values (n,) with standard errors (n,) define; see :func:`utilities`."""
        clear = stderr <= Fences.of(values).scale
        clear = clear if clear.any() else ~clear
        fences = Fences.of(values[clear])
        pulled, _ = fences.pull(values[clear])
        spread = float(pulled.std())
        if spread < 1e-12 * max(float(np.abs(pulled).max()), 1e-300):
            spread = 1.0
        return cls(fences, float(pulled.mean()), spread if maximize else -spread)

    def utility(self, values: Array) -> Array:
        """Return utilities, (n,) -> (n,)."""
        return (self.fences.pull(values)[0] - self.center) / self.spread

    def variance(self, values: Array, stderr: Array) -> Array:
        """Return the variances of the utilities of values with standard errors, two of (n,) -> (n,)."""
        return np.minimum(self.fences.pull_errors(values, stderr) / abs(self.spread), _MAX_ERROR) ** 2


def slack(values: Array) -> Array:
    """Return a constraint's values with outliers pulled in, divided by their root mean square, (n,) -> (n,)."""
    pulled, _ = bounded(values, keep_zero=True)
    pulled = pulled / (float(np.abs(pulled).max()) or 1.0)  # first, so that squares do not overflow
    return pulled / (float(np.sqrt(np.mean(pulled**2))) or 1.0)
