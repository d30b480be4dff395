"""The protocol of the tasks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, device, nn

from autolr.data.parts import Data, Parts
from autolr.model.inputs import Batch
from autolr.spec.study import StudySpec
from autolr.tasks.scorer import Scorer


@runtime_checkable
class Task(Protocol):
    """A task for one model with its tokenizer."""

    @property
    def noun(self) -> str:
        """What an example is called, in the plural."""

    @property
    def batched(self) -> bool:
        """Its answers come from :meth:`batches`, so that they are held against those to an example alone."""

    @property
    def backward_passes(self) -> int:
        """How many vectors :meth:`cotangents` returns."""

    def cotangents(self, logits: Tensor, mask: Tensor, /) -> list[Tensor]:
        """Return what calibration backpropagates from the logits: :data:`autolr.statistics.calibrate.Cotangents`."""

    def fingerprint(self) -> Mapping[str, Any]:
        """Return what scores depend on besides model and data."""

    def load_parts(self, spec: StudySpec) -> Parts:
        """Read the data and divide them.

        Raises:
            UsageError: they are missing, unreadable or too few, or parts are one another.
        """

    def load(self, spec: StudySpec, source: str, split: str | None) -> Data:
        """Read examples from one source with the specification's settings.

        Raises:
            UsageError: they cannot be read.
        """

    def seq_len(self, parts: Parts) -> int:
        """Return the typical length of the search data in tokens."""

    def batches(self, data: Data, size: int, where: device | str) -> list[Batch]:
        """Return tokenized, padded batches, alike lengths together."""

    def order(self, data: Data) -> list[int]:
        """Return the order in which :meth:`batches` has the examples."""

    def cut(self, data: Data) -> int:
        """Return how many examples are cut because they have more tokens than the model takes."""

    def scorer(
        self, model: nn.Module, data: Data, batches: Sequence[Batch], tick: Callable[[], None] = lambda: None
    ) -> Scorer:
        """Return a scorer whose reference is this dense model.

        Args:
            model: the dense model.
            data: the examples.
            batches: of the examples, as :meth:`batches` returns them.
            tick: called between batches; may raise to stop.

        Raises:
            AutolrError: the model's outputs are not finite.
        """

    def stored_scorer(self, data: Data, batches: Sequence[Batch], kept: Mapping[str, Tensor]) -> Scorer:
        """Return the scorer with what another one kept of the dense model."""

    def comparer(self, model: nn.Module, data: Data, batches: Sequence[Batch]) -> Scorer:
        """Return a scorer that gives divergence and agreement with this dense model, whatever the task's own scores.

        Layers are measured by it one at a time. A task whose scores have both returns its scorer.
        """
