"""Directories that are written whole or not at all."""

import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from autolr.errors import AutolrError, UsageError

WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")
_CHECKPOINT_SUFFIXES = frozenset(
    {".json", ".safetensors", ".bin", ".md", ".py", ".txt", ".model", ".jinja", ".gitattributes"}
)


def is_checkpoint(directory: Path) -> bool:
    """Say whether a directory holds a model: a config.json and weights."""
    return (directory / "config.json").is_file() and any(any(directory.glob(pattern)) for pattern in WEIGHT_FILES)


def check_replaceable(directory: Path) -> None:
    """Make sure that nothing but an older checkpoint is lost when a directory is written.

    Raises:
        UsageError: it is a file, or holds anything that no checkpoint consists of.
    """
    if not directory.exists():
        return
    if not directory.is_dir():
        raise UsageError(f"{directory} is a file; name a directory to write the checkpoint to")
    entries = sorted(directory.iterdir())
    if not entries:
        return
    if not is_checkpoint(directory):
        foreign = entries
    else:
        foreign = [e for e in entries if not e.is_file() or (e.suffix or e.name) not in _CHECKPOINT_SUFFIXES]
    if foreign:
        raise holds_foreign(directory, foreign, "checkpoint", "an older checkpoint is replaced")


def holds_foreign(directory: Path, foreign: Sequence[Path], noun: str, taken: str) -> UsageError:
    """Return the error of a directory that is to be written and holds what must not be touched.

    Args:
        directory: the directory.
        foreign: entries of it.
        noun: what they are no part of.
        taken: what is written to beside an empty directory, and how.
    """
    shown = ", ".join(e.name for e in foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
    return UsageError(
        f"{directory} holds files that are not part of a {noun} ({shown}), and only an empty directory or {taken}; "
        f"name another directory or empty this one"
    )


def check_vacant(directory: Path, force: bool) -> None:
    """Make sure that a directory named by a user is not yet in use.

    Args:
        directory: to write.
        force: allow what :func:`check_replaceable` allows, an older checkpoint.

    Raises:
        UsageError: something is there, or nothing can be written there.
    """
    check_replaceable(directory)
    check_writable(directory)
    if not force and directory.exists() and any(directory.iterdir()):
        raise UsageError(f"{directory} holds a checkpoint already; choose another --out, or replace it by --force")


def check_not_dense(directory: Path, model: str | None) -> None:
    """Raise where the dense model itself would be written over.

    Raises:
        UsageError: the directory is the model's.
    """
    if model and directory.resolve() == Path(model).resolve():
        raise UsageError(f"--out {directory} is the dense model itself; choose another directory")


def check_writable(directory: Path) -> None:
    """Make sure that a directory can be made and filled, by a passing one in the nearest folder that is there.

    Raises:
        UsageError: it cannot.
    """
    there = next(folder for folder in directory.expanduser().absolute().parents if folder.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=".autolr-", dir=there):
            pass
    except OSError as error:
        raise UsageError(f"cannot write to {directory}: {error.strerror} (in {there}); name another place") from error


@contextmanager
def replaced_directory(directory: Path) -> Iterator[Path]:
    """Yield a new directory to fill, which takes the place of ``directory`` when the block ends without an error.

    It is a hidden sibling, so that a rename moves it. Whatever happens, ``directory`` is either what it was, absent
    for the instant between two renames, or complete; a process that is killed can leave the sibling behind.

    Raises:
        UsageError: as :func:`check_replaceable`.
        AutolrError: it cannot be written, for the disk is full or the folder closed.
    """
    directory = directory.expanduser().resolve()
    check_replaceable(directory)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritten(directory, error) from error
    mark = uuid.uuid4().hex[:8]
    new = directory.with_name(f".{directory.name}.{mark}.partial")
    old = directory.with_name(f".{directory.name}.{mark}.replaced")
    try:
        new.mkdir()
        yield new
        check_replaceable(directory)
        if directory.exists():
            directory.rename(old)
        try:
            new.rename(directory)
        except OSError:
            if old.exists():
                old.rename(directory)
            raise
    except (OSError, SafetensorError) as error:
        raise _unwritten(directory, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if directory.exists():
            shutil.rmtree(old, ignore_errors=True)


def _unwritten(directory: Path, error: Exception) -> AutolrError:
    return AutolrError(f"{directory} could not be written: {error}; make room there, or name another place")
