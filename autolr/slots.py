"""What processes of one machine share out among themselves: the clock, and the cores.

Times are measured while no trial runs on the machine, by whichever study or worker: who measures holds the clock
alone, who evaluates holds it with others. Cores go to workers in blocks, so that they do not get in each other's way.
All of it is locked files in the user's temporary folder; a process that dies lets go.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_PAUSE = 0.05


@contextmanager
def measuring(tick: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the clock alone while a block measures times; waits for evaluations to end and lets none begin.

    Args:
        tick: called while waiting; may raise to stop.
    """
    with _open("clock-gate") as gate, _open("clock") as clock:
        _lock(gate, fcntl.LOCK_EX, tick)
        _lock(clock, fcntl.LOCK_EX, tick)
        yield


@contextmanager
def evaluating(tick: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the clock with others while a block evaluates; waits while somebody measures.

    Args:
        tick: called while waiting; may raise to stop.
    """
    with _open("clock") as clock:
        with _open("clock-gate") as gate:  # who measures holds it: nobody new comes between
            _lock(gate, fcntl.LOCK_SH, tick)
            _lock(clock, fcntl.LOCK_SH, tick)
        yield


@contextmanager
def holding(name: str) -> Iterator[None]:
    """Hold a lock of this name on the machine while a block runs."""
    with _open(name + ".lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def pin_to_cores(count: int) -> IO[str] | None:
    """Bind this process to a block of cores that no other pinned process has.

    Args:
        count: cores in a block.

    Returns:
        What holds the block until it is closed or the process ends; None where no block is free: nothing is bound.
    """
    if not hasattr(os, "sched_setaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    for block in range(len(cores) // count):
        file = _open(f"cores-{count}-{block}")
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.sched_setaffinity(0, cores[block * count : (block + 1) * count])
            return file
        file.close()
    return None


def _lock(file: IO[str], kind: int, tick: Callable[[], None]) -> None:
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            tick()
            time.sleep(_PAUSE)
        else:
            return


def _open(name: str) -> IO[str]:
    folder = Path(tempfile.gettempdir()) / f"autolr-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return (folder / name).open("a")
