"""Rank allocation with a known optimum: saturating score curves of hidden weight, a linear cost, a cost constraint.

Symbols:
    L: layers; R: the largest rank; rank vector r (L,) of integers in [0, R].
    Cost: ``Σ_i a_i r_i / Σ_i a_i R`` with small integer prices a_i.
    Loss: ``1 - exp(-2 Σ_i w_i exp(-k_i r_i / R) )``, w_i the hidden weights (they sum to 1, log-normal, so few layers
        matter).
The loss is a monotone function of a sum over layers, so the cheapest loss at every cost is an exact knapsack.
"""

from dataclasses import dataclass

import numpy as np
import optuna

from autolr.optimization.sampler.outcome_models import DeterministicOutcomes
from autolr.pareto import hypervolume


@dataclass(frozen=True)
class Allocation:
    """One problem: ``weights`` (L,), ``rates`` (L,), ``prices`` (L,) of int, ``max_rank`` R, ``budget`` on the cost
    ratio."""

    weights: np.ndarray
    rates: np.ndarray
    prices: np.ndarray
    max_rank: int = 16
    budget: float = 0.7

    @classmethod
    def random(cls, n_layers: int, seed: int) -> "Allocation":
        rng = np.random.default_rng([n_layers, seed])
        weights = rng.lognormal(0.0, 1.5, n_layers)
        return cls(weights / weights.sum(), rng.uniform(2.0, 8.0, n_layers), rng.choice([1, 2, 4], n_layers))

    @property
    def reference(self) -> tuple[float, float]:
        """(loss, cost) of the worst candidate worth having: everything removed, all of the budget spent."""
        return float(1 - np.exp(-2.0)), self.budget

    def evaluate(self, ranks: np.ndarray) -> tuple[float, float]:
        """(loss, cost) of a rank vector (L,)."""
        damage = (self.weights * np.exp(-self.rates * ranks / self.max_rank)).sum()
        return float(1 - np.exp(-2.0 * damage)), float(
            (self.prices * ranks).sum() / (self.prices.sum() * self.max_rank)
        )

    def attainable(self) -> float:
        """Hypervolume of the true front within the budget, by dynamic programming over the integer cost."""
        total = int(self.prices.sum()) * self.max_rank
        least = np.full(total + 1, np.inf)
        least[0] = 0.0
        ranks = np.arange(self.max_rank + 1)
        for weight, rate, price in zip(self.weights, self.rates, self.prices, strict=True):
            curve = weight * np.exp(-rate * ranks / self.max_rank)
            options = [np.concatenate([np.full(price * r, np.inf), least])[: total + 1] + curve[r] for r in ranks]
            least = np.min(options, axis=0)
        costs = np.arange(total + 1) / total
        return hypervolume(np.stack([1 - np.exp(-2.0 * least), costs], axis=1), self.reference)

    def objective(self, trial: optuna.Trial) -> tuple[float, float]:
        ranks = np.array([trial.suggest_int(f"layer{i:02d}", 0, self.max_rank) for i in range(len(self.weights))])
        loss, cost = self.evaluate(ranks)
        trial.set_constraint("cost", cost - self.budget)
        return loss, cost

    def computed(self) -> DeterministicOutcomes:
        """The cost and its constraint, which need no evaluation."""
        share = self.prices / (self.prices.sum() * self.max_rank)

        def compute(sets):
            cost = np.array([[row[f"layer{i:02d}"] for i in range(len(share))] for row in sets]) @ share
            return np.stack([cost, cost - self.budget], axis=1)

        return DeterministicOutcomes(compute, (1, "cost"))

    def fraction(self, study: optuna.Study) -> float:
        """Hypervolume of a study's trials over the attainable one."""
        return hypervolume([t.values for t in study.trials if t.values], self.reference) / self.attainable()


def run(problem: Allocation, sampler: optuna.samplers.BaseSampler, n_trials: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    study.optimize(problem.objective, n_trials=n_trials)
    return study
