"""Data that are objects in memory: written as JSON Lines, so that any process can read them, and go on with a study."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from autolr.errors import UsageError
from autolr.machine.atomic import write_atomically

Rows = Iterable[Mapping[str, Any]]
"""Examples as columns with values: a list of dicts, or a ``datasets.Dataset``."""


def write_rows(rows: Iterable[object], folder: Path, name: str) -> Path:
    r"""Write rows to a file that is named by its content, and return the file; the same rows are one file.

    Class labels that a ``datasets.Dataset`` keeps as numbers are written as their names, which are then matched to the
    model's: numbers in a file would be the model's own.

    Args:
        rows: the examples, which should be :data:`Rows`.
        folder: to write to; it is made where it is missing.
        name: what they are, such as ``train``, for the file's name and for messages.

    Raises:
        UsageError: they are no rows; a row is no mapping, or holds what JSON cannot: with the row, from 1, and the
            column.

    Example:
        >>> import tempfile
        >>> file = write_rows([{"text": "It rains."}], Path(tempfile.mkdtemp()), "train")
        >>> file.name, file.read_text()
        ('train-533f743c9a4c.jsonl', '{"text": "It rains."}\n')
    """
    if not isinstance(rows, Iterable):
        raise UsageError(f"{name} data must be a file or rows, saw {rows!r:.60}; give a list of dicts")
    classes = _class_names(rows)
    lines = [_line(row, f"{name} data, row {number}", classes) for number, row in enumerate(rows, start=1)]
    content = "".join(lines)
    path = folder / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}.jsonl"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    return path


def _class_names(rows: object) -> dict[str, list[str]]:
    """Return column -> the names of its classes, of a data set that keeps classes as numbers."""
    features: Mapping[str, Any] = getattr(rows, "features", None) or {}
    return {column: list(kind.names) for column, kind in features.items() if hasattr(kind, "names")}


def _line(row: object, where: str, classes: Mapping[str, list[str]]) -> str:
    if not isinstance(row, Mapping):
        raise UsageError(f"{where} must be a mapping of columns to values, saw {row!r:.60}; give a list of dicts")
    plain = {}
    for column, given in row.items():
        value = given.item() if getattr(given, "shape", None) == () else given  # a number of NumPy's or torch's
        named = column in classes and isinstance(value, int) and 0 <= value < len(classes[column])
        plain[column] = classes[column][value] if named else value
        try:
            json.dumps(plain[column], allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"{where}: {column!r} holds {value!r:.60}, which JSON cannot ({error}); convert the column, or leave "
                f"it out"
            ) from error
    return json.dumps(plain) + "\n"
