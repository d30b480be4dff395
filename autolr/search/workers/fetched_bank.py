"""Banks that workers fetched, in the temporary folder of their machine, and who clears them away."""

import shutil
import time
from pathlib import Path

from autolr.machine import locks as slots

BANK = "bank-"
"""How the names of fetched banks begin."""
UNUSED_SECONDS = 7 * 86400.0
"""After which a fetched bank that no worker has opened is deleted."""


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
