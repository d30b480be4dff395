"""Local files of every format give the same pairs; each fault is named with its line and its remedy."""

import gzip
import json
import os
import re
import sys
from pathlib import Path

import pytest

from autolr.data import Columns, NliData, load_nli
from autolr.data.files import read_table
from autolr.errors import UsageError

ASSETS = Path(os.environ.get("AUTOLR_ASSETS", Path(__file__).parents[2] / "shared"))
LABELS = {"entailment": 0, "neutral": 1, "contradiction": 2}
ROWS = [
    ("It rains, hard.", 'He says "wet".', "entailment"),
    ("Zwölf Möwen.", "", " Neutral "),
    ("A dog.", "A cat.", "-"),
    ("A dog.", "No dog.", "2"),
]
EXPECTED = (tuple(ROWS[i][0] for i in (0, 1, 3)), tuple(ROWS[i][1] for i in (0, 1, 3)), (0, 1, 2))

JSONL = "".join(json.dumps({"premise": p, "hypothesis": h, "label": y}) + "\n" for p, h, y in ROWS)
CSV = "label,premise,hypothesis\r\n" + "".join(
    ",".join(f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in (y, p, h)) + "\r\n" for p, h, y in ROWS
)
TSV = "premise\thypothesis\tlabel\n" + "".join("\t".join(row) + "\n" for row in ROWS)


def write(folder: Path, name: str, content: str | bytes) -> str:
    raw = content if isinstance(content, bytes) else content.encode()
    path = folder / name
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return str(path)


def load(source: str, **options) -> NliData:
    return load_nli(source, label2id=LABELS, **options)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", JSONL), ("a.json", JSONL), ("a.csv", CSV), ("a.tsv", TSV), ("a.JSONL", "\ufeff" + JSONL + "\n\n")],
)
def test_every_format_gives_the_same_pairs(tmp_path, name, content, suffix):
    """Quotes, commas, umlauts, an empty hypothesis, a byte-order mark and blank lines survive; '-' is counted."""
    data = load(write(tmp_path, name + suffix, content))
    assert (data.premises, data.hypotheses, data.labels) == EXPECTED
    assert data.skipped == 1
    assert data.name.endswith(name + suffix)


def test_other_columns_and_integer_labels(tmp_path):
    """Columns are named by the caller; -1 is no gold label as a number and as text."""
    rows = [{"s1": "a", "s2": "b", "gold": gold} for gold in (2, -1, "-1", "0")]
    source = write(tmp_path, "a.jsonl", "\n".join(json.dumps(row) for row in rows))
    data = load(source, columns=Columns("s1", "s2", "gold"))
    assert data.labels == (2, 0)
    assert data.skipped == 2


def test_a_quoted_line_end_keeps_the_line_numbers_right(tmp_path):
    """A CSV cell may hold a line end; a later fault is still reported where its row starts."""
    source = write(tmp_path, "a.csv", 'premise,hypothesis,label\n"a\nb",c,neutral\nd,e,maybe\n')
    with pytest.raises(UsageError, match=r"a\.csv, line 4: the model has no label 'maybe'"):
        load(source)


FAULTS = {
    "malformed json": (
        "a.jsonl",
        JSONL + "{oops\n",
        r"line 5: not a JSON object on one line: .* at column 2, saw '{oops'",
    ),
    "json array": ("a.json", "[\n{}\n]", r"line 1: .*\(an array: write one object per line\)"),
    "json scalar": ("a.jsonl", "3\n", r"line 1: must be a JSON object, saw '3'; one object per line"),
    "long line": ("a.jsonl", "x" * 100, r"saw 'x{60}…'"),
    "unknown suffix": ("a.xlsx", "", r"a\.xlsx: do not know how to read \.xlsx; it must be \.jsonl/\.json/\.csv/\.tsv"),
    "no suffix": ("pairs", "", r"do not know how to read a file without a suffix"),
    "empty": ("a.jsonl", "", r"a\.jsonl: holds no rows; give labelled pairs"),
    "header only": ("a.csv", "premise,hypothesis,label\n", r"holds no rows"),
    "no gold at all": (
        "a.tsv",
        "premise\thypothesis\tlabel\na\tb\t-\n",
        r"none of its 1 rows has a gold label .* use another",
    ),
    "premise column": (
        "a.csv",
        "premises,hypothesis,label\na,b,neutral\n",
        r"line 2: no column 'premise'; the columns are premises, hypothesis, label "
        r"\(did you mean premises\?\); name it with --premise-column",
    ),
    "hypothesis column": (
        "a.tsv",
        "premise\ttext\tlabel\na\tb\tneutral\n",
        r"no column 'hypothesis'; .*--hypothesis-column",
    ),
    "label column": (
        "a.jsonl",
        '{"premise": "a", "hypothesis": "b", "gold": 1}',
        r"no column 'label'; .*--label-column",
    ),
    "all columns": (
        "a.csv",
        "a,b,c\n1,2,3\n",
        r"no column 'premise', 'hypothesis', 'label'; the columns are a, b, c; name them with "
        r"--premise-column and --hypothesis-column and --label-column, which",
    ),
    "semicolons": (
        "a.csv",
        "review;claim;verdict\n1;2;3\n",
        r"the columns are review;claim;verdict; the cells seem to be separated by semicolons: write commas",
    ),
    "unknown label": (
        "a.jsonl",
        '{"premise": "a", "hypothesis": "b", "label": "contradictory"}',
        r"line 1: the model has no label 'contradictory'; its labels: entailment = 0, neutral = 1, contradiction = 2 "
        r"\(did you mean contradiction\?\); rename the label in the data",
    ),
    "unknown id": ("a.tsv", "premise\thypothesis\tlabel\na\tb\t3\n", r"line 2: the model has no label '3'"),
    "null label": (
        "a.jsonl",
        '{"premise": "a", "hypothesis": "b", "label": null}',
        r"must be a name or an id, saw None",
    ),
    "true label": (
        "a.jsonl",
        '{"premise": "a", "hypothesis": "b", "label": true}',
        r"must be a name or an id, saw True",
    ),
    "null premise": (
        "a.jsonl",
        '{"premise": null, "hypothesis": "b", "label": 1}',
        r"line 1: 'premise' must be text, saw None; .*--premise-column",
    ),
    "number as hypothesis": (
        "a.jsonl",
        '{"premise": "a", "hypothesis": 3, "label": 1}',
        r"line 1: 'hypothesis' must be text, saw 3; .*--hypothesis-column",
    ),
    "not utf-8": ("a.jsonl", JSONL.encode() + b"\n\xe9\n", r"line 6: byte 0xe9 is not UTF-8; convert the file"),
    "ragged csv": (
        "a.csv",
        "premise,hypothesis,label\na,b,neutral\na, and b,c,neutral\n",
        r"line 3: 4 cells, but the header has 3 \(premise, hypothesis, label\); put cells that hold a comma",
    ),
    "ragged tsv": ("a.tsv", "premise\thypothesis\tlabel\na\tb\n", r"line 2: 2 cells, .* must not hold a tab"),
    "open quote": (
        "a.csv",
        'premise,hypothesis,label\n"a,b,neutral\n',
        r"line 2: malformed CSV: unexpected end of data; put",
    ),
    "same header twice": ("a.csv", "label,label\n1,2\n", r"line 1: the header has 'label' more than once"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_its_place_and_remedy(tmp_path, fault):
    """The message holds the file, the line, what was seen and what to do."""
    name, content, message = FAULTS[fault]
    source = write(tmp_path, name, content)
    with pytest.raises(UsageError, match=message) as caught:
        load(source)
    assert str(caught.value).startswith(source)


def test_a_missing_file_names_the_nearest(tmp_path):
    """A mistyped name is answered with the files of that folder."""
    write(tmp_path, "train.jsonl", JSONL)
    with pytest.raises(UsageError, match=r"trian\.jsonl: no such file; did you mean train\.jsonl\?"):
        load(str(tmp_path / "trian.jsonl"))
    with pytest.raises(UsageError, match=r"is a folder, not a file; known: train\.jsonl"):
        load(str(tmp_path))
    with pytest.raises(UsageError, match=r"no such file, and no folder .*nowhere"):
        load(str(tmp_path / "nowhere" / "train.jsonl"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"empty holds no data file \(\.jsonl"):
        load(str(tmp_path / "empty" / "train.jsonl"))


def test_a_broken_archive_is_named(tmp_path):
    """A truncated or mislabelled .gz is a usage error, not a traceback."""
    source = write(tmp_path, "a.jsonl.gz", JSONL)
    Path(source).write_bytes(Path(source).read_bytes()[:-12])
    with pytest.raises(UsageError, match=r"a\.jsonl\.gz: cannot be read after line \d+"):
        load(source)
    Path(source).write_text(JSONL)
    with pytest.raises(UsageError, match=r"cannot be read after line 0: Not a gzipped file"):
        load(source)


def test_a_file_has_no_splits(tmp_path):
    """--split belongs to data sets of the hub."""
    with pytest.raises(UsageError, match=r"is a file and has no splits; drop --split validation"):
        load(write(tmp_path, "a.jsonl", JSONL), split="validation")


@pytest.mark.skipif(sys.platform == "win32" or getattr(os, "geteuid", int)() == 0, reason="root reads everything")
def test_an_unreadable_file_is_named(tmp_path):
    """A file without read permission is a usage error."""
    source = write(tmp_path, "a.jsonl", JSONL)
    Path(source).chmod(0)
    with pytest.raises(UsageError, match=re.escape("cannot be read after line 0")):
        load(source)


@pytest.mark.skipif(not (ASSETS / "data/nli").is_dir(), reason="the measurement data is not here")
@pytest.mark.parametrize(("name", "n"), [("snli_validation", 2029), ("snli_test", 1415), ("mnli_validation", 2521)])
def test_real_files_are_read(name, n):
    """Compressed files of real pairs load whole."""
    data = load(str(ASSETS / "data/nli" / f"{name}.jsonl.gz"))
    assert len(data) == n
    assert set(data.labels) == {0, 1, 2}


@pytest.mark.parametrize(("encoding", "told"), [("utf-16", "utf-16"), ("latin-1", "latin1")])
def test_the_encoding_that_is_told_is_the_files_own(tmp_path, encoding, told):
    path = tmp_path / "data.jsonl"
    path.write_text('{"premise": "Grüße", "hypothesis": "ü", "label": "neutral"}\n', encoding=encoding)
    with pytest.raises(UsageError, match=f"is not UTF-8; convert the file, for instance with iconv -f {told} -t utf-8"):
        list(read_table(path).rows)
