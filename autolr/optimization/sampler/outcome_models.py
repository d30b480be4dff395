"""The models of one proposal: each objective's and each constraint's, fitted or, where the caller can, computed.

Symbols:
    n: trials that teach; c: parameter sets; k: computed outcomes; d: features; m: objectives.
    X (n, d): features of the trials; stderr (n, m).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from autolr.optimization.sampler.encoding import Array, Encoding, Params
from autolr.optimization.sampler.gaussian_process import Process, fit
from autolr.optimization.sampler.history import History
from autolr.optimization.sampler.outcome_transforms import Scale, slack, utilities


@dataclass(frozen=True)
class DeterministicOutcomes:
    """Outcomes that the caller can compute for any parameters, such as the cost of a candidate.

    Attributes:
        compute: parameter sets -> (c, k) outcomes, in the units told to Optuna. It is asked about thousands of sets.
        columns: what each of the k columns is: an objective's index, or a constraint's name.

    Example:
        >>> compute = lambda sets: np.array([[s["r"] / 8, s["r"] / 8 - 0.5] for s in sets])
        >>> DeterministicOutcomes(compute, (1, "cost")).column("cost", [{"r": 8}]).tolist()
        [0.5]
    """

    compute: Callable[[Sequence[Params]], Array]
    columns: tuple[int | str, ...]

    def column(self, outcome: int | str, sets: Sequence[Params]) -> Array:
        """Return one outcome of parameter sets, (c,)."""
        return np.asarray(self.compute(sets)[:, self.columns.index(outcome)], dtype=np.float64)

    def model(self, outcome: int | str, encoding: Encoding, scale: Callable[[Array], Array]) -> "DeterministicModel":
        """Return the model of one outcome; ``scale`` takes its values to the scale of the models."""
        return DeterministicModel(lambda X: scale(self.column(outcome, encoding.decode_all(encoding.points(X)))))


@dataclass(frozen=True)
class DeterministicModel:
    """A process without error: ``values`` maps features (c, d) to outcomes (c,)."""

    values: Callable[[Array], Array]

    def marginal(self, points: Array) -> tuple[Array, Array]:
        """Return the values and a deviation of nearly nothing, (c, d) -> two of (c,)."""
        return self.values(points), np.full(len(points), 1e-5)

    def joint(self, points: Array) -> tuple[Array, Array]:
        """Return the values and a covariance of nearly nothing that can be factored, (u, d) -> (u,) and (u, u)."""
        return self.values(points), np.eye(len(points)) * 1e-8


def objective_models(
    history: History, X: Array, stderr: Array, computed: DeterministicOutcomes | None
) -> tuple[list[Process], Array, Array]:
    """Return the m objectives' models, and what they are fitted to: utilities and variances, two of (n, m)."""
    models: list[Process] = []
    values = history.values()
    y, noise = utilities(values, history.maximize, stderr)
    for j, maximize in enumerate(history.maximize.tolist()):
        if computed and j in computed.columns:
            scale = Scale.of(values[:, j], stderr[:, j], maximize)
            models.append(computed.model(j, history.encoding, scale.utility))
        else:
            models.append(fit(X, y[:, j], noise[:, j]))
    return models, y, noise


def constraint_models(history: History, X: Array, computed: DeterministicOutcomes | None) -> list[Process]:
    """Return a model of each constraint that was ever violated, on a scale of its own that keeps the zero."""
    models: list[Process] = []
    for name, (rows, values) in history.constraints().items():
        if not (values > 0.0).any():
            continue
        if computed and name in computed.columns:
            size = float(np.sqrt(np.mean(values**2)))
            models.append(computed.model(name, history.encoding, partial(np.multiply, 1.0 / size)))
        else:
            models.append(fit(X[rows], slack(values)))
    return models
