"""Parts share no premise, lose no pair, keep their sizes and do not depend on the order of the rows."""

import os
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from nli_fixture import write_inputs, write_pairs

from autolr.data import NliData, load_nli, split_by_premise
from autolr.data.parts import load_nli_parts
from autolr.errors import UsageError
from autolr.spec.study import DataSpec

ASSETS = Path(os.environ.get("AUTOLR_ASSETS", Path(__file__).parents[2] / "shared"))
SHARES = {"search": 0.5, "selection": 0.3, "report": 0.2}


def data_of(premises: list[int]) -> NliData:
    n = len(premises)
    return NliData(
        "d", tuple(f"p{i}" for i in premises), tuple(f"h{i}" for i in range(n)), tuple(i % 3 for i in range(n))
    )


@given(premises=st.lists(st.integers(0, 30), min_size=12, max_size=80), seed=st.integers(0, 1000))
def test_parts_are_disjoint_and_complete(premises, seed):
    """No premise in two parts, every pair in one; a size misses its target by at most a premise's pairs per part."""
    assume(len(set(premises)) > 10)
    data = data_of(premises)
    try:
        parts = split_by_premise(data, SHARES, seed)
    except UsageError:
        assume(False)
    seen = [premise for part in parts.values() for premise in set(part.premises)]
    assert len(seen) == len(set(seen))
    assert Counter(h for part in parts.values() for h in part.hypotheses) == Counter(data.hypotheses)
    slack = max(Counter(premises).values()) * (len(SHARES) - 1)
    for name, share in SHARES.items():
        assert abs(len(parts[name]) - share * len(data)) <= slack


@given(data=st.data(), seed=st.integers(0, 5))
def test_order_of_the_rows_does_not_matter(data, seed):
    """Shuffled rows give the same sets."""
    base = data_of([i // 2 for i in range(40)])
    shuffled = base.select(data.draw(st.permutations(range(40))))
    one, other = split_by_premise(base, SHARES, seed), split_by_premise(shuffled, SHARES, seed)
    assert {name: set(part.hypotheses) for name, part in one.items()} == {
        name: set(part.hypotheses) for name, part in other.items()
    }


def test_rows_keep_their_order_and_labels():
    """A part lists its pairs as the data did."""
    base = data_of([i // 3 for i in range(60)])
    rows = list(zip(base.premises, base.hypotheses, base.labels, strict=True))
    for part in split_by_premise(base, SHARES, 0).values():
        own = list(zip(part.premises, part.hypotheses, part.labels, strict=True))
        assert own == [row for row in rows if row in own]


def test_seeds_differ_and_are_stable():
    """Another seed gives other parts; the digest of one is fixed for ever."""
    base = data_of([i // 2 for i in range(100)])
    parts = [split_by_premise(base, SHARES, seed)["report"] for seed in range(5)]
    assert len({part.digest for part in parts}) == 5
    assert [len(part) for part in parts] == [20] * 5
    assert parts[0].digest[:12] == "9f39fcb4040f"


def test_an_empty_part_is_refused():
    """Two premises cannot make three parts."""
    with pytest.raises(
        UsageError, match=r"d: 4 pairs of 2 premises cannot be divided .* part 'report' would be empty; give more"
    ):
        split_by_premise(data_of([0, 0, 1, 1]), SHARES, 0)


@pytest.mark.parametrize("shares", [{"a": 0.5, "b": 0.6}, {"a": 1.2, "b": -0.2}, {"a": 0.5}, {}])
def test_shares_must_make_a_whole(shares):
    """Positive and together 1."""
    with pytest.raises(UsageError, match="must be positive and add up to 1, got"):
        split_by_premise(data_of([0, 1, 2]), shares, 0)


@pytest.mark.skipif(not (ASSETS / "data/nli").is_dir(), reason="the measurement data is not here")
def test_real_data_is_divided_exactly():
    """On real pairs, three hypotheses a premise or so, the sizes are within a handful of their targets."""
    labels = {"entailment": 0, "neutral": 1, "contradiction": 2}
    data = load_nli(str(ASSETS / "data/nli/snli_validation.jsonl.gz"), label2id=labels)
    parts = split_by_premise(data, SHARES, 3)
    for name, share in SHARES.items():
        assert abs(len(parts[name]) - share * len(data)) <= 10


@pytest.mark.parametrize(("n", "noted"), [(200, []), (8, ["search", "selection"])])
def test_parts_too_small_to_tell_models_apart_are_noted(tmp_path: Path, n: int, noted: list[str]):
    options = write_inputs(tmp_path)
    write_pairs(tmp_path / "few.jsonl", n, offset=50_000)
    spec = DataSpec(train=options["--train"], validation=str(tmp_path / "few.jsonl"), test=options["--test"])
    notes = load_nli_parts(spec, {"entailment": 0, "neutral": 1, "contradiction": 2}, False, True, 0).notes
    assert [note.split()[1] for note in notes if "too few to tell models apart" in note] == noted


def test_rows_that_were_used_before_they_are_reported_on_are_counted(tmp_path: Path):
    """The note counts distinct pairs, ``overlap`` the rows of the report part."""
    options = write_inputs(tmp_path)
    train, test = Path(options["--train"]), tmp_path / "overlapping.jsonl"
    shared = train.read_text().splitlines()[:3]
    test.write_text("\n".join([*Path(options["--test"]).read_text().splitlines(), *shared, *shared]) + "\n")
    labels = {"entailment": 0, "neutral": 1, "contradiction": 2}
    spec = DataSpec(train=str(train), validation=options["--validation"], test=str(test))
    parts = load_nli_parts(spec, labels, False, True, 0)
    assert parts.overlap == 6
    assert any(re.fullmatch(r"3 of \d+ distinct test pairs are also train pairs", note) for note in parts.notes)
    disjoint = load_nli_parts(spec.model_copy(update={"test": options["--test"]}), labels, False, True, 0)
    assert disjoint.overlap == 0
