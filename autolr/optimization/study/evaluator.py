"""One trial: candidate -> compressed model -> scores and cost, with the dense modules back in place afterwards."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autolr.bank import Bank
from autolr.forms.swap import compress_, restore_
from autolr.machine import locks
from autolr.model.inputs import Batch
from autolr.optimization.racing.race import Outcome, Race, RacedScorer
from autolr.probes.scorer import ProbeScorer, mean_accuracy
from autolr.problem import LoadedProblem
from autolr.scores import PROBE
from autolr.spec.budgets import Budget, Floor
from autolr.tasks import Scorer
from autolr.types import Candidate, Cost, Evaluation, Score


@dataclass
class Objective:
    """Evaluates candidates under fixed conditions, in this process or in a worker.

    Attributes:
        inputs: the model, what prices candidates, and the search part.
        bank: decompositions.
        scorer: of the search part.
        probe: the probes of the search part, where the study has some.
    """

    inputs: LoadedProblem
    bank: Bank
    scorer: Scorer
    probe: ProbeScorer | None = None
    _raced: tuple[np.ndarray, RacedScorer] | None = None

    def evaluate(
        self, candidate: Candidate, tick: Callable[[], None], race: Race | None = None, halved: bool = False
    ) -> Evaluation:
        """Compress in place, score, restore; waits while somebody measures times on this machine.

        Args:
            candidate: what to evaluate.
            tick: called between batches; may raise to stop the work.
            race: that it runs; None: it is scored on everything.
            halved: run each batch in two halves, where a whole one was too large.

        Returns:
            Costs, scores and the seconds spent on compressing and on scoring.

        Raises:
            AutolrError: the compressed model's output is not finite, or the work was stopped.
        """
        cost = self.inputs.costs.cost(candidate)
        if not candidate.choices:  # the dense model: its answers are known
            dense_logits = self.scorer.dense
            seconds = {"compress": 0.0, "score": 0.0}
            scores = self.scorer.compare(dense_logits)
            if self.probe is not None:
                scores[PROBE.name] = mean_accuracy(self.probe.dense)
            return Evaluation(candidate, cost, scores, seconds, dense_logits)
        with locks.evaluating(tick):
            return self._score(candidate, cost, tick, race, halved)

    def _score(
        self, candidate: Candidate, cost: Cost, tick: Callable[[], None], race: Race | None, halved: bool
    ) -> Evaluation:
        model = self.inputs.model
        started = time.perf_counter()
        dense = compress_(model, candidate, self.bank)
        try:
            compressed = time.perf_counter()
            if race is None:
                logits = self.scorer.answers(model, self.scorer.batches, None, tick, halved)
                outcome = Outcome(self.scorer.compare(logits), logits, 0.0)
            else:
                outcome = self._raced_scorer(race).score(model, race.incumbent, tick, halved)
            seconds = {"compress": compressed - started, "score": time.perf_counter() - compressed}
            scores, probe_error = dict(outcome.scores), 0.0
            if self.probe is not None and outcome.logits is not None:
                correct = self.probe.correct(model, tick)
                scores[PROBE.name], probe_error = mean_accuracy(correct), self.probe.stderr(correct)
                seconds[PROBE.name] = time.perf_counter() - compressed - seconds["score"]
        finally:
            restore_(model, dense)
        stopped_by = None if outcome.logits is not None or race is None else race.incumbent.trial
        return Evaluation(candidate, cost, scores, seconds, outcome.logits, stopped_by, outcome.stderr, probe_error)

    def _raced_scorer(self, race: Race) -> RacedScorer:
        """Return the scorer over the parts of the search data, which all races of a study share."""
        if self._raced is None or not np.array_equal(self._raced[0], race.sizes):
            spec = self.inputs.spec

            def batches(rows: Sequence[int]) -> list[Batch]:
                return self.inputs.batches("search", rows)

            scorer = RacedScorer(self.scorer, spec.search.objective, race.sizes, batches, spec.seed)
            self._raced = race.sizes, scorer
        return self._raced[1]


def constraints(
    evaluation: Evaluation,
    budgets: tuple[Budget, ...],
    floors: tuple[Floor, ...],
    dense: Cost,
    dense_scores: Mapping[str, Score],
) -> dict[str, float]:
    """Return each budget and floor as a number that is ≤ 0 when it is met.

    A budget's is relative to its limit, a floor's in the units of its score.
    """
    values = {b.text: evaluation.cost.get(b.quantity) / b.limit(dense) - 1.0 for b in budgets}
    for floor in floors:
        score = evaluation.scores[floor.score].value
        values[floor.text] = floor.shortfall(score, dense_scores[floor.score].value)
    return values
