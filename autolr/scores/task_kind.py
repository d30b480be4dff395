"""The record of a task: what builds it for a model, which scores it gives, and the words that a report needs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autolr.errors import UsageError, nearest
from autolr.registry import placed_function
from autolr.scores.kind import ScoreKind


@dataclass(frozen=True)
class TaskKind:
    """What a model can be asked to do.

    Attributes:
        name: so it is called on the command line and in files.
        build: a function (specification, dense model, tokenizer, source) -> :class:`autolr.tasks.Task`, or the place
            of one as ``package.module:function``, so that the table is read without loading what the task needs.
            ``source`` is where the model came from, for messages.
        scores: that the task gives, in the order in which they are shown; the records of its own scores, which need no
            entry point of theirs.
        objective: name of the score that a search goes by where none is asked for; empty: the first.
        headline: name of the score that a report states first, and compares with the dense model's; empty: the first.
        help: what is asked, in half a sentence.
        noun: what an example is called, in the plural.
        subject: stands before the headline's figures in the report's sentence, as in ``next tokens found: ``.
        commonest: what a model does that only guesses, as in ``answering the commonest label``.
        check: what to look at where the dense model only guesses.
        left_out: what of the data is left out, where some is, as in ``rows without a gold label left out``.
        options: settings of :class:`autolr.spec.study.DataSpec` that it reads besides the sources.
        classes: its answers are logits of classes, so that every registered score of classification is one of its.
        next_tokens: all logits of a language model are scored, which takes memory.
        pads: examples have several lengths, so that the tokenizer has to pad.
    """

    name: str
    build: Callable[..., Any] | str
    scores: tuple[ScoreKind, ...]
    objective: str = ""
    headline: str = ""
    help: str = ""
    noun: str = "examples"
    subject: str = ""
    commonest: str = "giving the commonest answer"
    check: str = "the data and the score"
    left_out: str = "rows left out"
    options: tuple[str, ...] = ()
    classes: bool = False
    next_tokens: bool = False
    pads: bool = True

    def __post_init__(self) -> None:
        measured = [score.name for score in self.scores if score.exponential_of is None]
        if not measured:
            raise ValueError(f"task {self.name} must give at least one score that is measured")
        for role in ("objective", "headline"):
            name = getattr(self, role) or measured[0]
            if name not in measured:
                raise ValueError(f"task {self.name}: its {role} {name!r} is not among its scores {', '.join(measured)}")
            object.__setattr__(self, role, name)

    @property
    def builder(self) -> Callable[..., Any]:
        """The function that builds the task for a model."""
        return placed_function(self.build)

    @property
    def exponential(self) -> ScoreKind | None:
        """The score that states another one's exponential, as the perplexity does; None where there is none."""
        return next((score for score in self.scores if score.exponential_of is not None), None)

    def given(self) -> tuple[ScoreKind, ...]:
        """Return every score of this task: its own, and of a classification all that are registered for one."""
        from autolr.scores.tables import SCORES

        others = (score for score in SCORES if score.values is not None and score not in self.scores)
        return (*self.scores, *others) if self.classes else self.scores

    def score(self, name: str) -> ScoreKind:
        """Return the record of one of its scores.

        Raises:
            UsageError: the task does not give it.
        """
        rows = {score.name: score for score in self.given()}
        if name not in rows:
            raise UsageError(f"task {self.name} gives no score {name!r}; {nearest(name, rows)}")
        return rows[name]
