"""One trial: candidate -> compressed model -> scores and cost, with the dense modules back in place afterwards."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from autolr.bank import Bank
from autolr.forms.swap import compress_, restore_
from autolr.machine import locks as slots
from autolr.model.inputs import Batch
from autolr.probes.scorer import ProbeScorer, mean_accuracy
from autolr.problem import Inputs
from autolr.search.racing.race import Heat, Outcome, Race
from autolr.spec.budgets import Budget, Floor
from autolr.tasks import Scorer
from autolr.types import Candidate, Cost, Evaluation, Score

RATIO_DIGITS = 6
"""Digits after the point of a stored ratio."""


@dataclass
class Objective:
    """Evaluates candidates under fixed conditions, in this process or in a worker.

    Attributes:
        inputs: the model, what prices candidates, and the search part.
        bank: decompositions.
        scorer: of the search part.
        probe: the probes of the search part, where the study has some.
    """

    inputs: Inputs
    bank: Bank
    scorer: Scorer
    probe: ProbeScorer | None = None
    _race: tuple[np.ndarray, Race] | None = None

    def evaluate(
        self, candidate: Candidate, tick: Callable[[], None], heat: Heat | None = None, halved: bool = False
    ) -> Evaluation:
        """Compress in place, score, restore; waits while somebody measures times on this machine.

        Args:
            candidate: what to evaluate.
            tick: called between batches; may raise to stop the work.
            heat: the race that it runs; None: it is scored on everything.
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
                scores["probe"] = mean_accuracy(self.probe.dense)
            return Evaluation(candidate, cost, scores, seconds, dense_logits)
        with slots.evaluating(tick):
            return self._score(candidate, cost, tick, heat, halved)

    def _score(
        self, candidate: Candidate, cost: Cost, tick: Callable[[], None], heat: Heat | None, halved: bool
    ) -> Evaluation:
        model = self.inputs.model
        started = time.perf_counter()
        dense = compress_(model, candidate, self.bank)
        try:
            compressed = time.perf_counter()
            if heat is None:
                logits = self.scorer.answers(model, self.scorer.batches, None, tick, halved)
                outcome = Outcome(self.scorer.compare(logits), logits, 0.0)
            else:
                outcome = self._race_of(heat).run(model, heat.rival, tick, halved)
            seconds = {"compress": compressed - started, "score": time.perf_counter() - compressed}
            scores, probe_error = dict(outcome.scores), 0.0
            if self.probe is not None and outcome.logits is not None:
                correct = self.probe.correct(model, tick)
                scores["probe"], probe_error = mean_accuracy(correct), self.probe.stderr(correct)
                seconds["probe"] = time.perf_counter() - compressed - seconds["score"]
        finally:
            restore_(model, dense)
        stopped_by = None if outcome.logits is not None or heat is None else heat.rival.trial
        return Evaluation(candidate, cost, scores, seconds, outcome.logits, stopped_by, outcome.stderr, probe_error)

    def _race_of(self, heat: Heat) -> Race:
        """Return the race over the search part; all heats of a study share it."""
        if self._race is None or not np.array_equal(self._race[0], heat.sizes):
            spec = self.inputs.spec

            def batches(rows: Sequence[int]) -> list[Batch]:
                return self.inputs.batches("search", rows)

            self._race = heat.sizes, Race(self.scorer, spec.search.objective, heat.sizes, batches, spec.seed)
        return self._race[1]


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


def describe(evaluation: Evaluation, dense: Cost) -> dict[str, Any]:
    """Return an evaluation in the plain form that is stored and printed: candidate, costs, scores, seconds."""
    cost = evaluation.cost
    ratios = cost.ratios(dense)
    conditions = cost.conditions
    return {
        "candidate": evaluation.candidate.to_json(),
        "digest": evaluation.candidate.digest,
        "costs": {
            "absolute": {quantity: cost.get(quantity) for quantity in ratios},
            "ratio": {quantity: round(ratio, RATIO_DIGITS) for quantity, ratio in ratios.items()},
            "conditions": asdict(conditions),
        },
        "scores": {name: describe_score(score) for name, score in evaluation.scores.items()},
        "seconds": {name: round(value, 4) for name, value in evaluation.seconds.items()},
    } | ({} if evaluation.stopped_by is None else {"stopped_by": evaluation.stopped_by})


def describe_score(score: Score) -> dict[str, float]:
    """Return a score in its plain form."""
    return {"value": score.value, "stderr": score.stderr, "n": score.n}
