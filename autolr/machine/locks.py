"""What processes of one machine share out among themselves: the clock, and the cores.

Times are measured while no trial runs on the machine, by whichever study or worker: who measures holds the clock
alone, who evaluates holds it with others. Each core goes to one worker, so that they do not get in each other's way.
All of it is locked files in the user's temporary folder, so it holds among the processes of one user; a process that
dies lets go.
"""

import errno
import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from autolr.errors import UsageError
from autolr.machine.private_folder import private_folder

_PAUSE = 0.05


@contextmanager
def measuring(tick: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the clock alone while a block measures times; waits for evaluations to end and lets none begin.

    Args:
        tick: called while waiting; may raise to stop.
    """
    with _open("clock-gate") as gate, _open("clock") as clock:
        wait_lock(gate, fcntl.LOCK_EX, tick)
        wait_lock(clock, fcntl.LOCK_EX, tick)
        yield


@contextmanager
def evaluating(tick: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the clock with others while a block evaluates; waits while somebody measures.

    Args:
        tick: called while waiting; may raise to stop.
    """
    with _open("clock") as clock:
        with _open("clock-gate") as gate:  # who measures holds it: nobody new comes between
            wait_lock(gate, fcntl.LOCK_SH, tick)
            wait_lock(clock, fcntl.LOCK_SH, tick)
        yield


@contextmanager
def holding(name: str, tick: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock of this name on the machine while a block runs.

    Args:
        name: of the lock.
        tick: called while waiting; may raise to stop.
    """
    with _open(name + ".lock") as file:
        wait_lock(file, fcntl.LOCK_EX, tick)
        yield


def pin_to_cores(count: int) -> ExitStack | None:
    """Bind this process to cores that no other pinned process of this user has.

    Args:
        count: how many cores.

    Returns:
        What holds the cores until it is closed or the process ends; None where too few are free: nothing is bound.
    """
    if not hasattr(os, "sched_setaffinity"):
        return None
    with holding("cores"), ExitStack() as stack:  # one after the other, lest two take half of the last cores each
        mine: list[int] = []
        for core in sorted(os.sched_getaffinity(0)):
            file = stack.enter_context(_open(f"core-{core}"))
            if try_lock(file):
                mine.append(core)
            if len(mine) == count:
                os.sched_setaffinity(0, mine)
                return stack.pop_all()
    return None


def try_lock(file: IO[str]) -> bool:
    """Lock an open file for this process alone, and tell whether that went; it is let go when the file is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_lock(file: IO[str], kind: int = fcntl.LOCK_EX, tick: Callable[[], None] = lambda: None) -> None:
    """Lock an open file as soon as others let go; it is let go when the file is closed.

    Args:
        file: to lock.
        kind: for this process alone, or with others.
        tick: called while waiting; may raise to stop.
    """
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            tick()
            time.sleep(_PAUSE)
        else:
            return


def own_folder() -> Path:
    """Return the folder that this user's processes on this machine share, and nobody else reads or writes.

    Raises:
        UsageError: another user has made it, or it is no folder.
    """
    folder = Path(tempfile.gettempdir()) / f"autolr-{os.getuid()}"
    return private_folder(folder, "set TMPDIR to a folder of your own")


def _open(name: str) -> IO[str]:
    path = own_folder() / name
    try:
        return open(path, "a", opener=_without_links)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UsageError(f"the lock {path} must be a file, got a symbolic link; remove it") from error


def _without_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
