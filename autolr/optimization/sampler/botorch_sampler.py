"""An Optuna sampler: Gaussian processes and log noisy expected hypervolume improvement on the grid of the parameters.

Symbols:
    n: trials that teach (completed, or stopped with an estimate); p: parameters; m: objectives.
    points (n, p): see :mod:`autolr.optimization.sampler.encoding`.

Randomness is stateless: every draw is a function of (seed, trial number), and the processes are fitted afresh, from the
prior, at every proposal. So a proposal is a function of the seed, the trial's number and what the storage holds: two
processes propose alike, and a study that was killed and resumed goes on exactly as the uninterrupted one.
"""

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from autolr.optimization.sampler.base import IsNew, Sampler
from autolr.optimization.sampler.encoding import Array, Encoding, Mask, Params
from autolr.optimization.sampler.history import STDERR, History, shared_space
from autolr.optimization.sampler.maximize import Admits, SearchSettings, search, sobol
from autolr.optimization.sampler.outcome_models import DeterministicOutcomes, constraint_models, objective_models

if TYPE_CHECKING:
    from autolr.optimization.sampler.acquisition import Acquisition

MOST_TAUGHT = 300
"""Trials that the processes are fitted to: their cost grows with the third power of it, what they learn hardly."""
_EXACT = 0.1  # deviations of the utilities: vaguer estimates of stopped trials do not place the hypervolume's corner
_STARTUP_SPARES = 256  # further points tried when a startup point is already taken


class BoTorchSampler(BaseSampler):
    """Bayesian optimisation of one to three objectives over Float, Int and Categorical parameters.

    The first ``n_startup`` completed trials (enqueued ones count) come from a scrambled Sobol sequence. After them each
    objective, and each constraint that was ever violated, gets a Gaussian process, and the proposal is the grid point
    with the highest log noisy expected hypervolume improvement (with one objective: log noisy expected improvement)
    over the feasible front. Running and enqueued trials count as pending. A stopped trial (pruned, in Optuna's words)
    teaches the estimate in its user attribute :data:`~autolr.optimization.sampler.history.ESTIMATE`, as a noisy
    observation, and then counts as completed. Other pruned trials and failed ones teach nothing; their points are only
    not proposed again.

    Parameters that not all completed trials share (a conditional or changing space) are drawn independently, uniformly;
    so are those of a study's first trial, whose space nobody knows yet.

    Args:
        seed: of everything random.
        n_startup: completed trials before the model is used, at least 1.
        is_new: called with a proposal's parameters (those all trials share) and with the proposals already in its
            batch; False means that the caller already has what they stand for, and another point is looked for. It must
            be a function of its arguments and of the study's trials, or resumed studies differ. When nothing new is
            found the best point is proposed all the same.
        noise_attr: name of a completed trial's user attribute that may hold one standard error for each objective;
            their squares are added to the noise that is inferred. None of them: zero.
        settings: how hard the best point is looked for.
        focus: the objective whose best value is worth most, or None where the whole front is; see
            :func:`~autolr.optimization.sampler.acquisition.reference_point`.
        margin: how far below the worst feasible value the hypervolume's corner lies, as a share of the feasible range.
        computed: objectives and constraints that can be computed for any parameters: they enter as they are and are not
            modelled, which saves evaluations where there are few.

    Raises:
        ValueError: ``n_startup`` is below 1.
    """

    def __init__(
        self,
        seed: int,
        n_startup: int = 16,
        is_new: IsNew | None = None,
        *,
        noise_attr: str = STDERR,
        settings: SearchSettings | None = None,
        focus: int | None = None,
        margin: float = 0.1,
        computed: DeterministicOutcomes | None = None,
    ) -> None:
        if n_startup < 1:
            raise ValueError(f"n_startup must be at least 1, got {n_startup}")
        self._seed = seed
        self._n_startup = n_startup
        self._is_new = is_new
        self._noise_attr = noise_attr
        self._settings = settings or SearchSettings()
        self._margin, self._focus = margin, focus
        self._computed = computed

    def reseed_rng(self) -> None:
        """Do nothing: there is no state to reseed, and trials of parallel workers differ by their numbers."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return what all completed trials share."""
        return shared_space(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Params:
        """Propose values for the shared parameters; see :meth:`propose`."""
        return self.propose(study, trial, search_space, 1)[0]

    def propose(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution], count: int
    ) -> list[Params]:
        """Propose values for the shared parameters, several at once.

        The first proposal is the one :meth:`sample_relative` gives; each later one is chosen with those before it
        pending (greedily, as the acquisition is used). The processes are fitted once, so that a later one costs a
        fraction of the first. During the startup they are the sequence's points for this trial's number and the next.

        Args:
            study: what is known.
            trial: the trial of the first proposal.
            search_space: the parameters to propose values for.
            count: how many proposals, at least 1.

        Returns:
            ``count`` different proposals, none of them taken or refused by ``is_new``; fewer where no more are found,
            but always one.

        Raises:
            ValueError: the study has more than three objectives, or ``count`` is below 1.
        """
        if count < 1:
            raise ValueError(f"at least one proposal must be asked for, got {count}")
        if not search_space:
            return [{}]
        if len(study.directions) > 3:
            raise ValueError(f"at most three objectives are supported, the study has {len(study.directions)}")
        history = History.of(study, trial, search_space).thinned(MOST_TAUGHT)
        model_knows = len(history.done) >= self._n_startup
        points = self._model_points(history, count) if model_knows else self._startup_points(history, count)
        return [history.encoding.decode(point) for point in points]

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw one parameter uniformly, every level equally likely."""
        encoding = Encoding({param_name: param_distribution})
        rng = np.random.default_rng(derive_seed(self._seed, trial.number, param_name))
        return encoding.decode(encoding.spread(rng.random((1, 1)))[0])[param_name]

    def _startup_points(self, history: History, count: int) -> list[Array]:
        """Return the sequence's points of this trial's number and those after it; different ones (p,), at least one."""
        encoding, admits = history.encoding, self._admits(history)
        found: list[Array] = []
        for number in range(history.number, history.number + count):
            own = sobol(encoding, 1, derive_seed(self._seed, "startup"), skip=number)
            spares = sobol(encoding, _STARTUP_SPARES, derive_seed(self._seed, number, "spare"))
            points = np.concatenate([own, spares])
            free = (p for p, key in zip(points, encoding.keys(points), strict=True) if admits(p, key))
            point = next(free, None if found else own[0])
            if point is not None:
                found.append(point)
                admits.take(point)
        return found

    def _model_points(self, history: History, count: int) -> list[Array]:
        """Return the free points with the highest acquisition found, at least one (p,)."""
        seed = derive_seed(self._seed, history.number)
        observed = history.observed()
        with one_thread(), expected_warnings():
            acquisition = self._acquisition(history, observed, seed)
            front = observed[acquisition.baseline or slice(len(observed))]
            points = search(acquisition, self._admits(history), front, self._settings, seed, count)
            if not points:  # nothing is left that is new: the best of all
                points = search(acquisition, Admits(history.encoding), front, self._settings, seed)
        return points or [observed[0]]

    def _acquisition(self, history: History, observed: Array, seed: int) -> "Acquisition":
        """Fit the processes to the completed trials, observed (n, p), and return the acquisition."""
        from autolr.optimization.sampler.acquisition import Acquisition, reference_point

        encoding = history.encoding
        X = encoding.features(observed)
        stderr = history.standard_errors(self._noise_attr)
        objectives, y, noise = objective_models(history, X, stderr, self._computed)
        feasible, exact = history.feasible(), history.complete() | (noise <= _EXACT**2).all(axis=1)
        return Acquisition(
            objectives=objectives,
            constraints=constraint_models(history, X, self._computed),
            observed=X,
            pending=encoding.features(history.pending),
            reference=reference_point(y, _first_not_empty(feasible & exact, feasible), self._margin, self._focus),
            seed=seed,
        )

    def _admits(self, history: History) -> Admits:
        ask, decode = self._is_new, history.encoding.decode
        return Admits(
            encoding=history.encoding,
            taken=history.taken,
            is_new=(lambda point, batch: ask(decode(point), [decode(p) for p in batch])) if ask else None,
            max_checks=self._settings.max_checks,
        )


def _first_not_empty(*masks: Mask) -> Mask:
    """Return the first mask that holds anything, or the last."""
    return next((mask for mask in masks if mask.any()), masks[-1])


def derive_seed(*parts: int | str) -> int:
    """Return 31 bits that are a function of the parts, the same in every process.

    Example:
        >>> derive_seed(0, 7) == derive_seed(0, 7), derive_seed(0, 7) == derive_seed(7, 0)
        (True, False)
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") >> 1


@contextmanager
def expected_warnings() -> Iterator[None]:
    """Silence what is expected: points so near that a covariance needs jitter, and draws without a feasible point."""
    from botorch.exceptions.warnings import BotorchWarning
    from linear_operator.utils.warnings import NumericalWarning

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A not p.d., added jitter", category=NumericalWarning)
        warnings.filterwarnings("ignore", message="Low-rank cholesky updates failed", category=BotorchWarning)
        warnings.filterwarnings("ignore", message="When all training points are infeasible", category=BotorchWarning)
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread (the matrices are small, more threads are slower), and restore the number afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


SAMPLER = Sampler(
    "botorch",
    lambda seed, info: BoTorchSampler(seed, info.n_startup, info.is_new, focus=info.focus, computed=info.computed),
    batches=True,
    stateless=True,
)
