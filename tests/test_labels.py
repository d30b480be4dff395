"""What a classifier's ids mean: the two tables of its configuration against transformers' own pipeline."""

import json
from pathlib import Path

import pytest
import torch
from nli_fixture import LABELS, write_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
from typer.testing import CliRunner

from autolr.cli.main import app
from autolr.data.labels import LabelMap, model_labels
from autolr.errors import UsageError

GENERIC = {f"LABEL_{i}": i for i in range(3)}
NAMED = {name: i for i, name in enumerate(LABELS)}
SHIFTED = {name: (i + 1) % 3 for i, name in enumerate(LABELS)}
PAIRS = [
    (f"a {noun} {verb}", f"the {noun} {other}")
    for noun in ("dog", "cat", "man")
    for verb, other in (
        ("runs", "sleeps"),
        ("eats", "runs at home"),
        ("sings in the park", "reads"),
        ("waits", "eats under a tree"),
    )
]


def relabelled(folder: Path, **tables: object) -> Path:
    """A model that tells the pairs apart, whose configuration has these tables; None takes one away."""
    source = write_model(folder)
    model, words = AutoModelForSequenceClassification.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    with torch.no_grad():
        logits = model(**words(*map(list, zip(*PAIRS, strict=True)), padding=True, return_tensors="pt")).logits
        model.classifier.bias.sub_(logits.mean(0))
    model.save_pretrained(source)
    path = source / "config.json"
    config = {**json.loads(path.read_text()), **tables}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return source


def evaluated(source: Path, names: list[str], *options: str):
    data = source.parent / "data.jsonl"
    rows = [{"premise": p, "hypothesis": h, "label": name} for (p, h), name in zip(PAIRS, names, strict=True)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["eval", str(source), "--data", str(data), "--json", "--offline", *options]
    return CliRunner().invoke(app, arguments)


def by_pipeline(source: Path) -> list[str]:
    """The name that transformers' own pipeline gives each pair."""
    ask = pipeline("text-classification", model=str(source), device="cpu")
    return [ask({"text": p, "text_pair": h})["label"] for p, h in PAIRS]


@pytest.mark.parametrize(
    "label2id", [None, GENERIC, NAMED, {name.upper(): i for name, i in NAMED.items()}, {**NAMED, "implied": 0}]
)
def test_names_mean_what_they_mean_to_the_library(tmp_path, label2id):
    """A table that is missing or says nothing does not count; case does not; further names may stand beside."""
    source = relabelled(tmp_path / "model", label2id=label2id)
    names = by_pipeline(source)
    assert len(set(names)) > 1
    done = evaluated(source, names)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["accuracy"] == 1.0


def test_tables_that_disagree_are_refused_by_name_unless_the_user_says_what_the_ids_mean(tmp_path):
    source = relabelled(tmp_path / "model", label2id=SHIFTED)
    names = by_pipeline(source)
    done = evaluated(source, names)
    assert done.exit_code == 2
    message = " ".join(done.stderr.split())
    assert str(NAMED) in message
    assert str(SHIFTED) in message
    assert "they disagree; correct the wrong one, or say what the ids mean by --label-names" in message
    done = evaluated(source, names, "--label-names", ",".join(LABELS))
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("id2label", "label2id", "found"),
    [
        (dict(enumerate(LABELS)), None, NAMED),
        (dict(enumerate(LABELS)), GENERIC, NAMED),
        ({i: f"LABEL_{i}" for i in range(3)}, SHIFTED, SHIFTED),
        (None, SHIFTED, SHIFTED),
        (None, None, GENERIC),
        (dict(enumerate(LABELS)), {"entailment": 0, "LABEL_2": 2}, NAMED),
        ({0: "0", 1: "1", 2: "2"}, SHIFTED, SHIFTED),
        ({0: "yes"}, None, {"yes": 0, "LABEL_1": 1, "LABEL_2": 2}),
        (
            dict(enumerate(LABELS)),
            {"Entailment ": 0, "neutral": 1, "contradiction": 2, "no": 2},
            {**NAMED, "Entailment ": 0, "no": 2},
        ),
    ],
)
def test_the_table_that_says_something_is_taken(id2label, label2id, found):
    assert model_labels(id2label, label2id, 3, "mine") == found


@pytest.mark.parametrize("label2id", [SHIFTED, {"no": 0, "maybe": 1, "yes": 2}, {"entailment": 0, "no": 1}])
def test_a_contradiction_names_both_tables(label2id):
    with pytest.raises(UsageError, match=r"mine: in its config.json id2label.*'contradiction': 2.*label2id is"):
        model_labels(dict(enumerate(LABELS)), label2id, 3, "mine")


@pytest.mark.parametrize(
    ("id2label", "label2id", "words"),
    [
        (None, {"entailment": None}, r"mine: the ids in its config.json must be numbers, saw .*'entailment': None"),
        ({0: "no", 1: "yes", 2: "Yes "}, None, r"mine: its config.json gives the name 'yes' to the ids 1 and 2"),
    ],
)
def test_tables_that_say_nothing_certain_are_refused(id2label, label2id, words):
    with pytest.raises(UsageError, match=words):
        model_labels(id2label, label2id, 3, "mine")


def test_ids_beyond_the_models_classes_are_refused():
    with pytest.raises(UsageError, match=r"names the labels \{'other': 3\}, and the model has 3 classes"):
        model_labels(None, {**NAMED, "other": 3}, 3, "mine")


def test_a_model_of_one_class_is_counted_by_its_head(tmp_path):
    source = write_model(tmp_path / "model")
    AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=1, ignore_mismatched_sizes=True
    ).save_pretrained(source)
    done = evaluated(source, ["entailment"] * len(PAIRS))
    assert done.exit_code == 2
    assert "needs at least two labels" in done.stderr
    assert "has 1" in " ".join(done.stderr.split())


def test_rows_without_a_gold_label_are_counted(tmp_path):
    done = evaluated(write_model(tmp_path / "model"), ["-", "-1", *["neutral"] * (len(PAIRS) - 2)])
    assert done.exit_code == 0, done.output
    assert "data.jsonl: 2 rows without a gold label left out" in " ".join(done.stderr.split())


@pytest.mark.parametrize("tables", [{"id2label": ["no", "maybe", "yes"]}, {"num_attention_heads": 5}])
def test_a_config_that_transformers_refuses_is_named(tmp_path, tables):
    done = evaluated(relabelled(tmp_path / "model", **tables), ["neutral"] * len(PAIRS))
    assert done.exit_code == 2
    assert "model does not load: " in " ".join(done.stderr.split())


def test_a_label_that_label_names_does_not_give_is_not_answered_with_label_names():
    labels = LabelMap.of({"LABEL_0": 0, "LABEL_1": 1}, ["no", "yes"])
    with pytest.raises(
        UsageError, match=r"--label-names has no 'maybe', it says no = 0, yes = 1; give the names that the"
    ):
        labels.convert("maybe", None, "x.csv, line 2")
