"""Natural language inference by a sequence classifier."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, device, nn
from transformers import PreTrainedModel

from autolr.data.labels import model_labels
from autolr.data.nli import NliData
from autolr.data.parts import Data, Parts, load_nli_parts, load_pairs
from autolr.errors import UsageError
from autolr.model.inputs import Batch, Side, count_cut, length_order, mean_length, pair_batches, rounded_length
from autolr.spec.study import StudySpec
from autolr.statistics.calibrate import class_cotangents
from autolr.tasks.class_scorer import ClassScorer


@dataclass(frozen=True)
class Classification:
    """Pairs of sentences for a model with a classification head.

    Attributes:
        tokenizer: the model's.
        max_length: tokens after which a pair is cut.
        labels: the model's label names with their ids.
        side: on which the model wants its padding.
    """

    tokenizer: Any
    max_length: int
    labels: Mapping[str, int]
    side: Side = "right"
    noun: str = "pairs"
    batched: bool = True

    @property
    def backward_passes(self) -> int:
        """One less than there are classes, some of which may have several names."""
        return len(set(self.labels.values())) - 1

    def cotangents(self, logits: Tensor, mask: Tensor, /) -> list[Tensor]:
        """Return the square root of the classes' Fisher information."""
        return class_cotangents(logits, mask)

    def fingerprint(self) -> Mapping[str, Any]:
        """Return nothing: the labels are in the model's configuration."""
        return {}

    def load_parts(self, spec: StudySpec) -> Parts:
        """Read the pairs; see :meth:`Task.load_parts`."""
        return load_nli_parts(spec.data, self.labels, spec.model is None, spec.run.offline, spec.seed)

    def load(self, spec: StudySpec, source: str, split: str | None) -> NliData:
        """Read pairs from one source."""
        return load_pairs(spec.data, source, split, self.labels, spec.run.offline)

    def seq_len(self, parts: Parts) -> int:
        """Return the mean length of the search data in tokens, rounded up to a multiple of 8."""
        return rounded_length(mean_length(self.batches(parts.search, 256, "cpu")), self.max_length)

    def batches(self, data: Data, size: int, where: device | str) -> list[Batch]:
        """Return batches with ``labels``, sorted by length."""
        assert isinstance(data, NliData)
        return pair_batches(self.tokenizer, data, size, self.max_length, where, self.side)

    def order(self, data: Data) -> list[int]:
        """Return the pairs in order of length."""
        assert isinstance(data, NliData)
        return length_order(self.tokenizer, data, self.max_length)

    def cut(self, data: Data) -> int:
        """Return how many pairs are cut."""
        assert isinstance(data, NliData)
        return count_cut(self.tokenizer, (data.premises, data.hypotheses), self.max_length)

    def scorer(
        self, model: nn.Module, data: Data, batches: Sequence[Batch], tick: Callable[[], None] = lambda: None
    ) -> ClassScorer:
        """Return a scorer whose reference is this dense model."""
        return ClassScorer.of(model, batches, tick)

    def comparer(self, model: nn.Module, data: Data, batches: Sequence[Batch]) -> ClassScorer:
        """Return the task's scorer, which gives divergence and agreement."""
        return self.scorer(model, data, batches)

    def stored_scorer(self, data: Data, batches: Sequence[Batch], kept: Mapping[str, Tensor]) -> ClassScorer:
        """Return the scorer with the dense model's logits."""
        return ClassScorer(batches, kept["logits"])


def check_classifier(model: PreTrainedModel, source: str) -> None:
    """Raise unless the model is a sequence classifier with at least two labels.

    Raises:
        UsageError: with the architecture seen.
    """
    name = type(model).__name__
    if not name.endswith("ForSequenceClassification"):
        raise UsageError(
            f"task nli needs a sequence classifier or a causal language model, {source} is a {name}; fine-tune it on "
            f"NLI first"
        )
    config: Any = model.config
    if config.num_labels < 2:
        raise UsageError(f"task nli needs at least two labels, {source} has {config.num_labels}")


def check_ends(model: PreTrainedModel, tokenizer: Any, source: str) -> None:
    """Raise if an encoder-decoder would not find the end of a text, where it reads its answer.

    Raises:
        UsageError: the tokenizer does not put the model's end-of-text token behind a pair.
    """
    end = getattr(model.config, "eos_token_id", None)
    if getattr(model.config, "is_encoder_decoder", False) and tokenizer("a", "a")["input_ids"][-1] != end:
        raise UsageError(
            f"{type(model).__name__} reads its answer at the end-of-text token ({end}), which the tokenizer of "
            f"{source} does not put behind a pair; save one that does"
        )


def label_ids(model: PreTrainedModel, source: str, named: bool) -> dict[str, int]:
    """Return the classifier's label names with their ids.

    Args:
        model: a classifier.
        source: where it came from, for the message.
        named: the user says what the ids mean: then what the configuration says of it does not matter.

    Raises:
        UsageError: the configuration contradicts itself.
    """
    config: Any = model.config
    if named:
        return {f"LABEL_{index}": index for index in range(config.num_labels)}
    return model_labels(config.id2label, config.label2id, config.num_labels, source)
