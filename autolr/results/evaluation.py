"""What a checkpoint scores on data of its task, without a study."""

from dataclasses import dataclass
from math import exp
from typing import Any

from autolr.records import Score
from autolr.results.scores import Scores, scores_to_json
from autolr.scores import SCORES


@dataclass(frozen=True)
class Evaluation:
    """The scores of one model.

    Attributes:
        checkpoint: where it lies.
        data: what it was scored on.
        task: what it was asked.
        noun: what an example is called, in the plural.
        headline: name of the score that is stated first.
        scores: by name; those that compare with a dense model are left out.
        majority: what always giving the commonest answer would score; None where there is no such level of chance.

    Example:
        >>> Evaluation("m", "d", "nli", "pairs", "accuracy", {"accuracy": Score(0.8, 0.01, 1500)}, 0.4).score.value
        0.8
    """

    checkpoint: str
    data: str
    task: str
    noun: str
    headline: str
    scores: Scores
    majority: float | None

    @property
    def score(self) -> Score:
        """The headline's value with its standard error and the number of examples."""
        return self.scores[self.headline]

    @property
    def exponentials(self) -> dict[str, float]:
        """What a score is commonly stated as: a loss as a perplexity."""
        stated = [kind for kind in SCORES if kind.exponential_of in self.scores]
        return {kind.name: exp(self.scores[kind.measured].value) for kind in stated}

    def to_json(self) -> dict[str, Any]:
        """Return the plain form that ``autolr eval --json`` prints."""
        plain: dict[str, Any] = {
            self.headline: self.score.value,
            "stderr": self.score.stderr,
            "n": self.score.n,
            "majority": self.majority,
            "data": self.data,
            "checkpoint": self.checkpoint,
            "noun": self.noun,
            "task": self.task,
            "headline": self.headline,
            "scores": scores_to_json(self.scores),
        }
        for name, value in self.exponentials.items():
            measured = SCORES.get(name).measured
            loss = self.scores[measured]
            plain |= {measured: loss.value, f"{measured}_stderr": loss.stderr, name: value}
        return plain
