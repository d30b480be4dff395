"""Files that are replaced in one step."""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name beside a file to write to, and put what was written in the file's place when the block ends.

    A reader sees the old or the new content, never half. Where the block fails, because the disk is full, the old
    content stays, and nothing beside it.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with replacing(folder / "n") as new:
        ...     _ = new.write_text("1")
        >>> [found.name for found in folder.iterdir()]
        ['n']
    """
    # No process number: containers that share a folder have equal ones. No mkstemp: its files are their owner's alone.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the mapping in a JSON file; None if the file is absent, damaged or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's content in one step, and see that it is on the disk."""
    with replacing(path) as temporary, temporary.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
