"""The embedded example: labels follow from the sentences, hypotheses alone say nothing, the model has learnt it."""

import itertools
import json
import subprocess
import sys
from collections import Counter
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from autolr.data import NliData
from autolr.data.example import EXAMPLE_MODEL, example_data
from autolr.data.example.edits import broaden, exclude, narrow, unsettle, unsettled_slots
from autolr.data.example.grammar import draw, pairs
from autolr.data.example.scenes import LABELS, Statement, compare, label_of
from autolr.data.example.taxonomy import Taxonomy

TABLE = Taxonomy.of_sets({"a": [0], "b": [1], "ab": [0, 1], "bc": [1, 2], "c": [2]})
SMALL = {"x": TABLE, "y": TABLE}
WORDS = st.sampled_from(list(TABLE.masks))
STATEMENTS = st.builds(lambda x, y, denied: Statement({"x": x, "y": y}, denied), WORDS, WORDS, st.booleans())
SEEDS = st.integers(0, 2**32)


def generator(seed):
    return Random(seed)  # noqa: S311 - sentences, not secrets


def situations(statement):
    """List what a statement allows, by trying every situation; None is the one in which nothing happens."""
    every = set(itertools.product(range(3), repeat=2))
    x, y = (TABLE.masks[statement.scene[slot]] for slot in "xy")
    fits = {(i, j) for i, j in every if x >> i & 1 and y >> j & 1}
    return {*every - fits, None} if statement.denied else fits


@settings(max_examples=1000)
@given(STATEMENTS, STATEMENTS)
def test_labels_are_those_of_set_inclusion(premise, hypothesis):
    """The rule over relations agrees with counting situations."""
    p, h = situations(premise), situations(hypothesis)
    expected = "entailment" if p <= h else "neutral" if p & h else "contradiction"
    assert label_of(premise, hypothesis, SMALL) == expected


@given(SEEDS)
def test_labels_by_construction_are_the_labels_by_meaning(seed):
    """Two independent ways to the label agree."""
    premise, hypothesis, label = draw(generator(seed))
    assert label_of(premise, hypothesis) == label


@given(SEEDS)
def test_edits_do_what_they_say(seed):
    """Narrower lies within, broader holds, unsettled leaves open, excluded is apart."""
    rng = generator(seed)
    scene = draw(rng)[1].scene
    assert compare(narrow(scene, rng), scene) in {"equal", "forward"}
    assert compare(narrow(scene, rng, strictly=True), scene) == "forward"
    assert compare(broaden(scene, rng), scene) in {"equal", "reverse"}
    assert compare(exclude(scene, rng), scene) == "disjoint"
    assert unsettled_slots(scene)
    assert compare(unsettle(scene, rng), scene) in {"overlap", "reverse"}


def test_every_phenomenon_occurs():
    """Each construction the example promises is there in both directions."""
    texts = [" ".join(row[:2]) for row in itertools.islice(pairs("phenomena"), 3000)]
    for sign in ("being", "No ", "It is not true that", "At least", "more than", "with a friend", "In the ", "people"):
        assert sum(sign in text for text in texts) > 20, sign
    rng = generator(5)
    swaps = 0
    for premise, hypothesis, label in (draw(rng) for _ in range(3000)):
        swapped = premise.scene["agent noun"] == hypothesis.scene["patient noun"]
        swaps += swapped and premise.scene["patient noun"] == hypothesis.scene["agent noun"] and label != "neutral"
    assert swaps > 20


@pytest.fixture(scope="module")
def parts():
    """All parts, made by another process, where no types are checked and 24,000 pairs take a second."""
    code = (
        "import json; from dataclasses import asdict; from autolr.data.example import SIZES, example_data; "
        "print(json.dumps({part: asdict(example_data(part)) for part in SIZES}))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rows = json.loads(other.stdout)
    return {
        part: NliData(row["name"], tuple(row["premises"]), tuple(row["hypotheses"]), tuple(row["labels"]))
        for part, row in rows.items()
    }


def test_parts_are_the_same_in_another_process_and_share_no_premise(parts):
    """Sizes, labels, disjoint premises; the test part is fixed for ever, as reported accuracies are."""
    assert {part: len(data) for part, data in parts.items()} == {"validation": 2000, "test": 2000, "train": 20_000}
    for one, other in itertools.combinations(parts.values(), 2):
        assert not set(one.premises) & set(other.premises)
    for data in parts.values():
        assert max(Counter(data.labels).values()) < 0.37 * len(data)
        assert len(set(data.premises)) > 0.97 * len(data)
    assert parts["test"] == example_data("test")
    assert parts["test"].digest[:12] == "4045a26628ed"


def bag_of_words(texts, index):
    counts = np.zeros((len(texts), len(index)))
    for row, text in enumerate(texts):
        for word in text.lower().strip(".").replace(",", "").split():
            counts[row, index[word]] = 1
    return counts


def linear_baseline(train_texts, train_labels, test_texts, test_labels):
    """Accuracy of ridge regression on word indicators, one column for each label."""
    words = {word for text in train_texts + test_texts for word in text.lower().strip(".").replace(",", "").split()}
    index = {word: i for i, word in enumerate(sorted(words))}
    x, y = bag_of_words(train_texts, index), np.eye(3)[np.array(train_labels)]
    weights = np.linalg.solve(x.T @ x + np.eye(len(index)), x.T @ (y - 1 / 3))
    return float((np.argmax(bag_of_words(test_texts, index) @ weights, 1) == np.array(test_labels)).mean())


def test_the_hypothesis_alone_says_nothing(parts):
    """A linear model of the hypothesis's words is at chance, on the premise's words little better."""
    train, test = parts["train"], parts["test"]
    assert linear_baseline(train.hypotheses, train.labels, test.hypotheses, test.labels) < 0.38
    assert linear_baseline(train.premises, train.labels, test.premises, test.labels) < 0.60


@pytest.fixture(scope="module")
def shipped():
    model = AutoModelForSequenceClassification.from_pretrained(EXAMPLE_MODEL, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(EXAMPLE_MODEL)


def test_the_shipped_model_is_small_and_complete(shipped):
    """Half-precision weights without pickle, its labels named, no unknown word in the data."""
    model, tokenizer = shipped
    assert {path.name for path in EXAMPLE_MODEL.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    }  # fmt: skip
    assert sum(path.stat().st_size for path in EXAMPLE_MODEL.iterdir()) < 3e6
    assert model.config.id2label == dict(enumerate(LABELS))
    assert model.dtype == torch.float32
    data = example_data("test")
    encoded = tokenizer(list(data.premises), list(data.hypotheses))
    assert max(map(len, encoded["input_ids"])) <= tokenizer.model_max_length == model.config.max_position_embeddings
    assert tokenizer.unk_token_id not in set(itertools.chain.from_iterable(encoded["input_ids"]))


@torch.inference_mode()
def test_the_shipped_model_has_learnt_the_task(shipped):
    """The accuracy that the study states; far above the baselines and below 1: compression has something to lose."""
    model, tokenizer = shipped
    data = example_data("test")
    right = 0
    for start in range(0, len(data), 200):
        rows = slice(start, start + 200)
        inputs = tokenizer(list(data.premises[rows]), list(data.hypotheses[rows]), padding=True, return_tensors="pt")
        right += int((model(**inputs).logits.argmax(1) == torch.tensor(data.labels[rows])).sum())
    assert right / len(data) == pytest.approx(0.959, abs=0.002)
