"""A base for tasks of one's own: rows with named values, texts made of them, and a function that scores a model.

A task in ten lines::

    class Sentiment(ExampleTask):
        def score(self, model, examples):
            batch = self.tokenizer([row["text"] for row in examples], padding=True, return_tensors="pt")
            p = model(**batch).logits.softmax(-1)[range(len(examples)), [row["label"] for row in examples]]
            return {"right": (p > 0.5).double(), "brier": (1 - p).double() ** 2}

    RIGHT = ScoreKind("right", "larger", unit="share", bounds=(0.0, 1.0), binary=True)
    BRIER = ScoreKind("brier", "smaller", bounds=(0.0, 1.0))
    TASK = TaskKind("sentiment", build=Sentiment, scores=(RIGHT, BRIER), objective="brier")

and an entry point ``sentiment = "mypackage.sentiment:TASK"`` in the group ``autolr.tasks``; in a notebook
:func:`autolr.scores.add_task`, or :func:`autolr.tasks.own_task` with a plain function.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, device, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from autolr.data.examples import Example, ExampleData, load_example_parts, load_examples
from autolr.data.parts import Data, Parts
from autolr.errors import UsageError, nearest
from autolr.model.inputs import Batch, count_cut, grouped, longest_input, mean_length, rounded_length
from autolr.model.kind import check_causal, is_causal_class
from autolr.model.padding import padding_side
from autolr.scores import TASKS
from autolr.spec.study import StudySpec
from autolr.statistics.calibrate import SampledCotangents, class_cotangents
from autolr.tasks.class_scorer import ClassScorer
from autolr.tasks.example_scorer import ExampleScorer, Values
from autolr.tasks.language_scorer import LanguageScorer
from autolr.tasks.scorer import Scorer

Text = str | tuple[str, str]
"""A text, or a pair of texts."""


class ExampleTask(ABC):
    """Examples are rows with named values; a subclass says how a model is scored on them, and may read them itself.

    Args:
        spec: the study's specification.
        model: the dense model: a sequence classifier, or a causal language model.
        tokenizer: the model's, with a padding token.
        source: where the model came from, for messages.

    Raises:
        UsageError: the model is of another kind.
    """

    def __init__(
        self, spec: StudySpec, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str
    ) -> None:
        self.spec, self.tokenizer, self.kind = spec, tokenizer, TASKS.get(spec.task)
        self.causal = is_causal_class(model)
        if self.causal:
            check_causal(model, source)
        elif not type(model).__name__.endswith("ForSequenceClassification"):
            raise UsageError(
                f"task {spec.task} needs a sequence classifier or a causal language model, {source} is a "
                f"{type(model).__name__}"
            )
        self.classes = int(model.config.num_labels or 0)
        self.max_length, self.side = longest_input(model, tokenizer), padding_side(model)

    @abstractmethod
    def score(self, model: nn.Module, examples: Sequence[Example]) -> Mapping[str, Values]:
        """Return the task's scores of a model.

        It has to give the same for the same model: nothing may be drawn anew.

        Args:
            model: dense or compressed, in eval mode; no gradient is recorded.
            examples: at least one.

        Returns:
            score -> one value for each example, of which the mean is taken; or one number for all of them, of which no
            error is known, and of which no part can stand for the whole. All scores are of one of these two kinds.
        """

    def text(self, example: Example) -> Text:
        """Return the text or pair of texts that stands for an example where layers are measured.

        The text column of the specification, else its premise and hypothesis columns.

        Raises:
            UsageError: the example has no such column.
        """
        data = self.spec.data
        pair = (data.premise_column, data.hypothesis_column)
        if data.text_column in example:
            return str(example[data.text_column])
        if all(column in example for column in pair):
            return str(example[pair[0]]), str(example[pair[1]])
        raise UsageError(
            f"task {self.kind.name}: an example has no column {data.text_column!r}; "
            f"{nearest(data.text_column, example)}; name it with text_column (--text-column), or give own_task a text"
        )

    def load(self, spec: StudySpec, source: str, split: str | None) -> ExampleData:
        """Read the rows of one source: a file (.jsonl, .csv, .tsv), or a split of a data set of the hub.

        Raises:
            UsageError: they cannot be read.
        """
        return load_examples(source, split, spec.run.offline)

    def majority(self, examples: Sequence[Example]) -> float | None:
        """Return what always giving the commonest answer scores, where more is better; None: not known."""
        del examples
        return None

    def fingerprint(self) -> Mapping[str, Any]:
        """Return what scores depend on besides model and data: nothing."""
        return {}

    @property
    def noun(self) -> str:
        """What an example is called, in the plural."""
        return self.kind.noun

    @property
    def batched(self) -> bool:
        """:meth:`score` makes batches of its own."""
        return False

    @property
    def backward_passes(self) -> int:
        """One less than there are classes; one for next tokens."""
        return 1 if self.causal else self.classes - 1

    def cotangents(self, logits: Tensor, mask: Tensor, /) -> list[Tensor]:
        """Return what gives the Fisher information of the classes, or of next tokens that the model draws itself."""
        return SampledCotangents(self.spec.seed)(logits, mask) if self.causal else class_cotangents(logits, mask)

    def load_parts(self, spec: StudySpec) -> Parts:
        """Read the examples and divide them; see :meth:`autolr.tasks.Task.load_parts`."""
        return load_example_parts(spec.data, lambda source, split: self.load(spec, source, split), self.noun, spec.seed)

    def seq_len(self, parts: Parts) -> int:
        """Return the mean length of the search data in tokens, rounded up to a multiple of 8."""
        return rounded_length(mean_length(self.batches(parts.search, 256, "cpu")), self.max_length)

    def batches(self, data: Data, size: int, where: device | str) -> list[Batch]:
        """Return the examples' texts in batches, sorted by length."""
        encoded = self._encoded(data)
        order = _by_length(encoded)
        found = []
        for group in grouped([len(encoded["input_ids"][row]) for row in order], size):
            listed = {name: [encoded[name][row] for row in order[group]] for name in encoded}
            padded = self.tokenizer.pad(listed, padding_side=self.side, return_tensors="pt")
            found.append({name: tensor.to(where) for name, tensor in padded.items()})
        return found

    def order(self, data: Data) -> list[int]:
        """Return the examples in order of length."""
        return _by_length(self._encoded(data))

    def cut(self, data: Data) -> int:
        """Return how many examples have a text that is cut."""
        return count_cut(self.tokenizer, self._columns(data), self.max_length)

    def scorer(
        self, model: nn.Module, data: Data, batches: Sequence[Batch], tick: Callable[[], None] = lambda: None
    ) -> ExampleScorer:
        """Return a scorer whose reference is this dense model."""
        for _ in batches:
            tick()
        examples = self._in_order(data)
        return ExampleScorer.of(model, batches, examples, self._kinds, self.score, self.majority(examples))

    def stored_scorer(self, data: Data, batches: Sequence[Batch], kept: Mapping[str, Tensor]) -> ExampleScorer:
        """Return the scorer with the dense model's values."""
        examples = self._in_order(data)
        return ExampleScorer(batches, kept["values"], examples, self._kinds, self.score, self.majority(examples))

    def comparer(self, model: nn.Module, data: Data, batches: Sequence[Batch]) -> Scorer:
        """Return a scorer of how far the logits on the examples' texts are from this dense model's."""
        del data
        return LanguageScorer.of(model, batches) if self.causal else ClassScorer.unlabelled(model, batches)

    @property
    def _kinds(self) -> tuple[Any, ...]:
        return tuple(kind for kind in self.kind.scores if kind.exponential_of is None)

    def _in_order(self, data: Data) -> Sequence[Example]:
        assert isinstance(data, ExampleData)
        return [data.rows[row] for row in self.order(data)]

    def _columns(self, data: Data) -> list[list[str]]:
        assert isinstance(data, ExampleData)
        texts = [text if isinstance(text, tuple) else (text,) for text in map(self.text, data.rows)]
        return [list(column) for column in zip(*texts, strict=True)]

    def _encoded(self, data: Data) -> Any:
        return self.tokenizer(*self._columns(data), truncation=True, max_length=self.max_length)


def _by_length(encoded: Any) -> list[int]:
    lengths = [len(ids) for ids in encoded["input_ids"]]
    return sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
