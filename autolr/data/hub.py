"""Reading a split of a data set by its id, through the ``datasets`` library."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autolr.checkpoint.hub import unreachable
from autolr.data.files import SUFFIXES, TEXT, Table, kind_of
from autolr.errors import UsageError, nearest

ID = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")
"""``name``, ``owner/name`` or ``owner/name:configuration``."""

_BATCH = 1000
_FILES = (*SUFFIXES, TEXT, ".parquet")


def local_path(source: str) -> Path | None:
    """Return the path that a source of data is, or None where it is an id: a path exists, looks like one, or is no id.

    Example:
        >>> local_path("dev.jsonl"), local_path("nyu-mll/glue:mnli")
        (PosixPath('dev.jsonl'), None)
    """
    path = Path(source).expanduser()
    looks_like_file = path.suffix[1:].isalpha() and kind_of(path) in _FILES
    is_path = path.exists() or looks_like_file or source.startswith((".", "~", "/")) or not ID.fullmatch(source)
    return path if is_path else None


def read_hub(source: str, split: str | None, *, offline: bool = False) -> Table:
    """Load one split of a data set from the cache, or download it.

    Args:
        source: ``owner/name`` or ``owner/name:configuration``, such as ``nyu-mll/glue:mnli``.
        split: the split's name, also in the slicing form of ``datasets`` (``train[:1000]``); None where the data set
            has a single one.
        offline: use only what the cache holds.

    Returns:
        The rows, numbered from 1, and the class names of every integer column that has them.

    Raises:
        UsageError: the data set cannot be had, has several configurations or several splits and none was named, or
            has no such split.
    """
    data, split = _one_split(source, split, offline)
    features: Mapping[str, Any] = data.features or {}
    classes = {name: tuple(kind.names) for name, kind in features.items() if hasattr(kind, "names")}
    return Table(f"{source} [{split}]", "row", _rows(data), classes)


def _one_split(source: str, split: str | None, offline: bool) -> tuple[Any, str]:
    """Return the data of one split and its name."""
    try:
        loaded = _load(source, split, offline)
    except ValueError as error:
        if split is None or "Unknown split" not in str(error):
            raise UsageError(
                f"{source}: {error}; name a configuration after a colon, as in nyu-mll/glue:mnli, "
                "and a split by --split"
            ) from error
        splits = list(_load(source, None, offline))
        raise UsageError(f"{source} has no split {split!r}; {nearest(split, splits)} (--split)") from error
    if split is not None:
        return loaded, split
    if len(loaded) > 1:
        raise UsageError(
            f"{source} has {len(loaded)} splits and none was named; choose by --split: {', '.join(loaded)}"
        )
    [(only, data)] = loaded.items()
    return data, only


def _load(source: str, split: str | None, offline: bool) -> Any:
    """Return a ``Dataset``, or a ``DatasetDict`` when no split is named."""
    import datasets

    name, _, configuration = source.partition(":")
    away = None if offline else unreachable(name, "dataset")
    try:
        with _offline(offline or away is not None):
            return datasets.load_dataset(name, configuration or None, split=split)
    except (OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        where = "in the local cache (--offline is set)" if offline else "on the hub or in the local cache"
        if away is not None:
            raise UsageError(f"{source}: no such file, and no such data set in the local cache; {away}") from error
        raise UsageError(
            f"{source}: no such file, and no such data set could be had {where}: {error}; "
            "download it once while online, or give a local .jsonl, .csv or .tsv file"
        ) from error


@contextmanager
def _offline(active: bool) -> Iterator[None]:
    """Keep ``datasets`` off the network for a while; its own switch is read from the environment at import."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = before or active
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _rows(data: Any) -> Iterator[tuple[int, Mapping[str, object]]]:
    place = 0
    for batch in data.iter(batch_size=_BATCH):
        for values in zip(*batch.values(), strict=True):
            place += 1
            yield place, dict(zip(batch, values, strict=True))
