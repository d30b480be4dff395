"""The record of pairs, its digest and draws; labels are mapped by name and never guessed."""

import subprocess
import sys

import pytest

from autolr.data import NliData, load_nli
from autolr.data.labels import LabelMap
from autolr.errors import UsageError

GENERIC = {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
PAIRS = NliData("a", tuple("pqrst"), tuple("vwxyz"), (0, 1, 2, 0, 1))


def test_digest_is_the_same_in_another_process():
    """The digest depends on the content alone, not on the process's hash seed or the name."""
    code = (
        "from autolr.data import NliData; "
        "print(NliData('b', tuple('pqrst'), tuple('vwxyz'), (0, 1, 2, 0, 1), skipped=3).digest)"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert other.stdout.strip() == PAIRS.digest
    assert len(PAIRS.digest) == 64


@pytest.mark.parametrize(
    "other",
    [
        NliData("a", ("pq", *"rst"), tuple("wxyz"), (0, 2, 0, 1)),
        NliData("a", tuple("pqrst"), tuple("vwxyz"), (0, 1, 2, 0, 2)),
        NliData("a", tuple("vwxyz"), tuple("pqrst"), (0, 1, 2, 0, 1)),
        PAIRS.select([1, 0, 2, 3, 4]),
        PAIRS.select(range(4)),
    ],
)
def test_digest_tells_contents_apart(other):
    """Other texts, labels, sides, order or length give another digest."""
    assert other.digest != PAIRS.digest


def test_digest_does_not_run_texts_together():
    """Moving a character from one text to the next is another content."""
    assert NliData("", ("ab",), ("c",), (0,)).digest != NliData("", ("a",), ("bc",), (0,)).digest


def test_take_draws_without_replacement():
    """Seeded, nested, without repetition; all of it when more is asked for."""
    drawn = PAIRS.take(3, seed=1)
    assert len(drawn) == len(set(drawn.premises)) == 3
    assert drawn == PAIRS.take(3, seed=1)
    assert drawn.premises[:2] == PAIRS.take(2, seed=1).premises
    assert len({PAIRS.take(3, seed=seed).premises for seed in range(20)}) > 5
    assert PAIRS.take(5, seed=1) is PAIRS
    assert len(PAIRS.take(0, seed=1)) == 0
    with pytest.raises(ValueError, match="cannot take -1 pairs"):
        PAIRS.take(-1, seed=0)


def test_lengths_must_agree():
    """A record whose parts differ in length cannot be built."""
    with pytest.raises(ValueError, match="got 2, 1 and 1"):
        NliData("a", ("p", "q"), ("v",), (0,))


def test_select_keeps_order_and_rows_together():
    """The chosen rows come in the order asked for."""
    assert PAIRS.select([4, 0]) == NliData("a", ("t", "p"), ("z", "v"), (1, 0))


def test_generic_names_need_their_meaning(tmp_path):
    """LABEL_0 does not say what it means; the caller must, and then names and ids both work."""
    source = tmp_path / "a.tsv"
    source.write_text("premise\thypothesis\tlabel\na\tb\tneutral\nc\td\t0\n")
    with pytest.raises(
        UsageError, match=r"line 2: the model's labels \(LABEL_0 = 0, .*\) do not say which .* --label-names"
    ):
        load_nli(str(source), label2id=GENERIC)
    named = load_nli(str(source), label2id=GENERIC, label_names=["contradiction", "neutral", "entailment"])
    assert named.labels == (1, 0)


def test_label_names_override_and_must_be_complete():
    """The names given by the caller win over the configuration's; there must be one for each id."""
    assert LabelMap.of({"a": 0, "b": 1}, ["b", "a"]).id_of("A") == 1
    with pytest.raises(UsageError, match=r"gives 2 names \(x, y\), but the model has 3 labels"):
        LabelMap.of(GENERIC, ["x", "y"])
    with pytest.raises(UsageError, match="differ only in case"):
        LabelMap.of({"Yes": 0, "yes": 1})


@pytest.mark.parametrize("alias", ["contradictory", "not_entailment", "entail", "e"])
def test_aliases_are_not_guessed(alias):
    """A label that merely resembles one of the model's is refused."""
    labels = LabelMap.of({"entailment": 0, "neutral": 1, "contradiction": 2})
    with pytest.raises(UsageError, match=f"here: the model has no label '{alias}'"):
        labels.convert(alias, None, "here")
