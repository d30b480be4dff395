"""Samples of a finite set with unequal probabilities, each a part of the next larger one, and means from them.

Symbols:
    N: size of the set; n: size of a sample; size (N,): positive, an example's chance is to be in proportion to it.

Sequential Poisson sampling (Ohlsson 1998, Journal of Official Statistics 14(2), 149-162): with one uniform number ``u``
for each example, the sample of n are the n with the lowest ``u / size``. So every sample holds the smaller ones, and
example i is in it with probability close to ``π_i = min(1, τ size_i)``, where ``Σ π_i = n``. Means weigh an example by
``1 / π_i`` (Hájek's estimator).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


def sampling_order(size: Array, seed: int) -> Rows:
    """Return all examples in the order in which samples grow, (N,): the first n are the sample of n.

    Example:
        >>> order = sampling_order(np.array([1.0, 1.0, 1000.0]), seed=0)
        >>> int(order[0]), sorted(order.tolist())
        (2, [0, 1, 2])
    """
    u = np.random.default_rng(seed).random(len(size))
    return np.argsort(u / size, kind="stable")


def inclusion_probabilities(size: Array, n: int) -> Array:
    """Return each example's probability to be in a sample of n, (N,) in (0, 1], with sum n.

    Args:
        size: (N,) positive.
        n: from 1 to N.

    Example:
        >>> inclusion_probabilities(np.array([1.0, 1.0, 2.0, 8.0]), 3).tolist()
        [0.5, 0.5, 1.0, 1.0]
    """
    descending = np.sort(size)[::-1]
    # With the k largest certain, the others share n - k; the right k is the first after which nobody exceeds 1.
    for k in range(n):
        threshold = (n - k) / descending[k:].sum()
        if threshold * descending[k] <= 1.0:
            return np.asarray(np.minimum(1.0, threshold * size))
    return np.ones_like(size)


@dataclass(frozen=True)
class Mean:
    """A mean estimated from a sample.

    Attributes:
        value: the estimate.
        stderr: its standard error as an estimate of the mean over the N examples; 0 when all are in the sample.
        wide_stderr: as an estimate of the mean over the population that the N examples were drawn from.
    """

    value: float
    stderr: float
    wide_stderr: float


def weighted_mean(values: Array, probabilities: Array, total: int) -> Mean:
    """Estimate the mean over all N examples from a sample.

    Args:
        values: (n,) of the sample, n at least 2.
        probabilities: (n,) of the sample's examples.
        total: N.

    Example:
        >>> weighted_mean(np.array([1.0, 3.0]), np.array([1.0, 1.0]), total=2)
        Mean(value=2.0, stderr=0.0, wide_stderr=1.0)
    """
    n, weights = len(values), 1.0 / probabilities
    mean = float((weights * values).sum() / weights.sum())
    squares = (weights * (values - mean)) ** 2 * n / (n - 1) / total**2
    return Mean(mean, float(((1.0 - probabilities) * squares).sum()) ** 0.5, float(squares.sum()) ** 0.5)
