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

import numpy as np

from autolr.search.encoding import Array, Mask


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
    finite = values[np.isfinite(values)]
    if not len(finite):
        finite = np.zeros(1)
    low, high = np.quantile(finite, [0.25, 0.75])
    scale = float(high - low) or float(np.abs(finite - np.median(finite)).mean()) or 1.0
    low, high = low - 3.0 * scale, high + 3.0 * scale
    if keep_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    inside = np.clip(values, low, high)
    excess = np.minimum(np.abs(values - inside), 1e300)
    shrink = scale / (scale + excess)
    return inside + np.sign(values - inside) * excess * shrink, shrink**2


def utilities(values: Array, maximize: Mask, stderr: Array | None = None) -> tuple[Array, Array]:
    """Return utilities and their observation variance.

    Args:
        values: (n, m).
        maximize: (m,) of bool, whether an objective is maximised.
        stderr: (n, m) standard errors of the values, where they are known.

    Returns:
        Utilities (n, m) and variances (n, m), both on the scale of the utilities; variances are 0 without ``stderr``.
    """
    columns = [bounded(column) for column in values.T]
    pulled = np.stack([column for column, _ in columns], axis=1)
    slope = np.stack([derivative for _, derivative in columns], axis=1)
    scale = pulled.std(axis=0)
    scale[scale < 1e-12 * np.maximum(np.abs(pulled).max(axis=0), 1e-300)] = 1.0
    sign = np.where(maximize, 1.0, -1.0)
    noise = np.zeros_like(pulled) if stderr is None else (stderr * slope / scale) ** 2
    return sign * (pulled - pulled.mean(axis=0)) / scale, noise


def slack(values: Array) -> Array:
    """Return a constraint's values with outliers pulled in, divided by their root mean square, (n,) -> (n,)."""
    pulled, _ = bounded(values, keep_zero=True)
    pulled = pulled / (float(np.abs(pulled).max()) or 1.0)  # first, so that squares do not overflow
    return pulled / (float(np.sqrt(np.mean(pulled**2))) or 1.0)
