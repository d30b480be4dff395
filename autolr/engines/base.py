"""What an engine is: software that runs a checkpoint, and is timed doing it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from autolr.records import Conditions

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class EngineSettings:
    """How a checkpoint is to be run.

    Attributes:
        device: such as ``cpu`` or ``cuda``.
        dtype: of the weights, by name.
        threads: CPU threads; None: the engine's own number.
        offline: nothing may be fetched.
        trust_remote_code: code that a checkpoint brings along may run.
    """

    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    offline: bool = False
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Session:
    """A checkpoint, opened and ready to run.

    Attributes:
        run: runs one batch; it returns when the answer is there, or, on a CUDA device, when the work is queued.
        batch: ``(conditions) -> batch`` of random tokens that this model takes.
        longest: tokens of the longest sequence that it takes; None: no limit is known.
    """

    run: Callable[[Batch], object]
    batch: Callable[[Conditions], Batch]
    longest: int | None = None


@dataclass(frozen=True)
class Engine:
    """Software that runs checkpoints.

    Attributes:
        name: how it is named on the command line.
        help: what it is, in a line.
        needs: what has to be installed for it, as in ``pip install``; empty: nothing beyond autolr.
        open: ``(directory or hub id, settings) -> Session``; raises a UsageError where it cannot run it.
    """

    name: str
    help: str
    needs: str
    open: Callable[[str, EngineSettings], Session]
