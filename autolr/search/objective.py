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
from autolr.score import NliScorer
from autolr.types import Candidate, Cost, Evaluation, Score


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

    def evaluate(self, candidate: Candidate, progress: Progress) -> Evaluation:
        """Compress in place, score, restore.

        Args:
            candidate: what to evaluate.
            progress: may stop the work between batches.

        Returns:
            Costs, scores and the seconds spent on compressing and on scoring.

        Raises:
            AutolrError: the compressed model's output is not finite, or the work was stopped.
        """
        started = time.perf_counter()
        if not candidate.choices:  # the dense model: its answers are known
            scores = self.scorer.compare(self.scorer.dense)
            return Evaluation(candidate, self.costs.cost(candidate), scores, {"compress": 0.0, "score": 0.0})
        dense = compress_(self.model, candidate, self.bank)
        try:
            compressed = time.perf_counter()
            scores = self.scorer.score(self.model, progress.check)
        finally:
            restore_(self.model, dense)
        seconds = {"compress": compressed - started, "score": time.perf_counter() - compressed}
        return Evaluation(candidate, self.costs.cost(candidate), scores, seconds)


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
            "ratio": {quantity: round(ratio, 6) for quantity, ratio in ratios.items()},
            "conditions": asdict(conditions),
        },
        "scores": {name: describe_score(score) for name, score in evaluation.scores.items()},
        "seconds": {name: round(value, 4) for name, value in evaluation.seconds.items()},
    }


def describe_score(score: Score) -> dict[str, float]:
    """Return a score in its plain form."""
    return {"value": score.value, "stderr": score.stderr, "n": score.n}
