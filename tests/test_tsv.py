"""TSV: what csv and pandas write in quotes is read as such, and what GLUE has, where quotes are text, as it stands."""

import csv
import io
import json
from pathlib import Path

import pandas
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from autolr.data import NliData, load_nli
from autolr.data.quoted_tsv import is_quoted, quoted_rows
from autolr.errors import UsageError

COLUMNS = ("premise", "hypothesis", "label")
LABELS = {"entailment": 0, "neutral": 1, "contradiction": 2}
ROWS = [
    ('He said "wet".', "It rains, hard.", 0),
    ("A tab\there.", '"', 1),
    ("Two\nlines.", "Two\r\nothers, and\ra third.", 2),
    ("", '"All of it."', 0),
    ('""', "Plain.", 1),
]
EVERYTHING = [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]


def load(path: Path) -> NliData:
    return load_nli(str(path), label2id=LABELS)


def written(path: Path, content: str) -> Path:
    path.write_bytes(content.encode())
    return path


def by_csv(rows: list[tuple], quoting: int, end: str = "\r\n", delimiter: str = "\t") -> str:
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows([COLUMNS, *rows])
    return buffer.getvalue()


def jsonl(rows: list[tuple]) -> str:
    return "".join(json.dumps(dict(zip(COLUMNS, row, strict=True))) + "\n" for row in rows)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("quoting", EVERYTHING)
@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], ROWS[1:2], ROWS[2:3], [("Plain.", "Too.", 2)]])
def test_the_same_rows_have_one_digest_in_every_format(tmp_path, rows, quoting, end):
    """JSONL, CSV, and TSV as csv writes it in each of its ways of quoting."""
    expected = load(written(tmp_path / "a.jsonl", jsonl(rows)))
    assert expected.premises == tuple(row[0] for row in rows)
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        found = load(written(tmp_path / name, by_csv(rows, quoting, end, delimiter)))
        assert found.digest == expected.digest


@pytest.mark.parametrize("quoting", EVERYTHING)
def test_a_table_that_pandas_wrote_is_read_as_it_was(tmp_path, quoting):
    """With its index, whose header is empty."""
    pandas.DataFrame(ROWS, columns=COLUMNS).to_csv(tmp_path / "a.tsv", sep="\t", quoting=quoting)
    found = load(tmp_path / "a.tsv")
    assert list(zip(found.premises, found.hypotheses, found.labels, strict=True)) == ROWS


@given(st.lists(st.tuples(*[st.text('ab"\t\n ', max_size=4)] * 3), min_size=1, max_size=4), st.sampled_from(EVERYTHING))
def test_whatever_csv_writes_is_found_out(rows, quoting):
    """Where csv put anything in quotes the file counts as quoted, and gives the rows back.

    But for one case, which is kept as raw: tabs and line ends in cells that happen to make a table of the raw reading.
    """
    text = by_csv(rows, quoting)
    lines = [line for line in text.replace("\r\n", "\n").split("\n") if line]
    across = any(end in cell for row in rows for cell in row for end in "\t\n")
    assume(quoting != csv.QUOTE_MINIMAL or not across or any(line.count("\t") != 2 for line in lines))
    assert is_quoted(text) == ('"' in text)
    assert [cells for _, cells in quoted_rows(text)] == [list(COLUMNS), *map(list, rows)]


RAW = {
    "a cell in quotes": [('"Hello."', "He.", 0), ("A.", "B.", 1)],
    "a stray quote": [('6" of snow.', "Snow.", 0), ('He said "so" twice.', "B.", 1)],
    "an open quote in one row and its end in the next": [
        ('"Go home, he said.', "He.", 0),
        ('And so we did."', "A.", 1),
    ],
    "the same, so that both readings are tables": [('"A.', "B.", 0), ('C."', "D.", 1)],
    "doubled quotes in a cell without any around": [('He said ""so"".', "He.", 0)],
    "one cell as csv writes it, another not": [('"He said ""so""."', "He.", 0), ('A "dog".', "B.", 1)],
}


@pytest.mark.parametrize("name", RAW)
def test_raw_files_keep_their_quotes(tmp_path, name):
    """GLUE's files have no quoting: a quote is a character, wherever it stands."""
    raw = "".join("\t".join(map(str, row)) + "\n" for row in [COLUMNS, *RAW[name]])
    found = load(written(tmp_path / "a.tsv", raw))
    assert list(zip(found.premises, found.hypotheses, found.labels, strict=True)) == RAW[name]


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ('text\n"a\nb"\n', ["a\nb"]),
        ('text\n"say ""so"""\n', ['say "so"']),
        ('text\n""\nb\n', ["", "b"]),
        ('"text"\n"a"\n', ["a"]),
    ],
)
def test_a_file_of_one_column_may_be_quoted(text, cells):
    assert is_quoted(text)
    assert [row for _, row in quoted_rows(text)][1:] == [[cell] for cell in cells]


def test_a_file_of_one_column_may_be_raw():
    assert not is_quoted('text\n"Hello."\nHe said "so".\n')


FAULTS = {
    "quote inside": ('"premise"\t"hypothesis"\t"label"\n"a\nb"\tc\t1\n\nd "e"\tf\t1\n', 5, "malformed TSV: a quote in"),
    "text after": ('"premise"\t"hypothesis"\t"label"\n"a" b\tc\t1\n', 2, "malformed TSV: a quote in"),
    "no end": ('"premise"\t"hypothesis"\t"label"\na\tb\t1\n"a\tb\t1\n', 3, "malformed TSV: .* without its second"),
    "ragged": ('"premise"\t"hypothesis"\t"label"\n"a\n\nb"\tc\t1\na\tb\n', 5, "2 cells, but the header has 3"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_a_quoted_file_is_named_with_its_line(tmp_path, name):
    """A header in quotes says what the file is; cells over several lines do not put the numbers out."""
    text, line, said = FAULTS[name]
    path = written(tmp_path / "a.tsv", text)
    with pytest.raises(UsageError, match=rf"a\.tsv, line {line}: {said}.*; its header is in quotes: put cells"):
        load(path)


def test_a_wrong_label_below_a_cell_of_two_lines_is_on_its_line(tmp_path):
    path = written(tmp_path / "a.tsv", by_csv([("a\nb", "c", 1), ("d", "e", "maybe")], csv.QUOTE_MINIMAL))
    with pytest.raises(UsageError, match=r"a\.tsv, line 4: the model has no label 'maybe'"):
        load(path)


def test_a_ragged_row_of_a_raw_file_is_told_both_ways_out(tmp_path):
    path = written(tmp_path / "a.tsv", "premise\thypothesis\tlabel\na\tb\tc\t1\n")
    with pytest.raises(UsageError, match=r"line 2: 4 cells, .* must not hold a tab .*, unless it and every cell that"):
        load(path)


def test_a_header_that_ends_with_a_tab_has_a_nameless_column(tmp_path):
    """As csv has it; the last line of a quoted file may lack its end."""
    assert [row for _, row in quoted_rows('"a"\t""\n"b"\t')] == list(csv.reader(['"a"\t""\n', '"b"\t'], delimiter="\t"))


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t")])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_a_cell_may_be_as_long_as_a_book(tmp_path, name, delimiter, quoting):
    """And csv's own limit is as it was afterwards."""
    before, rows = csv.field_size_limit(), [("word " * 40_000, "b", 1)]
    found = load(written(tmp_path / name, by_csv(rows, quoting, delimiter=delimiter)))
    assert found.premises == (rows[0][0],)
    assert csv.field_size_limit() == before
