"""Whether a machine, or every node of a cluster, can do the work: before anything is spent."""

import importlib
import platform
import shutil
import socket
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from autolr.checkpoint.hub import unreachable
from autolr.data.example import EXAMPLE_MODEL
from autolr.errors import AutolrError, UsageError
from autolr.model.load import checked_device
from autolr.model.memory import available_bytes
from autolr.optimization.study.database import open_database

PACKAGES = ("autolr", "torch", "transformers", "optuna", "botorch", "ray", "safetensors", "numpy")
EXTRAS = {"ray": "ray.tune", "postgresql": "psycopg", "plots": "matplotlib"}
WORKER_BYTES = 10**9
"""What a worker takes beside its models: the interpreter with its libraries, activations of a batch."""
MODELS_EACH = 2
"""Models a worker holds at most: the dense one, and factors that together are never larger."""


@dataclass(frozen=True)
class Finding:
    """One check on one machine.

    Attributes:
        node: the machine.
        check: what was looked at.
        ok: whether it will do.
        found: what was seen.
        remedy: what to do where it will not.
    """

    node: str
    check: str
    ok: bool
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Needs:
    """What a study will ask of a machine.

    Attributes:
        model: directory or hub id; None: the embedded example.
        offline: whether the hub may not be reached.
        trust_remote_code: whether code that the model brings along may run.
        storage: address of the database; None: a journal.
        study: folder that all nodes should see; None: not looked at.
        device: where models run.
        dtype: of the weights.
        workers: processes on a machine.
    """

    model: str | None = None
    offline: bool = False
    trust_remote_code: bool = False
    storage: str | None = None
    study: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    workers: int = 1


def versions() -> dict[str, str]:
    """Return package -> version here, "absent" where it is not installed; Python's too."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def examine(needs: Needs) -> list[Finding]:
    """Look at this machine."""
    node, found = socket.gethostname(), []

    def check(name: str, look: Callable[[], tuple[bool, str]], remedy: str) -> None:
        try:
            ok, seen = look()
        except (AutolrError, OSError, RuntimeError, ValueError, ImportError) as error:
            ok, seen = False, f"{type(error).__name__}: {str(error).splitlines()[0]}"
        found.append(Finding(node, name, ok, seen, "" if ok else remedy))

    check("device", lambda: _device(needs.device), "name another with --device, or install a torch built for it")
    check("model", lambda: _model(needs), "put it on storage that every node sees, or name it by its hub id")
    if found[-1].ok:
        check("memory", lambda: _memory(needs), "fewer workers for each node, or nodes with more memory")
    check("temporary disk", _disk, f"make room in {tempfile.gettempdir()}")
    if needs.storage is not None:
        check("storage", lambda: _storage(needs.storage), "open the database to this node; PGPASSWORD or ~/.pgpass")
    if needs.study is not None:
        check("study folder", lambda: _folder(needs.study), "put it on storage that every node sees")
    return found


def extras() -> dict[str, str]:
    """Return extra -> "installed" or how to install it."""
    return {name: _extra(name, module) for name, module in EXTRAS.items()}


def differing(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """Return what differs between two machines' versions, in words; nothing where they agree.

    Example:
        >>> differing({"torch": "2.13", "ray": "2.60"}, {"torch": "2.12", "ray": "2.60"})
        'torch 2.12 instead of 2.13'
    """
    return ", ".join(
        f"{name} {there.get(name, 'absent')} instead of {v}" for name, v in here.items() if there.get(name) != v
    )


def _extra(name: str, module: str) -> str:
    try:
        importlib.import_module(module)
    except ImportError:
        return f"absent; pip install 'autolr[{name}]'"
    return "installed"


def _device(name: str) -> tuple[bool, str]:
    device = checked_device(name)
    return True, str(device) if device.type == "cpu" else f"{device} ({torch.cuda.get_device_name(device)})"


def _model(needs: Needs) -> tuple[bool, str]:
    weights = _weight_bytes(needs)
    return True, f"{needs.model or 'the embedded example'}, {weights / 1e6:,.0f} MB of weights"


def _weight_bytes(needs: Needs) -> int:
    source = str(EXAMPLE_MODEL) if needs.model is None else needs.model
    if source.startswith((".", "/", "~")) and not Path(source).expanduser().is_dir():
        raise OSError(f"there is no directory {source}")
    away = None if needs.offline else unreachable(source)
    only_here: dict[str, Any] = {"local_files_only": True} if needs.offline or away is not None else {}
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=needs.trust_remote_code, **only_here)
    except OSError as error:
        if away is None:
            raise
        raise UsageError(f"{source} is not in the hub's cache; {away}") from error
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(  # type: ignore[no-untyped-call]
            config, trust_remote_code=needs.trust_remote_code
        )
    each = torch.empty(0, dtype=getattr(torch, needs.dtype)).element_size()
    return sum(int(p.numel()) for p in model.parameters()) * each


def _memory(needs: Needs) -> tuple[bool, str]:
    wanted = needs.workers * (MODELS_EACH * _weight_bytes(needs) + WORKER_BYTES)
    free = available_bytes()
    if free is None:
        return True, f"{wanted / 1e9:.1f} GB wanted by {needs.workers} workers; how much is free is not known here"
    return free >= wanted, f"{free / 1e9:.1f} GB free, {wanted / 1e9:.1f} GB wanted by {needs.workers} workers"


def _disk() -> tuple[bool, str]:
    free = shutil.disk_usage(tempfile.gettempdir()).free
    return free > 10**9, f"{free / 1e9:.1f} GB free in {tempfile.gettempdir()}"


def _storage(address: str | None) -> tuple[bool, str]:
    assert address is not None
    open_database(address).get_all_studies()
    return True, "answers"


def _folder(path: str | None) -> tuple[bool, str]:
    assert path is not None
    folder = Path(path)
    if not folder.is_dir():
        return False, f"{folder} is not there"
    with tempfile.TemporaryFile(dir=folder):
        return True, f"{folder} can be written"
