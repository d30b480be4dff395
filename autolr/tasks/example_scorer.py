"""Scores that a function of one's own computes from a model and examples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autolr.data.examples import Example
from autolr.errors import AutolrError
from autolr.scores import ScoreKind
from autolr.tasks.forward import Batch
from autolr.tasks.scorer import Answers, Rows, Scorer, finite

Values = Sequence[float] | Tensor | float
"""Of one score: a value for each example, or one number for all of them."""
Ask = Callable[[nn.Module, Sequence[Example]], Mapping[str, Values]]
"""(model, examples) -> score -> its values."""
_ROUNDING = 1e-6


@dataclass(frozen=True)
class ExampleScorer(Scorer):
    """Scores a model by a function of it and of the examples.

    Where the function gives one number for all examples, there is a single row of answers: nothing is known of the
    number's error, and no candidate can be stopped before it saw all.

    Attributes:
        batches: the examples' texts, tokenized.
        dense: the dense model's values, (examples, scores), or (1, scores).
        examples: in the batches' order.
        kinds: the scores, in the order of the columns.
        ask: the function.
        commonest: the share of the commonest answer, where one is known.
    """

    batches: Sequence[Batch]
    dense: Answers
    examples: Sequence[Example]
    kinds: tuple[ScoreKind, ...]
    ask: Ask
    commonest: float | None = None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        batches: Sequence[Batch],
        examples: Sequence[Example],
        kinds: tuple[ScoreKind, ...],
        ask: Ask,
        commonest: float | None = None,
    ) -> "ExampleScorer":
        """Build a scorer whose reference is this dense model.

        Raises:
            AutolrError: the function does not give the scores that it should, or values that they cannot have.
        """
        return cls(batches, asked(ask, model, examples, kinds), examples, kinds, ask, commonest)

    def majority(self) -> float | None:
        """Return the share of the commonest answer; None where it is not known."""
        return self.commonest

    def kept(self) -> dict[str, Tensor]:
        """Return the dense model's values."""
        return {"values": self.dense}

    def answers(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        rows: Rows | None = None,
        tick: Callable[[], None] = lambda: None,
        halved: bool = False,
    ) -> Answers:
        """Return the values of some of the examples; the function makes batches itself, so ``halved`` is not heeded."""
        del batches, halved
        tick()
        chosen = self.examples if rows is None else [self.examples[row] for row in rows.tolist()]
        answers = asked(self.ask, model, chosen, self.kinds)
        tick()
        return answers

    def values(self, answers: Answers, rows: Rows | None = None) -> dict[str, Float[Tensor, " n"]]:
        """Return each score's values, example by example; see :meth:`Scorer.values`."""
        del rows
        return {kind.name: column for kind, column in zip(self.kinds, finite(answers).unbind(1), strict=True)}


def asked(
    ask: Ask, model: nn.Module, examples: Sequence[Example], kinds: Sequence[ScoreKind]
) -> Float[Tensor, "rows scores"]:
    """Ask a function for its scores and check what it gives.

    Returns:
        (examples, scores) float64, or (1, scores) where it gives one number for all.

    Raises:
        AutolrError: a score is missing, of another length than there are examples, or outside its bounds.
    """
    model.eval()
    with torch.inference_mode():
        given = ask(model, examples)
    columns = []
    for kind in kinds:
        if kind.name not in given:
            raise AutolrError(f"the task's score {kind.name} is missing; given are {', '.join(given) or 'none'}")
        values = torch.as_tensor(given[kind.name], dtype=torch.float64).cpu()
        column = values[None] if values.dim() == 0 else values
        if values.dim() > 1 or (values.dim() == 1 and len(values) != len(examples)):
            raise AutolrError(
                f"the task's score {kind.name} must be one number or {len(examples)}, one for each example, got a "
                f"tensor of shape {tuple(values.shape)}"
            )
        low, high = kind.bounds
        if bool(((column < low - _ROUNDING) | (column > high + _ROUNDING)).any()):
            worst = max(column.tolist(), key=lambda value: max(low - value, value - high))
            raise AutolrError(f"the task's score {kind.name} is {worst:g}, outside its bounds [{low:g}, {high:g}]")
        columns.append(column)
    if len({len(column) for column in columns}) > 1:
        raise AutolrError("of the task's scores some have a value for each example and others one number for all")
    return torch.stack(columns, 1)
