"""Racing: a candidate is scored on growing parts of the search data, until it is dominated or all are seen.

Every candidate sees the same parts in the same order, examples that separate candidates first (see
:mod:`autolr.optimization.racing.sampling`; what separates is learned from the first, which see everything). It races
the best candidate that costs no more (within ``COST_TOLERANCE``): after each part the mean difference of the two is
estimated over the examples both have seen, and where it is above zero with the stated confidence the rest is spared.

What a stopped candidate leaves is the incumbent's score plus the estimated difference, with its standard error.
Whether to stop depends on nothing but what the estimate itself is made of, so to a model that takes estimate and
standard error as a likelihood, as the sampler's Gaussian process does, the stopping rule adds nothing (Berger and
Wolpert 1988, The Likelihood Principle, section 4.2). That all candidates see the same examples is not modelled.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor, nn

from autolr.optimization.racing.sampling import (
    Array,
    Mean,
    Rows,
    inclusion_probabilities,
    sampling_order,
    weighted_mean,
)
from autolr.scores import SCORES
from autolr.tasks import Scorer
from autolr.tasks.forward import Batch
from autolr.tasks.scorer import Answers
from autolr.types import Score

CONFIDENCE = 0.95
"""A candidate that the incumbent does not beat on the search data is stopped, over all looks together, with a
probability of at most 1 less this, as far as the t distribution holds for the differences of so many examples. Where
rare examples with large losses set two candidates apart it holds badly: 0.3 instead of 0.05 was seen on differences
made for that."""
LOOKS = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4)
"""Shares of the examples after which a candidate may be stopped."""
LEAST_EXAMPLES = 50
"""A look with fewer examples is left out: the normal approximation of their mean would be too rough."""
REFERENCES = 4
"""Compressed candidates that see everything first; from them it is learned which examples separate candidates."""
COST_TOLERANCE = 0.005
"""An incumbent may cost this share more: so much the knapsack leaves unspent or not by accidents of rounding."""
EVEN_SHARE = 0.5
"""Share of the samples that is spread evenly, for examples on which the first candidates happened to agree."""


@dataclass(frozen=True)
class Incumbent:
    """The candidate that another one races: its trial and its logits on all examples."""

    trial: int
    logits: Answers


@dataclass(frozen=True)
class Race:
    """The race that one candidate has to run.

    Attributes:
        sizes: (N,) how much each example separates candidates; see :func:`example_sizes`.
        incumbent: whom it races.
    """

    sizes: Array
    incumbent: Incumbent


@dataclass(frozen=True)
class Outcome:
    """What a race leaves.

    Attributes:
        scores: by name; for a stopped candidate estimates of what all examples would give, n those seen.
        logits: on all examples; None for a stopped candidate.
        stderr: of the objective's difference to the incumbent as a population's mean; 0 without a race.
    """

    scores: Mapping[str, Score]
    logits: Answers | None
    stderr: float


@dataclass(frozen=True)
class Part:
    """One look: its new examples, and the probabilities of all seen so far to have been among them.

    Attributes:
        rows: the new examples, ascending.
        batches: tokenized, in that order.
        probabilities: (N,) of every example to be in a sample of this size.
    """

    rows: Rows
    batches: Sequence[Batch]
    probabilities: Array


class RacedScorer:
    """Scores models on growing parts of one study's search data.

    Args:
        scorer: of the whole search part.
        objective: the score that candidates race by.
        sizes: (N,) how much each example separates candidates; see :func:`example_sizes`.
        batches: rows, ascending -> their batches, in that order.
        seed: of the samples.
    """

    def __init__(
        self,
        scorer: Scorer,
        objective: str,
        sizes: Array,
        batches: Callable[[Sequence[int]], Sequence[Batch]],
        seed: int,
    ) -> None:
        self.scorer, self.objective = scorer, objective
        order, total = sampling_order(sizes, seed), len(sizes)
        looks = [int(share * total) for share in LOOKS]
        ends = [0, *(n for n in looks if n >= LEAST_EXAMPLES), total]
        self.parts: list[Part] = []
        for start, end in pairwise(ends):
            rows = np.sort(order[start:end])
            self.parts.append(Part(rows, batches(rows.tolist()), inclusion_probabilities(sizes, end)))

    def score(self, model: nn.Module, incumbent: Incumbent, tick: Callable[[], None], halved: bool = False) -> Outcome:
        """Score a model until it is dominated by the incumbent with confidence, or on everything.

        Args:
            model: the compressed model.
            incumbent: whom it races.
            tick: called between batches; may raise to stop.
            halved: run each batch in two halves.

        Raises:
            AutolrError: the model's outputs are not finite.
        """
        theirs = {name: values.numpy() for name, values in self.scorer.values(incumbent.logits).items()}
        rows, logits = np.empty(0, dtype=np.int64), torch.empty(0, incumbent.logits.shape[1])
        for part in self.parts:
            rows = np.concatenate([rows, part.rows])
            new = self.scorer.answers(model, part.batches, torch.from_numpy(part.rows), tick, halved)
            logits = torch.cat([logits, new])
            ours = {name: v.numpy() for name, v in self.scorer.values(logits, torch.from_numpy(rows)).items()}
            probabilities = part.probabilities[rows]
            total = len(part.probabilities)
            gaps = {name: weighted_mean(ours[name] - theirs[name][rows], probabilities, total) for name in ours}
            gap = gaps[self.objective]
            if len(rows) < total and self._dominated(gap, probabilities):
                scores = {name: _estimate(name, theirs[name], gaps[name], len(rows)) for name in ours}
                return Outcome(scores, None, gap.wide_stderr)
        everything: Tensor = torch.empty_like(logits)
        everything[torch.from_numpy(rows)] = logits
        return Outcome(self.scorer.compare(everything), everything, gap.wide_stderr)

    def _dominated(self, gap: Mean, probabilities: Array) -> bool:
        """Tell whether a gap is on the worse side with the stated confidence, shared out over the looks."""
        looks, weights = len(self.parts) - 1, 1.0 / probabilities
        effective = weights.sum() ** 2 / (weights**2).sum()  # Kish's number of examples
        bound = float(student.ppf(1.0 - (1.0 - CONFIDENCE) / looks, effective - 1))
        return SCORES.get(self.objective).sign * gap.value > bound * gap.stderr


def _estimate(name: str, theirs: Array, gap: Mean, n: int) -> Score:
    """Return the score that all examples would give: the incumbent's plus the gap."""
    value = float(theirs.mean()) + gap.value
    stderr = float(np.hypot(theirs.std(ddof=1) / len(theirs) ** 0.5, gap.wide_stderr))
    return Score(SCORES.get(name).clipped(value), stderr, n)


def example_sizes(scorer: Scorer, objective: str, references: Sequence[Answers]) -> Array:
    """Return how much each example separates candidates, (N,), learned from the first candidates' logits, at least two.

    Of scores that are 0 or 1, what two candidates differ by need not be where the first ones differed: all count alike.
    """
    if SCORES.get(objective).binary:
        return np.ones(len(scorer.dense))
    return separation(np.stack([scorer.values(logits)[objective].numpy() for logits in references]))


def separation(values: Array) -> Array:
    """Return how much each example tells candidates apart, (candidates, N) -> (N,), positive with mean 1.

    The standard deviation over the candidates, which gives the estimated mean its least variance (Neyman), mixed with
    an even share.
    """
    spread = values.std(axis=0)
    if not spread.any():
        return np.ones(values.shape[1])
    return np.asarray(EVEN_SHARE + (1.0 - EVEN_SHARE) * spread / spread.mean())
