"""An Optuna sampler: Gaussian processes and log noisy expected hypervolume improvement on the grid of the parameters.

Symbols:
    n: finished trials the model is built on; p: parameters; m: objectives; points (n, p): see
    :mod:`autolr.search.encoding`.

Randomness is stateless: every draw is a function of (seed, trial number), and the model is refitted from the prior at every
proposal, so a proposal is a function of the seed, the trial's number and what the storage holds. Two processes propose
alike, and a study that was killed and resumed goes on exactly as the uninterrupted one.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import intersection_search_space
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autolr.search.candidates import Pool, SearchSettings, search, sobol
from autolr.search.encoding import Array, Encoding
from autolr.search.outcomes import slack, utilities

IsNew = Callable[[dict[str, Any]], bool]
_STARTUP_SPARES = 256  # further points tried when a startup point is already taken


class BoTorchSampler(BaseSampler):
    """Bayesian optimisation of one to three objectives over Float, Int and Categorical parameters.

    The first ``n_startup`` finished trials (enqueued ones count) come from a scrambled Sobol sequence. After them each objective and
    each constraint that was ever violated gets a Gaussian process, and the proposal is the grid point with the highest log
    noisy expected hypervolume improvement (noisy expected improvement with one objective) times the probability of being
    feasible. Running and enqueued trials count as pending; failed and pruned ones are only not proposed again.

    Parameters that not all finished trials share (a conditional or changing space) are sampled independently, uniformly.

    Args:
        seed: of everything random.
        n_startup: finished trials before the model is used, at least 1.
        is_new: called with a proposal's parameters (those all trials share); False means that the caller already has what they
            stand for, and another is looked for. When nothing new is found the best point is proposed all the same.
        noise_attr: name of a trial's user attribute that holds one standard error for each objective; without it the noise is
            inferred alone.
        settings: how hard the best candidate is looked for.
    """

    def __init__(
        self,
        seed: int,
        n_startup: int = 16,
        is_new: IsNew | None = None,
        noise_attr: str | None = None,
        settings: SearchSettings | None = None,
    ) -> None:
        if n_startup < 1:
            raise ValueError(f"n_startup must be at least 1, got {n_startup}")
        self._seed = seed
        self._n_startup = n_startup
        self._is_new = is_new
        self._noise_attr = noise_attr
        self._settings = settings or SearchSettings()

    def reseed_rng(self) -> None:
        """Do nothing: there is no state to reseed, and trials of parallel workers differ by their numbers."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return what all completed trials share; before the first completed one, what all others share."""
        trials = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        space = intersection_search_space(trials)
        if not any(t.state == TrialState.COMPLETE for t in trials):
            space = _shared([t.distributions for t in trials if t.distributions])
        return {name: distribution for name, distribution in space.items() if not distribution.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose values for the shared parameters."""
        if not search_space:
            return {}
        if len(study.directions) > 3:
            raise ValueError(f"at most three objectives are supported, the study has {len(study.directions)}")
        encoding = Encoding(search_space)
        trials = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        done = [t for t in trials if t.state == TrialState.COMPLETE and _holds(t.params, search_space)]
        seed = derive_seed(self._seed, trial.number)
        if len(done) < self._n_startup:
            point = self._startup_point(encoding, trials, trial.number, search_space)
        else:
            point = self._model_point(encoding, study, trials, done, seed, search_space)
        return encoding.decode(point)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw one parameter uniformly, every level equally likely."""
        encoding = Encoding({param_name: param_distribution})
        rng = np.random.default_rng(derive_seed(self._seed, trial.number, param_name))
        return encoding.decode(encoding.spread(rng.random((1, 1)))[0])[param_name]

    def _startup_point(
        self, encoding: Encoding, trials: Sequence[FrozenTrial], number: int, space: Mapping[str, BaseDistribution]
    ) -> Array:
        """Return the sequence's point of this number, or the next admissible one of a sequence of its own."""
        taken = set(encoding.keys(encoding.encode(_known(trials, space))))
        first = sobol(encoding, 1, derive_seed(self._seed, "startup"), skip=number)
        points = np.concatenate([first, sobol(encoding, _STARTUP_SPARES, derive_seed(self._seed, number, "spare"))])
        for point, key in zip(points, encoding.keys(points), strict=True):
            if key not in taken and self._admits(encoding, point):
                return point
        return points[0]

    def _model_point(
        self,
        encoding: Encoding,
        study: Study,
        trials: Sequence[FrozenTrial],
        done: Sequence[FrozenTrial],
        seed: int,
        space: Mapping[str, BaseDistribution],
    ) -> Array:
        """Return the grid point with the highest acquisition."""
        with one_thread():
            observed = encoding.encode([t.params for t in done])
            pending = encoding.encode(_known([t for t in trials if t.state in _PENDING], space))
            points = np.concatenate([observed, pending])
            maximize = np.array([direction == StudyDirection.MAXIMIZE for direction in study.directions])
            acquisition = self._acquisition(encoding, done, maximize, points, seed)
            front = points[acquisition.baseline]
            taken = set(encoding.keys(encoding.encode(_known(trials, space))))
            for known in (taken, set[bytes]()):
                pool = Pool(
                    encoding, acquisition, known, lambda p: self._admits(encoding, p), self._settings.max_checks
                )
                point = search(pool, front, self._settings, seed)
                if point is not None:
                    return point
            return pool.points[0]

    def _acquisition(
        self, encoding: Encoding, done: Sequence[FrozenTrial], maximize: Array, points: Array, seed: int
    ) -> Any:
        """Fit the processes to the finished trials and return the acquisition."""
        from autolr.search.acquisition import Acquisition, reference_point
        from autolr.search.gp import fit

        features = encoding.features(encoding.encode([t.params for t in done]))
        y, noise = utilities(np.array([t.values for t in done]), maximize, self._standard_errors(done))
        objectives = [fit(features, y[:, j], noise[:, j]) for j in range(y.shape[1])]
        constraints = []
        for name in sorted({name for t in done for name in t.constraints}):
            rows = np.array([i for i, t in enumerate(done) if name in t.constraints])
            values = np.array([done[i].constraints[name] for i in rows])
            if (values > 0).any():
                constraints.append(fit(features[rows], slack(values)))
        feasible = np.array([all(value <= 0 for value in t.constraints.values()) for t in done])
        reference = reference_point(y, feasible)
        return Acquisition(objectives, constraints, encoding.features(points), reference, seed)

    def _standard_errors(self, done: Sequence[FrozenTrial]) -> Array | None:
        if self._noise_attr is None:
            return None
        m = len(done[0].values)
        return np.array([t.user_attrs.get(self._noise_attr, [0.0] * m) for t in done], dtype=np.float64)

    def _admits(self, encoding: Encoding, point: Array) -> bool:
        return self._is_new is None or self._is_new(encoding.decode(point))


_PENDING = (TrialState.RUNNING, TrialState.WAITING)


def derive_seed(*parts: int | str) -> int:
    """Return 31 bits that are a function of the parts, the same in every process.

    Example:
        >>> derive_seed(0, 7) == derive_seed(0, 7), derive_seed(0, 7) == derive_seed(7, 0)
        (True, False)
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") >> 1


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: the matrices are small, and more threads were slower; restored afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _params(trial: FrozenTrial) -> Mapping[str, Any]:
    """Return a trial's parameters; an enqueued trial's are in its system attributes."""
    if trial.state in _PENDING:
        return {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    return trial.params


def _holds(params: Mapping[str, Any], space: Mapping[str, BaseDistribution]) -> bool:
    """Return whether the parameters give every one of the space a value it can take."""
    return all(
        name in params and distribution._contains(distribution.to_internal_repr(params[name]))
        for name, distribution in space.items()
    )


def _known(trials: Sequence[FrozenTrial], space: Mapping[str, BaseDistribution]) -> list[Mapping[str, Any]]:
    """Return the parameters of the trials that lie in the space, whatever became of them."""
    return [params for params in map(_params, trials) if _holds(params, space)]


def _shared(spaces: Sequence[Mapping[str, BaseDistribution]]) -> dict[str, BaseDistribution]:
    """Return the parameters all spaces have with equal distributions, sorted by name."""
    if not spaces:
        return {}
    first, *rest = spaces
    return {name: first[name] for name in sorted(first) if all(space.get(name) == first[name] for space in rest)}
