"""What a recovery is: something that makes up, in the compressed layers, for what truncation lost."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from autolr.forms.swap import DecompositionSource, compressed
from autolr.model.record_calls import Batch
from autolr.records import Candidate
from autolr.results import RecoveryNote

Tick = Callable[[float], None]
"""Told the share of the work done, in [0, 1]; may raise to stop."""
Compute = Callable[[nn.Module, Candidate, DecompositionSource, Sequence[Batch], Tick], Mapping[str, Tensor]]
ComputeTogether = Callable[
    [nn.Module, Sequence[Candidate], DecompositionSource, Sequence[Batch], Tick], Sequence[Mapping[str, Tensor]]
]
Apply = Callable[[nn.Module, Mapping[str, Tensor]], None]


@dataclass(frozen=True)
class Recovery:
    """A way to recover, after truncation, some of what it cost: a record of its name and two functions.

    Attributes:
        name: how it is named in a specification.
        version: raised whenever its results change, so that stored ones are not mistaken for new ones.
        help: what it does, in a line.
        did: what it did to the layers it changed, as a participle: "refitted by least squares".
        compute: ``(dense model, candidate, decompositions, batches, tick) -> tensors``. The model is in evaluation mode
            and is left as it was; the batches are tokenized calibration data. Tensors are named ``<layer>/<part>``;
            none, where nothing can be recovered.
        apply: ``(model, tensors) -> None``: changes the candidate's layers, which are in the model, in place, by what
            ``compute`` returned, and nothing else of the model.
        examples: calibration examples that it takes; None: all.
        trains: it trains the model, in the sense of gradient descent on its loss.
        compute_together: as ``compute``, of several candidates at once, where that is cheaper; the tensors of each are
            those that ``compute`` returns. None: one is computed after the other.
    """

    name: str
    version: int
    help: str
    did: str
    compute: Compute
    apply: Apply
    examples: int | None = None
    trains: bool = False
    compute_together: ComputeTogether | None = None


@dataclass(frozen=True)
class Changes:
    """What a recovery changes in the layers of one candidate.

    Attributes:
        recovery: whose they are.
        tensors: ``<layer>/<part>`` -> what it computed; at least one.
    """

    recovery: Recovery
    tensors: Mapping[str, Tensor]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that are changed, each once."""
        return tuple(dict.fromkeys(name.rpartition("/")[0] for name in self.tensors))

    def note(self) -> RecoveryNote:
        """Return what was done, in words."""
        return RecoveryNote(self.recovery.name, len(self.layers), self.recovery.did, self.recovery.trains)


@contextmanager
def recovered(
    model: nn.Module, candidate: Candidate, source: DecompositionSource, changes: Changes | None
) -> Iterator[nn.Module]:
    """Run a block of code with the candidate in place, changed by a recovery; the dense modules are back afterwards.

    Args:
        model: the dense model.
        candidate: what is compressed.
        source: where the decompositions come from.
        changes: of this candidate; None: it stays as it was truncated.
    """
    with compressed(model, candidate, source):
        if changes is not None:
            changes.recovery.apply(model, changes.tensors)
        yield model
