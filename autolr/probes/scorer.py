"""One number for what a model knows of its language: the mean accuracy of cheap probes over several tasks.

All sentences of all tasks are run once; then each task's probe, a ridge regression in closed form, is trained anew on
this model's representations at one layer, the one that was best in the dense model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, device, nn

from autolr.data.probing import ProbingTask, dealt
from autolr.probes.classifiers import labels_of, probe, texts_of
from autolr.probes.features import Features, Pooling, SentenceBatches, features, sentence_batches
from autolr.types import Score

Correct = Mapping[str, Bool[Tensor, " asked"]]
"""Task -> for each of its test sentences whether the probe is right."""


@dataclass(frozen=True)
class ProbeScorer:
    """Scores a model by probes.

    Attributes:
        tasks: with the sentences that are used.
        sentences: of all tasks, tokenized.
        layers: of each task, from 0, the embeddings.
        pooling: of the tokens.
        dense: what the dense model's probes get right.
    """

    tasks: tuple[ProbingTask, ...]
    sentences: SentenceBatches
    layers: tuple[int, ...]
    pooling: Pooling
    dense: Correct

    @classmethod
    def of(
        cls,
        model: nn.Module,
        tasks: Sequence[ProbingTask],
        sentences: SentenceBatches,
        pooling: Pooling,
        tick: Callable[[], None] = lambda: None,
    ) -> "ProbeScorer":
        """Build a scorer whose reference is this dense model; it chooses each task's layer by its training sentences.

        Raises:
            AutolrError: the model's representations are not finite.
        """
        found = features(model, sentences, pooling, None, tick)
        pieces = list(_by_task(tasks, found))
        layers = tuple(best_layer(task, piece) for task, piece in zip(tasks, pieces, strict=True))
        dense = {
            task.name: _correct(task, piece[layer]) for task, piece, layer in zip(tasks, pieces, layers, strict=True)
        }
        return cls(tuple(tasks), sentences, layers, pooling, dense)

    def kept(self) -> dict[str, Tensor]:
        """Return what was found of the dense model, to be stored."""
        return {"layers": torch.tensor(self.layers), **{f"correct/{name}": one for name, one in self.dense.items()}}

    @classmethod
    def stored(
        cls, tasks: Sequence[ProbingTask], sentences: SentenceBatches, pooling: Pooling, kept: Mapping[str, Tensor]
    ) -> "ProbeScorer":
        """Return the scorer with what another one kept of the dense model."""
        dense = {task.name: kept[f"correct/{task.name}"] for task in tasks}
        return cls(tuple(tasks), sentences, tuple(kept["layers"].tolist()), pooling, dense)

    def correct(self, model: nn.Module, tick: Callable[[], None] = lambda: None) -> Correct:
        """Train a probe of each task on a model's representations and return what they get right.

        Args:
            model: dense or compressed.
            tick: called after each batch; may raise to stop.

        Raises:
            AutolrError: the model's representations are not finite.
        """
        used = sorted(set(self.layers))
        found = features(model, self.sentences, self.pooling, used, tick)
        pieces = _by_task(self.tasks, found)
        return {
            task.name: _correct(task, piece[used.index(layer)])
            for task, piece, layer in zip(self.tasks, pieces, self.layers, strict=True)
        }

    def score(self, model: nn.Module, tick: Callable[[], None] = lambda: None) -> Score:
        """Return the mean accuracy of a model's probes."""
        return mean_accuracy(self.correct(model, tick))

    def stderr(self, correct: Correct) -> float:
        """Return the standard error of the score as far as it differs from the dense model's on the same sentences."""
        gaps = {name: correct[name].double() - self.dense[name].double() for name in correct}
        variance = sum(float(gap.var()) / len(gap) for gap in gaps.values() if len(gap) > 1)
        return float(variance**0.5) / len(gaps)


def probe_sentences(
    tokenizer: Any, tasks: Sequence[ProbingTask], size: int, max_length: int, where: device | str
) -> SentenceBatches:
    """Return the tokenized sentences of some tasks, in the order in which a scorer wants them."""
    return sentence_batches(tokenizer, texts_of(tasks), size, max_length, where)


def mean_accuracy(correct: Correct) -> Score:
    """Return the mean over the tasks of the share of sentences that are right; n counts all sentences.

    Example:
        >>> mean_accuracy({"a": torch.tensor([True, False]), "b": torch.tensor([True, True])})
        Score(value=0.75, stderr=0.25, n=4)
    """
    values = {name: one.double() for name, one in correct.items()}
    mean = sum(float(one.mean()) for one in values.values()) / len(values)
    variance = sum(float(one.var()) / len(one) for one in values.values() if len(one) > 1)
    return Score(mean, float(variance**0.5) / len(values), sum(len(one) for one in values.values()))


def _by_task(tasks: Sequence[ProbingTask], found: Features) -> Sequence[Tensor]:
    return torch.split(found, [len(task.train) + len(task.test) for task in tasks], dim=1)


def _correct(task: ProbingTask, at_layer: Tensor) -> Bool[Tensor, " asked"]:
    n = len(task.train)
    return probe("ridge", at_layer[:n], labels_of(task.train), at_layer[n:], labels_of(task.test))


def best_layer(task: ProbingTask, of_layers: Features) -> int:
    """Return the layer at which a probe of one half of the training sentences is right on most of the other half.

    Args:
        task: with its training sentences.
        of_layers: representations, those of the training sentences first.
    """
    labels = labels_of(task.train)
    one, other = dealt(task.train.labels, 2)
    right = [
        int(probe("ridge", X[one], labels[one], X[other], labels[other]).sum())
        + int(probe("ridge", X[other], labels[other], X[one], labels[one]).sum())
        for X in of_layers[:, : len(task.train)]
    ]
    return max(range(len(right)), key=lambda layer: (right[layer], -layer))
