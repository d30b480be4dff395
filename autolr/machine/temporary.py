"""Folders that last as long as a piece of work, and what work that was killed left of its own."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autolr.machine.locks import try_lock, wait_lock

_LOCK = "lock"


@contextmanager
def passing_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Have a new folder while a block runs; those of processes that were killed are deleted first.

    Args:
        parent: where; must exist. Processes of several machines may share it.
        prefix: how the names of such folders begin; folders of other kinds are left alone.

    Example:
        >>> import tempfile
        >>> parent = Path(tempfile.mkdtemp())
        >>> with passing_folder(parent, "work-") as folder:
        ...     _ = (folder / "n").write_text("1")
        >>> list(parent.glob("work-*"))
        []
    """
    with (parent / f".{prefix}{_LOCK}").open("a") as sweeping:
        wait_lock(sweeping)
        for left in parent.glob(f"{prefix}*/{_LOCK}"):
            with left.open("a") as file:
                if try_lock(file):
                    shutil.rmtree(left.parent, ignore_errors=True)
        folder = parent / f"{prefix}{uuid.uuid4().hex}"
        folder.mkdir()
        held = (folder / _LOCK).open("a")
        try_lock(held)
    with held:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
