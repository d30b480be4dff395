"""One trial: candidate -> compressed model -> scores and cost, with the dense modules back in place afterwards."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedModel

from autolr.bank import Bank
from autolr.compress import compress_, restore_
from autolr.config import Budget, Floor
from autolr.cost import CostTable
from autolr.progress import Progress
from autolr.score import NliScorer, predict
from autolr.search.racing import Outcome, Race, Rival
from autolr.types import Candidate, Cost, Evaluation, Score

RATIO_DIGITS = 6
"""Digits after the point of a stored ratio."""


@dataclass(frozen=True)
class Objective:
    """Evaluates candidates under fixed conditions.

    Attributes:
        model: the dense model.
        bank: decompositions.
        costs: prices candidates.
        scorer: of the search part.
    """

    model: PreTrainedModel
    bank: Bank
    costs: CostTable
    scorer: NliScorer

    def evaluate(self, candidate: Candidate, progress: Progress, heat: tuple[Race, Rival] | None = None) -> Evaluation:
        """Compress in place, score, restore.

        Args:
            candidate: what to evaluate.
            progress: may stop the work between batches.
            heat: the race that it runs; None: it is scored on everything.

        Returns:
            Costs, scores and the seconds spent on compressing and on scoring.

        Raises:
            AutolrError: the compressed model's output is not finite, or the work was stopped.
        """
        cost = self.costs.cost(candidate)
        if not candidate.choices:  # the dense model: its answers are known
            dense_logits = self.scorer.dense
            seconds = {"compress": 0.0, "score": 0.0}
            return Evaluation(candidate, cost, self.scorer.compare(dense_logits), seconds, dense_logits)
        started = time.perf_counter()
        dense = compress_(self.model, candidate, self.bank)
        try:
            compressed = time.perf_counter()
            if heat is None:
                logits = predict(self.model, self.scorer.batches, progress.check)
                outcome = Outcome(self.scorer.compare(logits), logits, 0.0)
            else:
                race, rival = heat
                outcome = race.run(self.model, rival, progress.check)
        finally:
            restore_(self.model, dense)
        seconds = {"compress": compressed - started, "score": time.perf_counter() - compressed}
        stopped_by = None if outcome.logits is not None or heat is None else heat[1].trial
        return Evaluation(candidate, cost, outcome.scores, seconds, outcome.logits, stopped_by, outcome.stderr)


def constraints(
    evaluation: Evaluation,
    budgets: tuple[Budget, ...],
    floors: tuple[Floor, ...],
    dense: Cost,
    dense_scores: Mapping[str, Score],
) -> dict[str, float]:
    """Return each budget and floor as a number that is ≤ 0 when it is met, relative to its limit."""
    values = {b.text: evaluation.cost.get(b.quantity) / b.limit(dense) - 1.0 for b in budgets}
    for floor in floors:
        score = evaluation.scores[floor.metric].value
        values[floor.text] = floor.shortfall(score, dense_scores[floor.metric].value)
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
