"""Folders that one user's processes share, and nobody else reads or writes."""

import os
import stat
from contextlib import suppress
from pathlib import Path

from autolr.errors import UsageError

CACHE = "AUTOLR_CACHE"
"""The variable that names the folder of what studies of this user keep for each other."""


def private_folder(folder: Path, remedy: str) -> Path:
    """Make a folder that is this user's alone where there is none, and close it to others.

    Args:
        folder: whose parent must exist.
        remedy: what to do where it cannot be used, besides removing it.

    Raises:
        UsageError: another user has made it, or it is no folder.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()  # not of what a link leads to: whoever made the link would choose where files lie
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise UsageError(
            f"{folder} must be a folder of user {os.getuid()}, got {stat.filemode(found.st_mode)} of user "
            f"{found.st_uid}; remove it, or {remedy}"
        )
    if found.st_mode & 0o077:
        folder.chmod(0o700)
    return folder


def cache_folder() -> Path:
    """Return the folder of what this user's studies keep for each other: AUTOLR_CACHE, or autolr in the user's cache.

    Raises:
        UsageError: it is not this user's own folder.
        OSError: it cannot be made.
    """
    named = os.environ.get(CACHE)
    folder = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autolr"
    folder.parent.mkdir(parents=True, exist_ok=True)
    return private_folder(folder, f"set {CACHE} to a folder of your own")
