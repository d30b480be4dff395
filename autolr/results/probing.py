"""What probes and minimal pairs find in one checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autolr.records import Score
from autolr.results.scores import Scores, scores_to_json
from autolr.scores import ACCURACY, PROBE


@dataclass(frozen=True)
class LayerProbe:
    """What a probe reads from one layer.

    Attributes:
        accuracy: share of the test sentences it tells right.
        control: the same on a control task, whose labels are drawn at random for each word type.
        selectivity: ``accuracy`` above ``control``, paired over the sentences.
    """

    accuracy: Score
    control: Score
    selectivity: Score

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        return scores_to_json({ACCURACY.name: self.accuracy, "control": self.control, "selectivity": self.selectivity})


@dataclass(frozen=True)
class ProbedTask:
    """What probes read of one task at every layer.

    Attributes:
        classes: number of labels.
        train: number of training sentences.
        test: number of test sentences.
        majority: share of the commonest label, in [0, 1]: chance.
        length: accuracy of a probe that sees the number of words alone.
        layer: the best layer as far as the training sentences tell; 0 are the embeddings.
        layers: of each layer, embeddings first.
    """

    classes: int
    train: int
    test: int
    majority: float
    length: Score
    layer: int
    layers: tuple[LayerProbe, ...]

    @property
    def best(self) -> LayerProbe:
        """What the chosen layer tells."""
        return self.layers[self.layer]

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        return {
            "classes": self.classes,
            "train": self.train,
            "test": self.test,
            "majority": self.majority,
            "length": self.length.to_json(),
            "layer": self.layer,
            "layers": [layer.to_json() for layer in self.layers],
        }


@dataclass(frozen=True)
class PairsResult:
    """Shares of minimal pairs of which the acceptable sentence is preferred; chance is one half.

    Attributes:
        how: they were asked: ``likelihood``, ``pseudo-likelihood`` or ``probe``.
        mean: over all pairs; errors are over pairs, taken as independent.
        fields: of each linguistic field.
        paradigms: of each paradigm.
    """

    how: str
    mean: Score
    fields: Scores
    paradigms: Scores

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        return {
            "how": self.how,
            "mean": self.mean.to_json(),
            "fields": scores_to_json(self.fields),
            "paradigms": scores_to_json(self.paradigms),
        }


@dataclass(frozen=True)
class Probing:
    """What probes and minimal pairs find in a checkpoint.

    Attributes:
        checkpoint: where it lies.
        kind: of probe: ``ridge``, ``logistic`` or ``mlp``.
        pooling: how the vectors of a sentence's tokens become one.
        tasks: by name; empty where none were given.
        minimal_pairs: None where none were given.

    Example:
        >>> Probing("model", "ridge", "mean").to_json()
        {'checkpoint': 'model', 'probe': 'ridge', 'pooling': 'mean'}
    """

    checkpoint: str
    kind: str
    pooling: str
    tasks: Mapping[str, ProbedTask] = field(default_factory=dict)
    minimal_pairs: PairsResult | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the plain form that ``autolr probe --json`` prints."""
        plain: dict[str, Any] = {"checkpoint": self.checkpoint, PROBE.name: self.kind, "pooling": self.pooling}
        if self.tasks:
            plain["tasks"] = {name: task.to_json() for name, task in self.tasks.items()}
        if self.minimal_pairs is not None:
            plain["minimal_pairs"] = self.minimal_pairs.to_json()
        return plain
