"""Minimal pairs: two sentences that differ in one point of grammar, of which one is right (BLiMP's form).

Source: Warstadt et al. 2020, BLiMP, arXiv 1912.00582.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autolr.data.files import SUFFIXES, check_whole, kind_of, read_table
from autolr.errors import UsageError

_NAMES = {"good": ("good", "sentence_good"), "bad": ("bad", "sentence_bad"), "uid": ("uid", "UID"), "field": ("field",)}
"""What the columns are called here and in BLiMP's own files."""


@dataclass(frozen=True)
class MinimalPairs:
    """The pairs of one paradigm.

    Attributes:
        paradigm: what the pairs differ in, such as ``adjunct_island``.
        field: of grammar, such as ``syntax``; empty where it is not said.
        good: the acceptable sentences.
        bad: the others, as many.
    """

    paradigm: str
    field: str
    good: tuple[str, ...]
    bad: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.good)

    def take(self, n: int | None) -> "MinimalPairs":
        """Return the first n pairs; None: all."""
        return MinimalPairs(self.paradigm, self.field, self.good[:n], self.bad[:n])


def load_minimal_pairs(path: Path) -> tuple[MinimalPairs, ...]:
    """Read the paradigms of a file, or of all files of a folder, sorted by name.

    Args:
        path: a .jsonl, .csv or .tsv file (.gz), or a folder with some; a row has ``good`` and ``bad`` (or BLiMP's
            ``sentence_good`` and ``sentence_bad``), and may have ``uid`` and ``field``.

    Raises:
        UsageError: there is no such file, or a row lacks a sentence.
    """
    files = sorted(p for p in path.iterdir() if kind_of(p) in SUFFIXES) if path.is_dir() else [path]
    if not files:
        raise UsageError(f"{path} holds no file of minimal pairs ({', '.join(SUFFIXES)}, each also .gz)")
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for file in files:
        table = read_table(file)
        for place, row in table.rows:
            where = table.at(place)
            sentences = [_cell(row, name, where) for name in ("good", "bad")]
            if not all(isinstance(text, str) and text for text in sentences):
                raise UsageError(
                    f"{where}: must have the columns good and bad, each with a sentence; it has "
                    f"{', '.join(map(str, row))}"
                )
            paradigm = str(_cell(row, "uid", where) or file.name.split(".")[0])
            pair = (str(sentences[0]), str(sentences[1]))
            found.setdefault((paradigm, str(_cell(row, "field", where) or "")), []).append(pair)
    if not found:
        raise UsageError(f"{path} holds no minimal pair")
    return tuple(_pairs(name, field, pairs) for (name, field), pairs in sorted(found.items()))


def _cell(row: Mapping[str, object], name: str, where: str) -> object:
    column = next((key for key in _NAMES[name] if key in row), None)
    if column is None:
        return None
    check_whole(row[column], column, where)
    return row[column]


def _pairs(paradigm: str, field: str, pairs: Sequence[tuple[str, str]]) -> MinimalPairs:
    return MinimalPairs(paradigm, field, tuple(good for good, _ in pairs), tuple(bad for _, bad in pairs))
