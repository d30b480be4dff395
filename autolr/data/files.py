"""Reading rows from local JSON Lines, CSV and TSV files, each with the line it came from."""

import codecs
import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BufferedIOBase, StringIO
from pathlib import Path
from typing import Any

from autolr.data.quoted_tsv import MalformedTable, Row, is_quoted, quoted_rows
from autolr.errors import UsageError, nearest, similar

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
TEXT = ".txt"
FORMATS = "/".join(SUFFIXES) + ", each also with .gz"

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_RAW_TSV = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
_CSV_HINT = "put cells that hold a comma, a quote or a line end in double quotes, and double the quotes inside"
_RAW_TSV_HINT = (
    "a cell must not hold a tab or a line end, unless it and every cell that holds a quote are in double quotes, "
    "with the quotes inside doubled"
)
_QUOTED_TSV_HINT = (
    "its header is in quotes: put cells that hold a tab, a quote or a line end in double quotes, and double the quotes "
    "inside"
)
_LONGEST_CELL = 2**31 - 1
"""Characters; csv's own limit of 131072 is shorter than many a document."""


@dataclass(frozen=True)
class Table:
    """Rows with the place they came from.

    Attributes:
        name: the file, or the id of the data set.
        unit: what ``place`` counts: "line" of a file, "row" of a data set, from 1.
        rows: pairs of place and row; can be iterated once.
        classes: column name -> the names of its integer values, where the source knows them.
    """

    name: str
    unit: str
    rows: Iterable[tuple[int, Mapping[str, object]]]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def at(self, place: int) -> str:
        """Return how a message names a place.

        Example:
            >>> Table("dev.jsonl", "line", []).at(7)
            'dev.jsonl, line 7'
        """
        return f"{self.name}, {self.unit} {place}"


def read_table(path: Path) -> Table:
    """Open a file by its suffix; the rows are read as they are iterated.

    Text is UTF-8, a byte-order mark is dropped. CSV follows RFC 4180. TSV is read raw, as GLUE has it, where quotes are
    text, unless the file shows that csv or pandas wrote it; see :func:`autolr.data.quoted_tsv.is_quoted`.

    Args:
        path: a .jsonl, .json (one object per line), .csv or .tsv file, or one of these compressed as .gz.

    Returns:
        The file's rows. Iterating them raises ``UsageError`` with the line number for bytes that are not UTF-8, a
        malformed JSON line, a ragged row, a broken archive.

    Raises:
        UsageError: there is no such file, it is a folder, or its suffix is unknown.
    """
    check_exists(path)
    kind = kind_of(path)
    if kind not in SUFFIXES:
        raise UsageError(f"{path}: do not know how to read {kind or 'a file without a suffix'}; it must be {FORMATS}")
    lines = _lines(path)
    rows = _json_rows(path, lines) if kind in {".jsonl", ".json"} else _delimited_rows(path, lines, kind)
    return Table(str(path), "line", rows)


def kind_of(path: Path) -> str:
    """Return the suffix that tells the format, without ``.gz``.

    Example:
        >>> kind_of(Path("train.jsonl.GZ")), kind_of(Path("dev.tsv"))
        ('.jsonl', '.tsv')
    """
    lowered = Path(path.name.lower())
    return Path(lowered.stem).suffix if lowered.suffix == ".gz" else lowered.suffix


def check_exists(path: Path) -> None:
    """Raise a ``UsageError`` that names the nearest files when there is no such file."""
    if path.is_file():
        return
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        raise UsageError(f"{path}: no such file, and no folder {folder}")
    names = [entry.name for entry in folder.iterdir() if entry.is_file() and kind_of(entry) in (*SUFFIXES, TEXT)]
    hint = nearest(path.name, names) if names else f"{folder} holds no data file ({FORMATS})"
    seen = "is a folder, not a file" if path.is_dir() else "no such file"
    raise UsageError(f"{path}: {seen}; {hint}")


def no_column(row: Mapping[str, object], options: Mapping[str, str], where: str) -> UsageError:
    """Return the error of columns that a row lacks.

    Args:
        row: the row.
        options: column that is wanted -> option that names it; those that the row has are passed over.
        where: the row's place, for the message.

    Example:
        >>> print(no_column({"a;b": "1;2"}, {"a": "--text-column"}, "x.csv, line 2"))
        x.csv, line 2: no column 'a'; the columns are a;b; the cells seem to be separated by semicolons: write commas
    """
    lacking = [column for column in options if column not in row]
    near = "".join(similar(column, row) for column in lacking)
    said = f"{where}: no column {', '.join(map(repr, lacking))}; the columns are {', '.join(row)}{near}"
    if len(row) == 1 and ";" in next(iter(row)):
        return UsageError(f"{said}; the cells seem to be separated by semicolons: write commas")
    flags = " and ".join(options[column] for column in lacking)
    them = "it" if len(lacking) == 1 else "them"
    return UsageError(f"{said}; name {them} with {flags}, which holds for all files alike")


def check_whole(value: object, column: str, where: str) -> None:
    """Refuse a text with half a character: JSON can write one, and neither tokenizers nor files can hold it.

    Args:
        value: of a cell; what is no text passes.
        column: the cell's.
        where: the place of its row, for the message.

    Raises:
        UsageError: the text holds a lone surrogate.
    """
    half = _LONE_SURROGATE.search(value) if isinstance(value, str) else None
    if half is not None:
        raise UsageError(
            f"{where}: {column!r} holds {half[0]!r} as its character {half.start() + 1}, which is half of a character "
            "(a lone surrogate): write both halves, as of an emoji, or remove it"
        )


def read_text(path: Path) -> str:
    """Return the whole text of a .txt or .txt.gz file: UTF-8, a byte-order mark is dropped.

    Raises:
        UsageError: there is no such file, or it is not such text; with the line.
    """
    check_exists(path)
    return "".join(_lines(path))


def _lines(path: Path) -> Iterator[str]:
    """Yield the decoded lines with their ends, naming the line where reading or decoding fails."""
    number = 0
    try:
        with _open(path) as stream:
            for number, raw in enumerate(stream, start=1):
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        of_two_bytes = number == 1 and error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        raise UsageError(
            f"{path}, line {number}: byte {error.object[error.start]:#04x} is not UTF-8; "
            f"convert the file, for instance with iconv -f {'utf-16' if of_two_bytes else 'latin1'} -t utf-8"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: cannot be read after line {number}: {error}") from error


def _open(path: Path) -> BufferedIOBase:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rb")
    return path.open("rb")


def _json_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # a number of thousands of digits is no JSONDecodeError
            fault = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            hint = " (an array: write one object per line)" if line.lstrip().startswith("[") else ""
            raise UsageError(
                f"{path}, line {number}: not a JSON object on one line: {fault}, saw {_shown(line)}{hint}"
            ) from error
        if not isinstance(row, dict):
            raise UsageError(f"{path}, line {number}: must be a JSON object, saw {_shown(line)}; one object per line")
        yield number, row


def _delimited_rows(path: Path, lines: Iterable[str], kind: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    hint = _CSV_HINT
    if kind == ".csv":
        rows = _csv_rows(lines, strict=True)
    else:
        text = "".join(lines)
        quoted = is_quoted(text)
        hint = _QUOTED_TSV_HINT if quoted else _RAW_TSV_HINT
        rows = quoted_rows(text) if quoted else _csv_rows(StringIO(text), **_RAW_TSV)
    header: list[str] = []
    try:
        for line, cells in rows:
            if not header:
                header = _checked_header(path, cells)
            elif len(cells) != len(header):
                raise UsageError(
                    f"{path}, line {line}: {len(cells)} cells, but the header has {len(header)} "
                    f"({', '.join(header)}); {hint}"
                )
            else:
                yield line, dict(zip(header, cells, strict=True))
    except MalformedTable as error:
        raise UsageError(f"{path}, line {error.line}: malformed {kind[1:].upper()}: {error.fault}; {hint}") from error


def _csv_rows(lines: Iterable[str], **dialect: Any) -> Iterator[Row]:
    """Yield the rows that are not blank; a cell may be as long as a book."""
    limit = csv.field_size_limit(_LONGEST_CELL)
    line = 1
    try:
        reader = csv.reader(lines, **dialect)
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise MalformedTable(line, str(error)) from error
    finally:
        csv.field_size_limit(limit)


def _checked_header(path: Path, cells: list[str]) -> list[str]:
    twice = sorted({name for name in cells if cells.count(name) > 1})
    if twice:
        raise UsageError(
            f"{path}, line 1: the header has {', '.join(map(repr, twice))} more than once; rename one of them"
        )
    return cells


def _shown(text: str, limit: int = 60) -> str:
    stripped = text.strip()
    return repr(stripped if len(stripped) <= limit else f"{stripped[:limit]}…")
