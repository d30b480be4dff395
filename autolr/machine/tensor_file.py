"""Files of tensors: written with the mode of any new file, and told where they may not be read."""

import stat
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from autolr.errors import UsageError


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a file of contiguous tensors; who may read other new files of this process may read it, too."""
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    save_file(dict(tensors), path, metadata=None if metadata is None else dict(metadata))
    path.chmod(mode)  # safetensors writes files that only their owner can read


def check_readable(path: Path) -> None:
    """Refuse a file that is there and may not be read: it is not damaged, and nothing is to be computed in its place.

    Raises:
        UsageError: with the remedy.
    """
    try:
        path.open("rb").close()
    except PermissionError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}; have its owner let others read the study (chmod -R a+rX), or begin "
            f"another one with --study"
        ) from error
    except OSError:  # absent, or no file: who reads it sees that
        return
