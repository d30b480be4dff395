"""The journal file of a study that one process works on: Optuna's, with its damages named instead of passed on.

A line is one change of the study. A blank line is passed over; the last line may lack its end, where a process died or
is writing. Any other line must be a change that Optuna can carry out on what the lines before it have made.
"""

import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from autolr.errors import UsageError, command
from autolr.optimization.optuna_access import JournalReplay


def open_journal(path: Path, repair: bool = False) -> JournalStorage:
    """Open a journal file.

    Args:
        path: of the file.
        repair: cut off a last line that a crash left unfinished; only for the process that holds the folder.

    Raises:
        UsageError: a line is damaged; also later, when what was written meanwhile is read.
    """
    if repair and path.is_file():
        lock = _FileLock(path)
        lock.acquire()
        _cut_torn_line(path)
        lock.release()
    return JournalStorage(_Journal(path))


def damaged(journal: Path, where: str, fault: str) -> UsageError:
    """Return the error of a damaged journal, with the way out.

    Args:
        journal: the file.
        where: in it, after its name; may be empty.
        fault: what is wrong.
    """
    return UsageError(
        f"{journal}{where}: {fault}. Finished trials have files of their own: rebuild the journal from them with "
        f"{command('resume', journal.parent, '--rebuild')}"
    )


class _Journal(JournalFileBackend):
    """Optuna's file, read with care."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), lock_obj=_FileLock(path))
        self._path = path
        self._replay = JournalReplay("reader")
        """A copy of the study on which each change is tried; it made none, so it takes no error for an answer."""
        self._ends = [(0, 0)]
        """Bytes and lines that the first 0, 1, 2, … changes take up."""

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """Yield the changes from this one on, counted from 0.

        Raises:
            UsageError: a line is damaged.
        """
        number = min(log_number_from, len(self._ends) - 1)
        end, line = self._ends[number]
        with self._path.open("rb") as file:
            file.seek(end)
            for raw in file:
                if not raw.endswith(b"\n"):
                    return
                end, line = end + len(raw), line + 1
                if not raw.strip():
                    continue
                change = self._change(raw, number, line)
                number += 1
                if number == len(self._ends):
                    self._ends.append((end, line))
                if number > log_number_from:
                    yield change

    def _change(self, raw: bytes, number: int, line: int) -> dict[str, Any]:
        try:
            change: dict[str, Any] = json.loads(raw)
            if number == self._replay.log_number_read:
                self._try(change)
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError) as error:
            self._replay.log_number_read = number
            seen = raw[:60].decode(errors="replace").strip()
            raise damaged(
                self._path,
                f", line {line}",
                f"not a change of the study, or of what no line before it made; saw {seen!r}",
            ) from error
        return change

    def _try(self, change: dict[str, Any]) -> None:
        """Carry out a change on the copy; what Optuna would pass over in silence is an error here."""
        if "study_id" in change:
            self._replay.get_study(change["study_id"])
        if "trial_id" in change:
            self._replay.get_trial(change["trial_id"])
        self._replay.apply_logs([change])


class _FileLock(JournalFileOpenLock):
    """A lock on the journal that the kernel frees when its holder dies; Optuna's own outlive a killed process."""

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._path = journal.with_name(journal.name + ".lock")
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        self._file = self._path.open("a")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        assert self._file is not None
        self._file.close()
        self._file = None


def _cut_torn_line(journal: Path) -> None:
    content = journal.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        with journal.open("r+b") as file:
            file.truncate(end)
