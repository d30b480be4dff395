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

    def scorer(self, model: nn.Module, batches: Sequence[Batch], tick: Callable[[], None] = lambda: None) -> Scorer:
        """Return a scorer whose reference is this dense model.

        Raises:
            AutolrError: the model's outputs are not finite.
        """

    def stored_scorer(self, batches: Sequence[Batch], kept: Mapping[str, Tensor]) -> Scorer:
        """Return the scorer with what another one kept of the dense model."""
