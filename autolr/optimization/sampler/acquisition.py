"""Log noisy expected hypervolume improvement, and a cheap screen that decides which candidates are worth it.

Symbols:
    m: objectives, 1 to 3, maximised; g: constraints, feasible at 0 and below.
    outcomes: the m objectives, then the g constraints, each a Gaussian process of its own in one ``ModelList`` model.
    n: observed points; b: baseline, those of them that may be on the front; q: pending points; c: candidates.
    d: features.
    S: Monte Carlo samples; k: cells of the undominated part of the objective space.

The acquisition is BoTorch's ``qLogNoisyExpectedHypervolumeImprovement`` (Daulton, Balandat and Bakshy 2021, arXiv
2105.08195; Ament et al. 2023, arXiv 2310.20708), with one objective ``qLogNoisyExpectedImprovement``, or
``qLogProbabilityOfFeasibility`` until a point is feasible. The screen costs a tenth: expected improvement over the
front of the posterior *means*, by a few fixed draws from the candidate's marginal posterior, and the probability of
being feasible. Pending points count as if they had met their means there, and are integrated over in the acquisition.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from botorch.acquisition.logei import qLogNoisyExpectedImprovement, qLogProbabilityOfFeasibility
from botorch.acquisition.multi_objective import logei
from botorch.acquisition.multi_objective.objective import IdentityMCMultiOutputObjective
from botorch.acquisition.objective import GenericMCObjective
from botorch.sampling.normal import SobolQMCNormalSampler
from botorch.utils.multi_objective.box_decompositions.non_dominated import FastNondominatedPartitioning
from botorch.utils.safe_math import fatplus
from botorch.utils.sampling import draw_sobol_normal_samples
from torch import Tensor

from autolr.optimization.sampler.encoding import Array, Mask
from autolr.optimization.sampler.gaussian_process import Process
from autolr.optimization.sampler.posterior import ModelList
from autolr.pareto import non_dominated

N_SAMPLES = (64, 64, 16)  # by the number of objectives: with three, the boxes of one draw take 30 ms
_SCREEN_SAMPLES = 16
_BATCH = 256  # candidates per posterior: keeps the largest tensor within a few MB
FOCUS_MARGIN = 5.0  # ranges: improving the best quality is then worth about five times as much as lowering the cost
_BASELINE = 64  # most points kept in the baseline; with 32, long fronts lost points that were then looked for again


class Acquisition:
    """What one proposal is decided by: built once, then called on batches of candidates.

    Args:
        objectives: m processes of utilities.
        constraints: g processes of slacks.
        observed: (n, d) features of what was observed.
        pending: (q, d) features of what is pending.
        reference: (m,) the reference point, below every utility worth having.
        seed: of the base samples.

    Attributes:
        baseline: b indices into ``observed``; none when no point is likely to be feasible.
    """

    def __init__(
        self,
        *,
        objectives: Sequence[Process],
        constraints: Sequence[Process],
        observed: Array,
        pending: Array,
        reference: Array,
        seed: int,
    ) -> None:
        self._m, self._g = len(objectives), len(constraints)
        self._surrogates = [*objectives, *constraints]
        self._model = ModelList(self._surrogates)
        X, self._reference, self._seed = torch.from_numpy(observed), torch.from_numpy(reference), seed
        with torch.no_grad():
            mean, deviation = self._marginal(X)
            self.baseline = self._contenders(mean, deviation)
            self._z = draw_sobol_normal_samples(self._m, _SCREEN_SAMPLES, dtype=torch.float64, seed=seed)
        self._X_baseline, self._pending = X[self.baseline], X[:0]
        self.pend(pending)

    def pend(self, points: Array) -> None:
        """Count points as pending from now on, besides those that are; (q, d)."""
        self._pending = torch.cat([self._pending, torch.from_numpy(points)])
        with torch.no_grad():
            mean, _ = self._marginal(torch.cat([self._X_baseline, self._pending]))
            self._cells = self._undominated(mean, self._reference)
            self._exact = self._build(self._X_baseline, self._pending, self._reference, self._seed)

    def screen(self, candidates: Array) -> Array:
        """Return the logarithm of the cheap estimate, (c, d) -> (c,)."""
        with torch.no_grad():
            return self._batched(candidates, self._screen)

    def __call__(self, candidates: Array) -> Array:
        """Return the acquisition, (c, d) -> (c,)."""
        with torch.no_grad():
            return self._batched(candidates, lambda X: self._exact(X.unsqueeze(1)))

    @staticmethod
    def _batched(candidates: Array, score: Callable[[Tensor], Tensor]) -> Array:
        starts = range(0, len(candidates), _BATCH)
        parts = [score(torch.from_numpy(candidates[i : i + _BATCH])).numpy() for i in starts]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _marginal(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of every outcome, (c, d) -> two of (c, m + g)."""
        pairs = [surrogate.marginal(X.numpy()) for surrogate in self._surrogates]
        mean, deviation = (torch.from_numpy(np.stack(columns, axis=1)) for columns in zip(*pairs, strict=True))
        return mean, deviation

    def _contenders(self, mean: Tensor, deviation: Tensor) -> list[int]:
        """Return the points that may be on the front: two deviations up, not dominated by the others' means.

        Args:
            mean: (n, m + g).
            deviation: (n, m + g).
        """
        m = self._m
        possible = ((mean - 2.0 * deviation)[:, m:] <= 0.0).all(dim=1)
        likely = (mean[:, m:] <= 0.0).all(dim=1)
        best = mean[likely, :m]
        hopeful = mean[:, :m] + 2.0 * deviation[:, :m]
        beaten = (best[None] > hopeful[:, None]).all(dim=2).any(dim=1)
        index = (possible & ~beaten).nonzero()[:, 0]
        # the points whose means are beaten by the fewest others come first
        worse = (best[None] > mean[index][:, None, :m]).all(dim=2).sum(dim=1)
        return [int(i) for i in index[worse.argsort(stable=True)][:_BASELINE]]

    def _has_feasible(self, X: Tensor) -> bool:
        """Return whether the constraints' means at some point (b, d) are all feasible."""
        mean, _ = self._marginal(X)
        return bool((mean[:, self._m :] <= 0.0).all(dim=1).any())

    def _undominated(self, mean: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Return lower and upper corners of the cells above the baseline's means (b, m + g), two of (k, m)."""
        feasible = mean[(mean[:, self._m :] <= 0.0).all(dim=1), : self._m]
        above = feasible[(feasible > reference).all(dim=1)]
        if self._m == 1 or not len(above):
            lower = above.amax(dim=0, keepdim=True) if len(above) else reference[None]
            return lower, torch.full_like(lower, 1e10)
        lower, upper = FastNondominatedPartitioning(reference, above).get_hypercell_bounds()
        return lower, upper.clamp_max(1e10)

    def _screen(self, X: Tensor) -> Tensor:
        mean, deviation = self._marginal(X)
        m = self._m
        draws = mean[:, :m] + self._z[:, None] * deviation[:, :m]  # (S, c, m)
        lower, upper = self._cells
        sides = torch.minimum(fatplus(draws[:, :, None] - lower, tau=1e-3), upper - lower)  # (S, c, k, m)
        score = sides.prod(dim=3).sum(dim=2).mean(dim=0).clamp_min(1e-300).log()
        probability: Tensor = torch.special.log_ndtr(-mean[:, m:] / deviation[:, m:]).sum(dim=1)
        return score + probability

    def _build(self, baseline: Tensor, pending: Tensor, reference: Tensor, seed: int) -> Callable[[Tensor], Tensor]:
        """Return BoTorch's acquisition of ``X`` (c, 1, d)."""
        m = self._m
        # One sampler for the joint posterior: a Sobol dimension of its own for every outcome. (Samplers made for single
        # outcomes with one seed would draw the same numbers for each and correlate them perfectly.)
        sampler = SobolQMCNormalSampler(torch.Size([N_SAMPLES[m - 1]]), seed=seed)
        constraints = [_outcome(i) for i in range(m, m + self._g)] or None
        X_pending = pending if len(pending) else None
        # prune_baseline stays off: BoTorch's pruning draws from the global generator
        if m == 1 and constraints and not self._has_feasible(baseline):
            return qLogProbabilityOfFeasibility(self._model, constraints, sampler=sampler, X_pending=X_pending)
        if m == 1:
            return qLogNoisyExpectedImprovement(
                self._model,
                baseline,
                sampler=sampler,
                objective=GenericMCObjective(_first_outcome),
                constraints=constraints,
                X_pending=X_pending,
                prune_baseline=False,
            )
        with _no_compilation():
            return logei.qLogNoisyExpectedHypervolumeImprovement(
                self._model,
                reference,
                baseline,
                sampler=sampler,
                objective=IdentityMCMultiOutputObjective(list(range(m))),
                constraints=constraints,
                X_pending=X_pending,
                prune_baseline=False,
            )


def _first_outcome(samples: Tensor, X: Tensor | None = None) -> Tensor:
    return samples[..., 0]


def _outcome(outcome: int) -> Callable[[Tensor], Tensor]:
    return lambda samples: samples[..., outcome]


@contextmanager
def _no_compilation() -> Iterator[None]:
    """Keep BoTorch from compiling its C++ kernel on first use.

    That takes several seconds, needs a compiler, and makes the last digits depend on whether there is one; killed
    half-way, it leaves a lock file on which later processes wait.
    """
    before = logei._load_attempted
    logei._load_attempted = True
    try:
        yield
    finally:
        logei._load_attempted = before


def reference_point(utilities: Array, feasible: Mask, margin: float = 0.1, focus: int | None = None) -> Array:
    """Return the corner below which a utility is worth nothing: a share of the range below the worst feasible value.

    ``infer_reference_point`` looks at the front alone. A front that has not found its ends yet then draws the corner so
    close that finding them is worth little: measured, 0.92 instead of 0.93 of the attainable hypervolume, and 0.88
    instead of 0.92 on the hardest problem.

    Where one objective is in focus (the quality, at a budget), its best value is worth most: the corner is the front's
    worst value in it, and ``FOCUS_MARGIN`` ranges below the worst feasible value in every other.

    Args:
        utilities: (n, m).
        feasible: (n,) of bool; when none is, all count.
        margin: the share. The larger it is, the more an end of the front is worth beside its middle.
        focus: the objective in focus.

    Returns:
        (m,).
    """
    counted = utilities[feasible] if feasible.any() else utilities
    if focus is None:
        low, high = counted.min(axis=0), counted.max(axis=0)
        return np.asarray(low - np.maximum(margin * (high - low), 1e-3))
    front = counted[non_dominated((-counted).tolist())]
    in_focus = np.arange(counted.shape[1]) == focus
    low = np.where(in_focus, front.min(axis=0), counted.min(axis=0))
    span = np.where(in_focus, margin * (front.max(axis=0) - low), FOCUS_MARGIN * (counted.max(axis=0) - low))
    return np.asarray(low - np.maximum(span, 1e-3))
