"""JSON can write half a character; every reader of rows names its place instead of passing it to the tokenizer."""

import json
from pathlib import Path

import pytest
from decoder_fixture import tokenizer

from autolr.data import load_nli
from autolr.data.files import Table
from autolr.data.labels import LabelMap
from autolr.data.minimal_pairs import load_minimal_pairs
from autolr.data.nli import Columns, _collect
from autolr.data.text import load_text
from autolr.errors import UsageError

HALF = "a \ud83d dog"
LABELS = {"entailment": 0, "neutral": 1}
SAID = r"line 2: '{}' holds '\\ud83d' as its character 3, .*lone surrogate.*: write both halves, as of an emoji"


def two_rows(folder: Path, good: dict[str, str], column: str) -> Path:
    """The second row has half a character in this column."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (good, {**good, column: HALF})))
    return path


@pytest.mark.parametrize("column", ["premise", "hypothesis", "label"])
def test_a_pair_with_half_a_character_is_named(tmp_path: Path, column: str) -> None:
    path = two_rows(tmp_path, {"premise": "a", "hypothesis": "b", "label": "neutral"}, column)
    with pytest.raises(UsageError, match=SAID.format(column)) as caught:
        load_nli(str(path), label2id=LABELS)
    str(caught.value).encode()  # it can be printed


def test_a_document_with_half_a_character_is_named(tmp_path: Path) -> None:
    path = two_rows(tmp_path, {"text": "a dog runs"}, "text")
    with pytest.raises(UsageError, match=SAID.format("text")):
        load_text(str(path), tokenizer(), 2)


@pytest.mark.parametrize("column", ["good", "bad", "uid", "field"])
def test_a_minimal_pair_with_half_a_character_is_named(tmp_path: Path, column: str) -> None:
    path = two_rows(tmp_path, {"good": "a", "bad": "b", "uid": "x", "field": "syntax"}, column)
    with pytest.raises(UsageError, match=SAID.format(column)):
        load_minimal_pairs(path)


def test_a_row_of_a_data_set_with_half_a_character_is_named() -> None:
    row = {"premise": HALF, "hypothesis": "b", "label": 1}
    with pytest.raises(UsageError, match=r"owner/name \[train\], row 7: 'premise' holds '\\ud83d'"):
        _collect(Table("owner/name [train]", "row", [(7, row)]), Columns(), LabelMap.of(LABELS))


def test_a_whole_character_of_two_escapes_a_nul_and_a_column_nobody_reads_pass(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(r'{"premise": "\ud83d\ude00", "hypothesis": "a\u0000b", "label": 1, "author": "\ud83d"}')
    data = load_nli(str(path), label2id=LABELS)
    assert (data.premises, data.hypotheses) == (("\U0001f600",), ("a\0b",))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"premise": ' + "[" * 100_000 + "]" * 100_000 + "}", "maximum recursion depth"),
        ('{"premise": ' + "1" * 5000 + "}", r"4300 digits"),
    ],
)
def test_json_too_deep_or_long_for_python_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"premise": "a", "hypothesis": "b", "label": 1}\n' + line + "\n")
    with pytest.raises(UsageError, match=f"line 2: not a JSON object on one line: .*{said}"):
        load_nli(str(path), label2id=LABELS)
