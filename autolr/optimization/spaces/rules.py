"""Published rules that allocate ranks from measurements of one layer at a time, for comparison.

Each takes a function that scores one compressed layer alone and one that tells whether a candidate meets the budgets.
Where a publication leaves something open, what was chosen here is said.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import e, log

import numpy as np
from optuna.distributions import BaseDistribution
from scipy.optimize import isotonic_regression

from autolr.errors import BudgetError
from autolr.forms.low_rank import low_rank
from autolr.optimization.sampler.encoding import Params, Point
from autolr.optimization.spaces.grouped import Fits, from_shares, largest_that_fits
from autolr.scores import AGREEMENT, DIVERGENCE
from autolr.types import Candidate, Choice, Unit

Alone = Callable[[str, Choice], Mapping[str, float]]
"""(unit, choice) -> scores of the model with that one layer compressed: divergence and agreement."""
Loss = Callable[[str, int], float]
"""(unit, rank) -> Σ over the calibration tokens of ‖W x − left·right x‖², by the rule's method."""

STRS_SHARES = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
AIMET_SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_MOST_REMOVED = 64.0  # mean share, before it is cut off at 1: then no layer keeps anything
_OF_DENSE = {DIVERGENCE.name: 0.0, AGREEMENT.name: 1.0}
"""What the dense model scores: compared with itself."""
LASER_SHARES = (0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class Layers:
    """What a rule is given.

    Attributes:
        units: by name.
        method: of every layer.
        multiple: ranks are multiples of it.
        alone: scores one layer.
        loss: truncation loss of one layer.
        fits: whether a candidate meets the budgets.
    """

    units: Mapping[str, Unit]
    method: str
    multiple: int
    alone: Alone
    loss: Loss
    fits: Fits

    def candidate(self, shares: Mapping[str, float]) -> Candidate:
        """Return the candidate that keeps these shares of the layers' weights; absent is dense."""
        methods = dict.fromkeys(self.units, self.method)
        return from_shares(self.units, {name: shares.get(name, 1.0) for name in self.units}, methods, self.multiple)

    def scores(self, shares: Sequence[float], score: str) -> dict[str, np.ndarray]:
        """Return unit -> (len(shares),) scores of the layer alone."""
        found = {}
        for name in self.units:
            choices = [self.candidate({name: share}).as_dict().get(name) for share in shares]
            dense = _OF_DENSE[score]
            found[name] = np.array([dense if c is None else self.alone(name, c)[score] for c in choices])
        return found


def asvd_strs(layers: Layers) -> Candidate:
    """Sensitivity-based truncation rank searching of ASVD (Yuan et al. 2023, arXiv 2312.05821).

    Each layer alone is scored at six shares; one threshold for all: a layer takes the smallest share whose divergence
    is below it; the threshold is the lowest that meets the budget. (The publication scores by perplexity.)
    """
    return _threshold(layers, STRS_SHARES, layers.scores(STRS_SHARES, DIVERGENCE.name))


def aimet_greedy(layers: Layers) -> Candidate:
    """Greedy selection of compression ratios in AIMET (Kuzmin et al. 2019, arXiv 1912.09802, section 3.2).

    As :func:`asvd_strs`, by agreement with the dense model's answers, made monotone in the share by isotonic
    regression.
    """
    scores = {
        name: 1.0 - np.asarray(isotonic_regression(values).x)
        for name, values in layers.scores(AIMET_SHARES, AGREEMENT.name).items()
    }
    return _threshold(layers, AIMET_SHARES, scores)


def laser(layers: Layers) -> Candidate:
    """LASER's greedy search (Sharma et al. 2023, arXiv 2312.13558), carried on to a budget.

    Each layer alone is scored at seven shares of its full rank; reductions are taken in the order of their divergence,
    from the least, until the budget is met. (The publication stops when the task's score no longer rises.)
    """
    steps = []
    for name, unit in layers.units.items():
        for share in LASER_SHARES:
            rank = int(share * min(unit.out_features, unit.in_features))
            rank -= rank % layers.multiple
            if rank < unit.break_even:
                choice = low_rank(layers.method, rank)
                steps.append((layers.alone(name, choice)[DIVERGENCE.name], name, choice))
    chosen: dict[str, Choice] = {}
    for _, name, choice in sorted(steps, key=lambda step: (step[0], step[1], -step[2]["rank"])):
        if layers.fits(Candidate.of(chosen)):
            break
        if name not in chosen or choice["rank"] < chosen[name]["rank"]:
            chosen[name] = choice
    return _checked(layers, Candidate.of(chosen))


def svd_llm_v2(layers: Layers) -> Candidate:
    """Heterogeneous compression ratios of SVD-LLM v2 (Wang et al. 2025, arXiv 2503.12340).

    Among the layers of one role the removed share is in proportion to 1 / log(truncation loss), and its mean, before
    shares are cut off at 1, the same for all roles: the least that meets the budget. The printed formula does not say
    what it is where the loss is below e: here it counts as e.
    """

    def at(scale: float) -> Candidate:
        kept, shares = scale - _MOST_REMOVED + 1.0, dict[str, float]()
        for role in {unit.role for unit in layers.units.values()}:
            names = [name for name, unit in layers.units.items() if unit.role == role]
            choices = layers.candidate(dict.fromkeys(names, max(kept, 0.0))).as_dict()
            losses = [layers.loss(name, choices[name]["rank"]) if name in choices else 0.0 for name in names]
            weights = [1.0 / log(max(loss, e)) for loss in losses]
            for name, weight in zip(names, weights, strict=True):
                removed = len(names) * (1.0 - kept) * weight / sum(weights)
                shares[name] = min(max(1.0 - removed, 0.0), 1.0)
        return layers.candidate(shares)

    return largest_that_fits(at, _MOST_REMOVED, layers.fits)


RULES: dict[str, Callable[[Layers], Candidate]] = {
    "asvd-strs": asvd_strs,
    "aimet-greedy": aimet_greedy,
    "laser": laser,
    "svd-llm-v2": svd_llm_v2,
}


@dataclass(frozen=True)
class RuleSpace:
    """One candidate and nothing to search.

    Attributes:
        name: of the rule.
        candidate: what it allocates.
    """

    name: str
    candidate: Candidate

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return no parameter."""
        return {}

    def decode(self, params: Point) -> Candidate:
        """Return the rule's candidate."""
        return self.candidate

    def seeds(self, seed: int, trials: int) -> dict[str, Params]:
        """Return the one point there is."""
        return {self.name: {}}


def _threshold(layers: Layers, shares: Sequence[float], scores: Mapping[str, np.ndarray]) -> Candidate:
    """Return the candidate at the lowest threshold that fits: each layer at its smallest share scored at most that."""

    def at(threshold: float) -> Candidate:
        kept = {}
        for name, values in scores.items():
            below = [share for share, value in zip(shares, values, strict=True) if value <= threshold]
            kept[name] = min(below, default=1.0)
        return layers.candidate(kept)

    thresholds = sorted({float(value) for values in scores.values() for value in values})
    low, high = 0, len(thresholds) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if layers.fits(at(thresholds[middle])) else (middle + 1, high)
    return _checked(layers, at(thresholds[low]))


def _checked(layers: Layers, candidate: Candidate) -> Candidate:
    if not layers.fits(candidate):
        raise BudgetError("the rule does not reach the budgets at the smallest shares it knows; raise the budget")
    return candidate
