"""Tensors kept beside the bank, so that nothing is computed twice: each file says what it was computed from."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from autolr.machine.atomic import replacing
from autolr.machine.tensor_digest import tensor_digest
from autolr.machine.tensor_file import check_readable, save_tensors


def read_kept(path: Path, key: str) -> dict[str, Tensor] | None:
    """Return the tensors of a file, or None if it is absent, damaged or of another key.

    Raises:
        UsageError: it may not be read.
    """
    check_readable(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError):
        return None
    if metadata.get("key") != key or metadata.get("checksum") != tensor_digest(tensors):
        return None
    return tensors


def write_kept(path: Path, key: str, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors in one step, with the key of what they were computed from and a checksum."""
    held = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_tensors(held, temporary, {"key": key, "checksum": tensor_digest(held)})
