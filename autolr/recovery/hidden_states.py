"""The hidden states of all batches between two blocks: in memory up to a limit, beyond it in files."""

import shutil
import tempfile

import torch
from jaxtyping import Float
from torch import Tensor

from autolr.errors import AutolrError

MOST_HELD = 4 * 2**30
"""Bytes of hidden states that are held in memory while the finalists are refitted."""


class Room:
    """What is left of the memory for hidden states.

    Args:
        limit: bytes; beyond it tensors are in files of the system's temporary folder, which are gone with them.
    """

    def __init__(self, limit: int = MOST_HELD) -> None:
        self.left = limit

    def takes(self, x: Tensor) -> bool:
        """Tell whether a tensor may stay in memory; if so, it counts."""
        fits = x.nbytes <= self.left
        self.left -= x.nbytes if fits else 0
        return fits


class HiddenStates:
    """Hidden states of batches, by the number of the batch; those of the next block take their place.

    Args:
        room: shared by all hidden states of a refit.

    Example:
        >>> states = HiddenStates(Room(limit=16))
        >>> states.append(torch.ones(1, 2, 2))
        >>> states.append(torch.ones(1, 2, 2))  # in a file
        >>> states[1] = 2 * states[0]
        >>> states[1].flatten().tolist()
        [2.0, 2.0, 2.0, 2.0]
    """

    def __init__(self, room: Room) -> None:
        self._room = room
        self._held: list[Tensor] = []
        self._files: dict[int, torch.device] = {}

    def __len__(self) -> int:
        return len(self._held)

    def append(self, x: Float[Tensor, "batch positions width"]) -> None:
        """Add a batch's.

        Raises:
            AutolrError: they must be in a file, and the disk is too full.
        """
        if not self._room.takes(x):
            self._files[len(self._held)] = x.device
            x = _in_file(x)
        self._held.append(x)

    def __getitem__(self, number: int) -> Float[Tensor, "batch positions width"]:
        """Return a batch's, on the device that they came from."""
        x = self._held[number]
        return x.to(self._files[number]) if number in self._files else x

    def __setitem__(self, number: int, x: Float[Tensor, "batch positions width"]) -> None:
        """Put a batch's, of the same shape, in the place of those before."""
        if number in self._files:
            self._held[number].copy_(x)
        else:
            self._held[number] = x

    def copy(self) -> "HiddenStates":
        """Return the same hidden states, whose batches are replaced by themselves."""
        other = HiddenStates(self._room)
        for number in range(len(self)):
            other.append(self[number])
        return other


def _in_file(x: Tensor) -> Tensor:
    """Return a copy whose memory is a file without a name."""
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if x.nbytes > free:
        raise AutolrError(
            f"hidden states of a refit that do not fit into {MOST_HELD / 1e9:.1f} GB of memory are kept in {folder}, "
            f"where {free / 1e9:.1f} GB are free and {x.nbytes / 1e9:.1f} GB are needed; set TMPDIR to a folder on a "
            f"larger disk, or use --no-refit"
        )
    with tempfile.NamedTemporaryFile(prefix="autolr-hidden-") as file:
        stored = torch.from_file(file.name, shared=True, size=x.numel(), dtype=x.dtype)
    return stored.view(x.shape).copy_(x)
