"""What a model's directory is, told by its files before anything is loaded."""

import json
import os
import re
from pathlib import Path
from typing import Any

from autolr.checkpoint.directory import is_checkpoint
from autolr.errors import UsageError, nearest

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_SAFE, _PICKLED = "model.safetensors", "pytorch_model.bin"
_NO_GGUF = "name the directory of the model it was converted from, with its safetensors weights"


def check_path(source: str | Path) -> None:
    """Refuse a source that looks like a path and is no directory.

    Args:
        source: a directory, or the id of a model on the hub, which passes.

    Raises:
        UsageError: there is no such directory, or it is a file; or the source is empty.
    """
    if isinstance(source, str) and not source.strip():
        raise UsageError("a checkpoint's place is empty; name a directory, or the id of a model on the hub")
    path = Path(source).expanduser()
    if path.is_dir():
        return
    if path.suffix == ".gguf":
        raise UsageError(f"{source} is a GGUF file, which autolr does not read; {_NO_GGUF}")
    if path.exists():
        raise UsageError(f"{source} is a file; name the directory that holds it")
    if isinstance(source, Path) or source.startswith((".", "~", os.sep)) or source.count("/") > 1:
        raise UsageError(f"there is no directory {source}; {nearest_checkpoint(path)}")


def check_whole(source: str | Path) -> None:
    """Refuse a directory that holds no model, or one whose files are not all there.

    Args:
        source: a directory, or the id of a model on the hub, which passes.

    Raises:
        UsageError: it is no checkpoint, or files of it are missing.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if not is_checkpoint(path):
            _refuse_directory(path)
        _check_parts(path)


def nearest_checkpoint(path: Path) -> str:
    """Return a hint: which checkpoints there are where a directory was looked for."""
    folder = path.parent
    if not folder.is_dir():
        return f"{folder} does not exist either"
    names = [p.name for p in folder.iterdir() if p.is_dir() and is_checkpoint(p)]
    return nearest(path.name, names) if names else f"{folder.resolve()} holds no checkpoint: name a model's directory"


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file of a checkpoint holds.

    Raises:
        UsageError: it is not JSON, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError is one too
        raise UsageError(f"{path} is not JSON ({error}); save or download the model again") from error
    if not isinstance(content, dict):
        raise UsageError(
            f"{path} should hold a JSON object, and holds {type(content).__name__} {str(content)[:40]!r}; "
            f"save or download the model again"
        )
    return content


def _refuse_directory(path: Path) -> None:
    inside = sorted(p.name for p in path.iterdir() if p.is_dir() and is_checkpoint(p))
    if (path / "study.yaml").is_file():
        raise UsageError(
            f"{path} is a study folder; its checkpoints are in {path / 'front'}, others come by autolr export"
        )
    if not any(path.iterdir()):
        raise UsageError(f"{path} is empty; name a directory that holds a model: config.json and *.safetensors")
    if any(path.glob("*.gguf")):
        raise UsageError(f"{path} holds weights as GGUF alone, which autolr does not read; {_NO_GGUF}")
    lacks = "weights (*.safetensors)" if (path / "config.json").is_file() else "config.json"
    hint = f"its subdirectories {', '.join(inside)} are" if inside else "name the directory that holds both"
    if not inside and lacks == "config.json":
        hint = "name the directory that holds it and the weights"
    raise UsageError(f"{path} is not a checkpoint, it has no {lacks}; {hint}")


def _check_parts(path: Path) -> None:
    """Refuse weights in several files some of which, or whose index, are missing."""
    for whole in (_SAFE, _PICKLED):
        index = path / f"{whole}.index.json"
        if (path / whole).is_file():
            return
        if index.is_file():
            named = read_json(index).get("weight_map")
            if not isinstance(named, dict):
                raise UsageError(f"{index} has no weight_map that names files; save or download the model again")
            absent = sorted({str(name) for name in named.values() if not (path / str(name)).is_file()})
            if absent:
                raise UsageError(
                    f"{path} is incomplete: {index.name} names {len(set(named.values()))} files of weights, and "
                    f"{len(absent)} of them are not there, such as {absent[0]}; save or download it again"
                )
            return
    shards = sorted(p.name for p in path.iterdir() if _SHARD.search(p.stem))
    if shards:
        whole = _SAFE if shards[0].endswith(".safetensors") else _PICKLED
        raise UsageError(
            f"{path} is incomplete: it has weights in parts, such as {shards[0]}, and no {whole}.index.json that says "
            f"what is in which; save or download it again"
        )
