"""What drivers and workers leave in the temporary folder of a machine, and who clears it away."""

import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autolr import slots

BANK = "bank-"
"""How the names of fetched banks begin."""
UNUSED_SECONDS = 7 * 86400.0
"""After which a fetched bank that no worker has opened is deleted."""
_TUNE = "tune-"
_LOCK = "lock"


@contextmanager
def scratch() -> Iterator[Path]:
    """Have a folder while a block runs; those of processes that were killed are deleted first."""
    with slots.holding("tune"):
        for left in slots.own_folder().glob(f"{_TUNE}*/{_LOCK}"):
            with left.open("a") as file:
                if slots.try_lock(file):
                    shutil.rmtree(left.parent, ignore_errors=True)
        folder = slots.own_folder() / f"{_TUNE}{uuid.uuid4().hex}"
        folder.mkdir()
        file = (folder / _LOCK).open("a")
        slots.try_lock(file)
    with file:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def sweep_banks(besides: str) -> None:
    """Delete the fetched banks that no worker has opened for a long time.

    A worker that has worked with one all the while and finds a file gone ends, and the next one fetches it again.

    Args:
        besides: name of the bank that stays in any case.
    """
    for bank in slots.own_folder().glob(f"{BANK}*/"):
        if bank.name != besides and _unused(bank):
            with slots.holding(bank.name):
                if _unused(bank):  # nobody has come before
                    shutil.rmtree(bank, ignore_errors=True)


def _unused(bank: Path) -> bool:
    try:
        return time.time() - bank.stat().st_mtime > UNUSED_SECONDS
    except FileNotFoundError:  # another worker has deleted it
        return False
