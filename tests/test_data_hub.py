"""Data sets of the hub: classes are mapped by name, and every refusal says what to do."""

import time

import datasets
import pytest
from huggingface_hub import constants

from autolr.data import Columns, load_nli
from autolr.errors import UsageError

GLUE = ["entailment", "neutral", "contradiction"]
MODEL = {"contradiction": 0, "entailment": 1, "neutral": 2}
GENERIC = {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}


def table(labels, names=GLUE):
    kind = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    text = datasets.Value("string")
    features = datasets.Features({"premise": text, "hypothesis": text, "label": kind, "idx": datasets.Value("int32")})
    n = len(labels)
    columns = {"premise": [f"p{i}" for i in range(n)], "hypothesis": [f"h{i}" for i in range(n)]}
    return datasets.Dataset.from_dict({**columns, "label": labels, "idx": list(range(n))}, features=features)


@pytest.fixture
def hub(monkeypatch):
    """Serve data sets kept in memory under load_dataset's own interface; records the calls."""
    store, calls = {}, []

    def load_dataset(path, name=None, split=None):
        calls.append((path, name, split, datasets.config.HF_HUB_OFFLINE))
        if (path, name) not in store:
            raise ConnectionError(f"Couldn't reach '{path}' on the Hub")
        splits = datasets.DatasetDict(store[path, name])
        if split is None:
            return splits
        if split not in splits:
            raise ValueError(f'Unknown split "{split}". Should be one of {list(splits)}.')
        return splits[split]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("autolr.data.hub.unreachable", lambda *_: None)
    return store, calls


def test_classes_are_mapped_by_name(hub):
    """GLUE's 0, 1, 2 become the model's ids of the same names; -1 is skipped and counted."""
    store, calls = hub
    store["nyu-mll/glue", "mnli"] = {"train": table([0, 1, 2, -1])}
    data = load_nli("nyu-mll/glue:mnli", label2id=MODEL, split="train")
    assert data.labels == (1, 2, 0)
    assert (data.name, data.premises, data.skipped) == ("nyu-mll/glue:mnli [train]", ("p0", "p1", "p2"), 1)
    assert calls == [("nyu-mll/glue", "mnli", "train", datasets.config.HF_HUB_OFFLINE)]


def test_generic_models_need_label_names(hub):
    """Named classes cannot be mapped to LABEL_0; with the meaning given they can."""
    store, _ = hub
    store["snli", None] = {"test": table([0, 2])}
    with pytest.raises(UsageError, match=r"snli \[test\], row 1: the model's labels .* which one means 'entailment'"):
        load_nli("snli", label2id=GENERIC, split="test")
    named = load_nli("snli", label2id=GENERIC, split="test", label_names=["contradiction", "neutral", "entailment"])
    assert named.labels == (2, 0)


def test_integers_without_names_are_the_models_ids(hub):
    """A plain integer column is read like a file's."""
    store, _ = hub
    store["a/b", None] = {"train": table([2, 0], names=None)}
    assert load_nli("a/b", label2id=GENERIC).labels == (2, 0)


def test_class_names_in_digits_are_not_ids(hub):
    """A class called "1" is a name the model does not have."""
    store, _ = hub
    store["a/b", None] = {"train": table([1], names=["0", "1", "2"])}
    with pytest.raises(UsageError, match=r"row 1: the model has no label '1'"):
        load_nli("a/b", label2id=MODEL)


def test_a_class_the_model_lacks(hub):
    """Only rows that bear the unknown class are refused."""
    store, _ = hub
    store["hans", None] = {"train": table([0, 1], names=["entailment", "non-entailment"])}
    with pytest.raises(UsageError, match=r"row 2: the model has no label 'non-entailment'"):
        load_nli("hans", label2id=MODEL)


def test_splits_are_named(hub):
    """An unknown split names the nearest; several splits need a choice; a single one is taken."""
    store, _ = hub
    store["snli", None] = {"train": table([0]), "validation": table([1])}
    with pytest.raises(UsageError, match=r"snli has no split 'validaton'; did you mean validation\? \(--split\)"):
        load_nli("snli", label2id=MODEL, split="validaton")
    with pytest.raises(UsageError, match=r"snli has 2 splits and none was named; .* train, validation"):
        load_nli("snli", label2id=MODEL)


def test_columns_are_named(hub):
    """A missing column names those of the data set."""
    store, _ = hub
    store["snli", None] = {"train": table([0])}
    with pytest.raises(
        UsageError, match=r"row 1: no column 'sentence1'; the columns are premise, hypothesis, label, idx"
    ):
        load_nli("snli", label2id=MODEL, columns=Columns(premise="sentence1"))


def test_offline_is_honoured_and_restored(hub):
    """Offline keeps the library off the network during the call only; the message says so."""
    _, calls = hub
    before = datasets.config.HF_HUB_OFFLINE
    with pytest.raises(
        UsageError, match=r"a/b: no such file, and .* local cache \(--offline is set\): .* download it once"
    ):
        load_nli("a/b", label2id=MODEL, split="train", offline=True)
    assert calls[-1] == ("a/b", None, "train", True)
    assert before == datasets.config.HF_HUB_OFFLINE
    with pytest.raises(UsageError, match="on the hub or in the local cache"):
        load_nli("a/b", label2id=MODEL, split="train")


def test_offline_needs_no_network():
    """The library itself, unpatched, fails fast and readably for what is not in the cache."""
    with pytest.raises(UsageError, match="no-such-owner/no-such-data: no such file, and no such data set"):
        load_nli("no-such-owner/no-such-data", label2id=MODEL, split="train", offline=True)


def test_other_refusals_of_the_library_are_passed_on(monkeypatch):
    """A missing configuration is the caller's to name."""

    def refuse(*_args, **_options):
        raise ValueError("Config name is missing. Please pick one among the available configs: ['mnli']")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UsageError, match=r"glue: Config name is missing.*after a colon, as in nyu-mll/glue:mnli"):
        load_nli("glue", label2id=MODEL, split="train")


def test_an_empty_data_set_is_refused(hub):
    """No rows is an error here too."""
    store, _ = hub
    store["a/b", None] = {"train": table([])}
    with pytest.raises(UsageError, match=r"a/b \[train\]: holds no rows"):
        load_nli("a/b", label2id=MODEL)


def test_a_hub_that_cannot_be_reached_is_not_asked_again_and_again(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    began = time.monotonic()
    with pytest.raises(UsageError, match=r"hub at http://127.0.0.1:9 could not be reached .*HF_HUB_OFFLINE=1"):
        load_nli("nobody/nothing", label2id=MODEL, split="test")
    assert time.monotonic() - began < 5
