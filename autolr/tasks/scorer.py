"""What every scorer does: run a model on fixed data and say how good its answers are, example by example."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from autolr.errors import AutolrError
from autolr.tasks.forward import Batch
from autolr.types import Score

Answers = Float[Tensor, "examples columns"]
"""What is kept of a model's outputs, a row for each example: a classifier's logits, or values already computed."""
Rows = Int[Tensor, " rows"]


class Scorer(ABC):
    """Scores models on fixed batches, against the data and against the dense model's answers.

    Attributes:
        batches: the tokenized data.
        dense: the dense model's answers.
    """

    batches: Sequence[Batch]
    dense: Answers

    @abstractmethod
    def kept(self) -> dict[str, Tensor]:
        """Return what the dense model said: with that and the batches an equal scorer is built."""

    @abstractmethod
    def answers(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        rows: Rows | None = None,
        tick: Callable[[], None] = lambda: None,
        halved: bool = False,
    ) -> Answers:
        """Return a model's answers to some of the examples.

        Args:
            model: dense or compressed.
            batches: of these examples.
            rows: which of the scorer's examples they are, ascending; None: all.
            tick: called after each batch; may raise to stop.
            halved: run each batch in two halves, where a whole one is too large for the device.

        Raises:
            torch.OutOfMemoryError: half a batch does not fit either.
        """

    @abstractmethod
    def values(self, answers: Answers, rows: Rows | None = None) -> dict[str, Float[Tensor, " n"]]:
        """Return what each score is the mean of, one value for each example, float64.

        Args:
            answers: of some examples.
            rows: which, in the batches' order; None: all.

        Raises:
            AutolrError: the answers are not finite.
        """

    @abstractmethod
    def majority(self) -> float | None:
        """Return the headline score of always giving the commonest answer; None where it is not known."""

    def score(self, model: nn.Module, tick: Callable[[], None] = lambda: None) -> dict[str, Score]:
        """Run the model on everything and return its scores.

        Raises:
            AutolrError: the model's outputs are not finite.
        """
        return self.compare(self.answers(model, self.batches, None, tick))

    def compare(self, answers: Answers) -> dict[str, Score]:
        """Return the scores of given answers to all examples.

        Raises:
            AutolrError: the answers are not finite.
        """
        return {name: mean_score(values) for name, values in self.values(answers).items()}


def mean_score(values: Float[Tensor, " examples"]) -> Score:
    """Return the mean with its standard error (0 for a single example).

    Example:
        >>> mean_score(torch.tensor([0.0, 1.0]))
        Score(value=0.5, stderr=0.5, n=2)
    """
    n = len(values)
    spread = float(values.double().std()) / n**0.5 if n > 1 else 0.0
    return Score(float(values.double().mean()), spread, n)


def finite(answers: Answers) -> Answers:
    """Return answers as they are.

    Raises:
        AutolrError: some are not finite.
    """
    bad = int((~torch.isfinite(answers)).any(-1).sum())
    if bad:
        raise AutolrError(f"the model's output is NaN or infinite on {bad} of {len(answers)} examples")
    return answers
