"""Scores of a model whose answers are classes: every score of the table that is a function of their logits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from autolr.scores import SCORES
from autolr.tasks.forward import Batch, run_batches
from autolr.tasks.scorer import Answers, Rows, Scorer, finite

Logits = Float[Tensor, "examples classes"]


@runtime_checkable
class Readout(Protocol):
    """How the logits of the classes are read from what a model puts out.

    Attributes:
        together: rows of a batch that make one example.
    """

    @property
    def together(self) -> int:
        """Rows of a batch that make one example."""

    def of_model(self, model: nn.Module, /) -> "Readout":
        """Return the readout of this model, where it depends on one."""

    def __call__(self, logits: Tensor, inputs: Batch, /) -> Logits:
        """Return the logits of the classes from the model's output on a batch."""


@dataclass(frozen=True)
class ClassifierReadout:
    """The model is a classifier: its logits are those of the classes."""

    together: int = 1

    def of_model(self, model: nn.Module) -> "ClassifierReadout":
        """Return this readout: it is the same of all models."""
        del model
        return self

    def __call__(self, logits: Tensor, inputs: Batch) -> Logits:
        """Return the logits as they are, float32."""
        del inputs
        return logits.float()


CLASSIFIER = ClassifierReadout()


def predict(
    model: nn.Module,
    batches: Sequence[Batch],
    tick: Callable[[], None] = lambda: None,
    halved: bool = False,
    readout: Readout = CLASSIFIER,
) -> Logits:
    """Return the logits of every example, in the batches' order, float32 on the CPU.

    A batch that does not fit into the device's memory is run again in two halves, once.

    Args:
        model: a sequence classifier, or what the readout reads.
        batches: tokenized pairs.
        tick: called after each batch; may raise to stop.
        halved: run each batch in two halves from the first.
        readout: of the classes; that of this model is taken.

    Raises:
        torch.OutOfMemoryError: half a batch does not fit either.
    """
    own = readout.of_model(model.eval())

    def reduce(logits: Tensor, inputs: Batch, start: int) -> Logits:
        del start
        return own(logits, inputs)

    return run_batches(model, batches, reduce, tick, halved, own.together)


@dataclass(frozen=True)
class ClassScorer(Scorer):
    """Scores a model on fixed batches against the gold labels and the dense model's logits.

    Attributes:
        batches: tokenized pairs with labels.
        dense: the dense model's logits on them, (examples, classes).
        readout: of the classes.
    """

    batches: Sequence[Batch]
    dense: Logits
    readout: Readout = CLASSIFIER

    @classmethod
    def of(
        cls,
        model: nn.Module,
        batches: Sequence[Batch],
        tick: Callable[[], None] = lambda: None,
        readout: Readout = CLASSIFIER,
    ) -> "ClassScorer":
        """Build a scorer whose reference is this dense model.

        Raises:
            AutolrError: the model's outputs are not finite.
        """
        return cls(batches, finite(predict(model, batches, tick, readout=readout)), readout)

    @classmethod
    def unlabelled(cls, model: nn.Module, batches: Sequence[Batch]) -> "ClassScorer":
        """Build a scorer of examples without labels: of its scores those count that need the dense model alone."""
        labelled = [{**batch, "labels": torch.zeros(len(batch["input_ids"]), dtype=torch.long)} for batch in batches]
        return cls.of(model, labelled)

    @property
    def labels(self) -> Int[Tensor, " examples"]:
        """The gold labels."""
        return torch.cat([batch["labels"].cpu() for batch in self.batches])

    def majority(self) -> float:
        """Return the share of the commonest label."""
        return float(self.labels.bincount().max()) / len(self.labels)

    def kept(self) -> dict[str, Tensor]:
        """Return the dense model's logits."""
        return {"logits": self.dense}

    def answers(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        rows: Rows | None = None,
        tick: Callable[[], None] = lambda: None,
        halved: bool = False,
    ) -> Logits:
        """Return a model's logits on some of the pairs; see :meth:`Scorer.answers`."""
        del rows
        return predict(model, batches, tick, halved, self.readout)

    def values(self, answers: Answers, rows: Rows | None = None) -> dict[str, Float[Tensor, " n"]]:
        """Return every registered score of classification, example by example; see :meth:`Scorer.values`."""
        finite(answers)
        labels, dense = (self.labels, self.dense) if rows is None else (self.labels[rows], self.dense[rows])
        return {kind.name: kind.values(answers, dense, labels) for kind in SCORES if kind.values is not None}
