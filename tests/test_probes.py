"""Probes: tasks from files, representations of sentences, classifiers on them, control tasks, a study with them."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from architecture_table import ARCHITECTURES, write
from decoder_fixture import tokenizer as decoder_tokenizer
from nli_fixture import write_inputs
from tiny import build
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

from autolr.checkpoint.runtime import rewrites
from autolr.checkpoint.runtime.layers import LowRankLinear
from autolr.cli.main import app
from autolr.data.probe_parts import load_probe_parts
from autolr.data.probing import ProbingTask, Sentences, dealt, load_probing_tasks, notes_on
from autolr.errors import AutolrError, UsageError
from autolr.model.padding import ensure_padding
from autolr.probes.classifiers import PENALTIES, control_labels, lengths, logistic_regression, probe, ridge_weights
from autolr.probes.features import features, sentence_batches
from autolr.probes.scorer import ProbeScorer, mean_accuracy, probe_sentences
from autolr.spec.study import DataSpec
from autolr.workflows import final_report
from autolr.workflows import select as selection

SUBJECTS = ("a dog", "a cat", "the man", "two women", "some children", "a bird")
VERBS = ("runs", "sleeps", "eats", "sings", "reads", "waits")


def write_tasks(folder: Path, n: int = 90) -> Path:
    """Two tasks on the words of the tiny tokenizers: which verb's half, and whether the subject has two words."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = torch.Generator().manual_seed(0)
    rows = []
    for index in range(n):
        s, v, w = (int(torch.randint(6, (), generator=draw)) for _ in range(3))
        text = f"{SUBJECTS[s]} {VERBS[v]} in the park {VERBS[w]} {index}"
        rows.append(("tr" if index < 2 * n // 3 else "te", v < 3, s < 3, text))
    (folder / "verb.tsv").write_text("".join(f"{a}\t{b}\t{t}\n" for a, b, _, t in rows))
    (folder / "subject.txt").write_text("".join(f"{a}\t{c}\t{t}\n" for a, _, c, t in rows))
    (folder / "README.md").write_text("no task")
    return folder


def test_tasks_are_read_from_a_folder_or_a_file(tmp_path: Path):
    folder = write_tasks(tmp_path / "tasks")
    tasks = load_probing_tasks(folder)
    assert [(t.name, len(t.train), len(t.test), t.classes) for t in tasks] == [
        ("subject", 60, 30, ("False", "True")),
        ("verb", 60, 30, ("False", "True")),
    ]
    assert load_probing_tasks(folder / "verb.tsv")[0].digest == tasks[1].digest != tasks[0].digest


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("tr\ta\tx y\nte\tb\n", r"line 2: must be a split \(tr, va, te\), a label and a sentence.*saw 'te\\tb'"),
        ("dev\ta\tx\n", r"line 1: must be a split"),
        ("tr\ta\tx\ntr\tb\t \nte\ta\tz\n", r"line 2: must be a split"),
        ("tr\ta\tx\ntr\ta\ty\nte\ta\tz\n", r"its training sentences have 1 labels"),
        ("tr\ta\tx\ntr\tb\ty\n", r"no test sentences"),
        ("tr\ta\tx\ntr\tb\ty\nte\tc\tz\n", r"no training sentence has the label 'c'"),
        ("tr\ta\tx\ntr\tb\ty\nte\ta\tx\n", r"1 of 1 test sentences are training sentences too"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: str, said: str):
    file = tmp_path / "task.tsv"
    file.write_text(content)
    with pytest.raises(UsageError, match=f"task.tsv.*{said}"):
        load_probing_tasks(file)


def test_separators_of_lines_within_a_sentence_are_kept(tmp_path: Path):
    file = tmp_path / "task.tsv"
    file.write_text("tr\ta\tx\u2028y\x85z\r\ntr\tb\ty\nte\ta\tz", newline="", encoding="utf-8")
    assert load_probing_tasks(file)[0].train.texts == ("x\u2028y\x85z", "y")


def test_compressed_files_are_read(tmp_path: Path):
    plain = write_tasks(tmp_path / "plain")
    packed = tmp_path / "verb.tsv.gz"
    packed.write_bytes(gzip.compress((plain / "verb.tsv").read_bytes()))
    [task] = load_probing_tasks(packed)
    assert (task.name, task.digest) == ("verb", load_probing_tasks(plain / "verb.tsv")[0].digest)


def test_two_files_of_one_task_are_refused(tmp_path: Path):
    folder = write_tasks(tmp_path / "tasks")
    (folder / "verb.txt.gz").write_bytes(gzip.compress(b"tr\ta\tx\n"))
    with pytest.raises(UsageError, match=r"verb\.tsv and verb\.txt\.gz are both task verb; rename one of them"):
        load_probing_tasks(folder)


def test_a_file_of_another_encoding_is_refused_with_the_line(tmp_path: Path):
    file = tmp_path / "task.tsv"
    file.write_bytes("tr\ta\tx\ntr\tb\té\n".encode("latin1"))
    with pytest.raises(UsageError, match=r"task\.tsv, line 2: byte 0xe9 is not UTF-8; .*iconv"):
        load_probing_tasks(file)


def test_a_sentence_that_stands_there_several_times_is_in_one_part(tmp_path: Path):
    file = tmp_path / "task.tsv"
    rows = [f"{split}\t{'ab'[i % 2]}\t{split} dog {i}" for split in ("tr", "te") for i in range(12)]
    file.write_text("\n".join(rows + rows[12:] * 5))
    parts = load_probe_parts(DataSpec(probes=str(file), probe_test=1000), 0)
    texts = {part: set(tasks[0].test.texts) for part, tasks in parts.items()}
    assert sorted(map(len, texts.values())) == [4, 4, 4]
    assert len(set.union(*texts.values())) == 12
    assert sum(len(tasks[0].test) for tasks in parts.values()) == 72


def test_what_training_and_test_sentences_share_is_noted(tmp_path: Path):
    file = tmp_path / "task.tsv"
    file.write_text("tr\ta\tx\ntr\tb\ty\nte\ta\tx\nte\tb\tz\n")
    tasks = load_probing_tasks(file)
    assert notes_on(tasks) == ["probing task task: 1 of 2 test sentences are training sentences too"]


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_a_rewritten_model_has_the_same_representations(pooling: str):
    """Its last block has no state but at the first position; of the rest it is asked as it was."""
    model, made = build("bert"), decoder_tokenizer()
    ensure_padding(model, made)
    sentences = sentence_batches(made, ["a dog runs", "the cat", "the man sleeps in the park"], 2, 24)
    wanted = features(model, sentences, pooling)
    assert rewrites.apply(model, "first-position")
    assert torch.equal(features(model, sentences, pooling), wanted)
    assert rewrites.applied(model) == ["first-position"]


def test_a_folder_without_tasks_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="holds no probing task"):
        load_probing_tasks(tmp_path)
    with pytest.raises(UsageError, match="no such file or folder"):
        load_probing_tasks(tmp_path / "absent")


def test_a_sample_keeps_the_proportions_of_the_classes():
    sentences = Sentences(tuple(map(str, range(100))), tuple([0] * 60 + [1] * 30 + [2] * 10))
    for n in (10, 37, 99):
        counts = Counter(sentences.take(n, seed=1).labels)
        assert all(abs(counts[label] - n * share) <= 1.5 for label, share in enumerate((0.6, 0.3, 0.1)))
    assert sentences.take(10, seed=1) != sentences.take(10, seed=2)
    assert sentences.take(200, seed=1) is sentences


def test_the_majority_is_that_of_the_training_sentences():
    task = ProbingTask("t", ("a", "b"), Sentences(("x", "y", "z"), (0, 0, 1)), Sentences(("u", "v"), (1, 1)))
    assert task.majority == 0.0


@pytest.mark.parametrize("hands", [2, 3, 5])
def test_classes_are_dealt_evenly_whatever_order_they_stand_in(hands: int):
    """Also where labels repeat with the number of hands, as those of a generated file do."""
    labels = [i % hands for i in range(30 * hands)] + [7]
    found = dealt(labels, hands)
    assert sorted(row for hand in found for row in hand) == list(range(len(labels)))
    for hand in found:
        counts = Counter(labels[row] for row in hand)
        assert all(abs(counts[label] - 30 / hands) <= 1 for label in range(hands))


def test_the_parts_of_a_study_have_every_class_of_test_sentences_that_stand_in_turn(tmp_path: Path):
    rows = [f"{'te' if i < 30 else 'tr'}\t{'abc'[i % 3]}\tsentence {i}\n" for i in range(90)]
    (tmp_path / "turns.tsv").write_text("".join(rows))
    parts = load_probe_parts(DataSpec(probes=str(tmp_path)), 0)
    seen = [task.test for (task,) in parts.values()]
    assert [Counter(test.labels) for test in seen] == [{0: 4, 1: 3, 2: 3}, {0: 3, 1: 4, 2: 3}, {0: 3, 1: 3, 2: 4}]
    assert len({text for test in seen for text in test.texts}) == 30


# Representations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama-lm-tied", "llama", "gpt2-lm", "bert", "opt"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_features_are_those_of_each_sentence_alone(family: str, side: str, pooling: str):
    """Whatever the batch, the padding and its side."""
    model, made = build(family), decoder_tokenizer(side=side)
    ensure_padding(model, made)
    texts = ["a dog runs", "the cat sleeps in the park", "a man", "dog : yes no in the home park"]
    found = features(model, sentence_batches(made, texts, 3, 64), pooling)
    for row, text in enumerate(texts):
        ids = torch.tensor([made(text)["input_ids"]])
        with torch.no_grad():
            states = torch.stack(model.base_model(input_ids=ids, output_hidden_states=True).hidden_states)[:, 0]
        alone = {"mean": states.mean(1), "first": states[:, 0], "last": states[:, -1]}[pooling]
        torch.testing.assert_close(found[:, row], alone, atol=2e-4, rtol=1e-4)
    some = features(model, sentence_batches(made, texts, 3, 64), pooling, [1])
    torch.testing.assert_close(some[0], found[1])


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_every_architecture_has_features(name: str, tmp_path: Path):
    """Layers of one width, those of each sentence alone; of an encoder-decoder the encoder's."""
    folder = write(name, tmp_path / "model")
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    made = AutoTokenizer.from_pretrained(folder, padding_side="left")
    texts = ["a dog runs", "two women on the hill by the river", "a man"]
    found = features(model, sentence_batches(made, texts, 3, 48))
    assert found.shape[:2] == (3, 3)
    alone = torch.cat([features(model, sentence_batches(made, [text], 1, 48)) for text in texts], 1)
    torch.testing.assert_close(found, alone, atol=2e-4, rtol=2e-4)


def test_representations_that_are_not_finite_are_refused():
    model = build("llama-lm-tied")
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    made = decoder_tokenizer()
    ensure_padding(model, made)
    with pytest.raises(AutolrError, match="NaN or infinite"):
        features(model, sentence_batches(made, ["a dog"], 1, 64))


# Probes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 6), (12, 30), (30, 30), (20, 5)])
def test_the_ridge_is_the_one_of_generalised_cross_validation(shape: tuple[int, int]):
    """Against the formula with the hat matrix written out, for each penalty."""
    n, d = shape
    random = torch.Generator().manual_seed(n)
    X = torch.randn(n, d, generator=random, dtype=torch.float64)
    if shape == (20, 5):
        X[:, 4] = X[:, 0] - X[:, 1]  # rank-deficient
    X = X - X.mean(0)
    labels = (X[:, 0] + 0.7 * torch.randn(n, generator=random, dtype=torch.float64) > 0).long()
    Y = torch.nn.functional.one_hot(labels).double()
    Yc = Y - Y.mean(0)
    mean_eigenvalue = float(torch.linalg.eigvalsh(X.mT @ X if d <= n else X @ X.mT).sum()) / min(n, d)
    scores, solutions = [], []
    for penalty in (PENALTIES * mean_eigenvalue).tolist():
        inverse = torch.linalg.inv(X.mT @ X + penalty * torch.eye(d, dtype=torch.float64))
        hat = X @ inverse @ X.mT
        scores.append(float((Yc - hat @ Yc).square().sum()) / (1 - (float(hat.trace()) + 1) / n) ** 2)
        solutions.append(inverse @ X.mT @ Yc)
    weights, offset = ridge_weights(X, labels)
    torch.testing.assert_close(weights, solutions[scores.index(min(scores))], atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(offset, Y.mean(0))


@pytest.mark.parametrize("kind", ["ridge", "logistic", "mlp"])
def test_a_planted_signal_is_found_and_noise_is_not(kind: str):
    random = torch.Generator().manual_seed(0)
    X = torch.randn(600, 20, generator=random)
    labels = (X[:, 3] - X[:, 7] > 0).long()
    X = X * torch.logspace(-2, 2, 20)  # scales do not matter
    right = probe(kind, X[:400], labels[:400], X[400:], labels[400:]).double().mean()
    assert right > 0.8
    noise = torch.randint(2, (600,), generator=random)
    assert abs(probe(kind, X[:400], noise[:400], X[400:], noise[400:]).double().mean() - 0.5) < 0.12
    again = probe(kind, X[:400], labels[:400], X[400:], labels[400:]).double().mean()
    assert right == again


def test_the_logistic_probe_chooses_its_strength():
    """Two columns that are nearly one, whose difference is the label, and forty that say nothing."""
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (900,), generator=random)
    common = torch.randn(900, generator=random)
    plain = torch.stack([common, common + 0.02 * (labels - 0.5)], 1)
    right = probe("logistic", plain[:600], labels[:600], plain[600:], labels[600:]).double().mean()
    assert right > 0.95  # 0.52 with C = 0.05
    X = torch.randn(300, 200, generator=random)
    labels = (X[:, 0] + 0.5 * torch.randn(300, generator=random) > 0).long()
    assert logistic_regression(X.double(), labels, [torch.arange(0, 300, 3)]).C < 0.1


def test_the_multilayer_probe_is_trained_to_its_end_on_small_sets():
    random = torch.Generator().manual_seed(0)
    X = torch.randn(500, 2, generator=random)
    labels = (X[:, 0] * X[:, 1] > 0).long()
    right = probe("mlp", X[:200], labels[:200], X[200:], labels[200:]).double().mean()
    assert right > 0.9  # 0.73 with scikit-learn's patience
    assert probe("ridge", X[:200], labels[:200], X[200:], labels[200:]).double().mean() < 0.65


@pytest.mark.parametrize("kind", ["ridge", "logistic", "mlp"])
@pytest.mark.parametrize(
    "labels", [[1, 1, 1], [0, 1], [0, 1, 2], [0, 0, 0, 0, 0, 1], [2, 2, 1, 1], list(range(12)) * 2]
)
def test_few_sentences_and_rare_classes_are_no_obstacle(kind: str, labels: list[int]):
    X = torch.eye(max(labels) + 1)[labels] + 0.01 * torch.randn(len(labels), max(labels) + 1)
    assert probe(kind, X, torch.tensor(labels), X, torch.tensor(labels)).shape == (len(labels),)


def test_a_constant_representation_gives_the_majority():
    labels = torch.tensor([0, 0, 0, 1])
    assert probe("ridge", torch.ones(4, 3), labels, torch.ones(2, 3), torch.tensor([0, 1])).tolist() == [True, False]


def test_control_labels_depend_on_the_rarest_shared_word_alone_and_have_the_tasks_proportions():
    texts = tuple(f"the {'abcdefghij'[i % 10]}{i // 40 % 4} common" for i in range(800))
    task = ProbingTask("t", ("x", "y"), Sentences(texts, tuple([0] * 600 + [1] * 200)), Sentences(texts[:5], (0,) * 5))
    train, test = control_labels(task, seed=0)
    by_word: dict[str, set[int]] = {}
    for text, label in zip(texts, train.tolist(), strict=True):
        by_word.setdefault(text.split()[1], set()).add(label)
    assert all(len(labels) == 1 for labels in by_word.values())
    assert 0.15 < train.double().mean() < 0.35
    assert train[:5].tolist() == test.tolist()
    assert not torch.equal(train, control_labels(task, seed=1)[0])


def test_selectivity_unmasks_a_probe_that_memorises_words():
    """Representations of nothing but word identity read a control task as well as any task of the same kind."""
    draw = torch.Generator().manual_seed(0)
    vectors = torch.randn(30, 64, generator=draw)
    words = torch.randint(30, (900,), generator=draw)
    texts = tuple(f"w{int(word)}" for word in words)
    labels = tuple((words % 2).tolist())
    task = ProbingTask("t", ("x", "y"), Sentences(texts[:600], labels[:600]), Sentences(texts[600:], labels[600:]))
    X, y = vectors[words], words % 2
    real = probe("ridge", X[:600], y[:600], X[600:], y[600:]).double().mean()
    known, asked = control_labels(task, seed=0)
    control = probe("ridge", X[:600], known, X[600:], asked).double().mean()
    assert (float(real), float(control)) == (1.0, 1.0)


def test_lengths_tell_nothing_but_the_number_of_words():
    found = lengths(Sentences(("a b c", "x y z", "a", "a " * 500), (0, 0, 1, 1)))
    assert torch.equal(found[0], found[1])
    assert found.argmax(1).tolist() == [3, 3, 1, 40]


# The score ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("inputs")
    return write_inputs(folder), write_tasks(folder / "tasks", 240)


def test_the_score_is_the_mean_of_the_tasks_probes_each_at_its_layer(made):
    options, folder = made
    model = AutoModelForSequenceClassification.from_pretrained(options["--model"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(options["--model"])
    tasks = load_probing_tasks(folder)
    sentences = probe_sentences(tokenizer, tasks, 16, 64, "cpu")
    scorer = ProbeScorer.of(model, tasks, sentences, "mean")
    correct = scorer.correct(model)
    assert all(torch.equal(correct[name], right) for name, right in scorer.dense.items())
    assert scorer.stderr(correct) == 0.0
    shares = []
    for task, layer in zip(tasks, scorer.layers, strict=True):
        X, Z = (features(model, sentence_batches(tokenizer, s.texts, 7, 64))[layer] for s in (task.train, task.test))
        y, z = torch.tensor(task.train.labels), torch.tensor(task.test.labels)
        shares.append(float(probe("ridge", X, y, Z, z).double().mean()))
    assert mean_accuracy(correct).value == pytest.approx(sum(shares) / len(shares), abs=0.02)
    again = ProbeScorer.stored(tasks, sentences, "mean", scorer.kept())
    assert again.layers == scorer.layers
    assert again.score(model) == scorer.score(model)


def test_the_layer_is_found_where_labels_alternate(made):
    """In halves of one class each every layer's probe would be wrong everywhere."""
    options, _ = made
    model = AutoModelForSequenceClassification.from_pretrained(options["--model"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(options["--model"])
    texts = tuple(f"{SUBJECTS[i % 6]} {VERBS[i // 6 % 6]} in {'the home' if i % 2 else 'home the'}" for i in range(72))
    sentences = Sentences(texts, tuple(i % 2 for i in range(72)))
    task = ProbingTask("turns", ("a", "b"), sentences, sentences)
    scorer = ProbeScorer.of(model, [task], probe_sentences(tokenizer, [task], 16, 64, "cpu"), "first")
    assert scorer.layers[0] > 0  # at the embeddings the first token is the same everywhere


def search(options: dict[str, str], *flags: str) -> object:
    given = [part for pair in options.items() for part in pair]
    sizes = ["--search-examples", "30", "--selection-examples", "30", "--multiple", "2", "--budget", "0.6x-flops"]
    return CliRunner().invoke(app, ["search", *given, *sizes, *flags])


def test_a_study_with_probes_as_a_third_objective(made, tmp_path: Path):
    options, folder = made
    flags = ["--probes", str(folder), "--objective", "probes", "--trials", "12", "--study", str(tmp_path / "s")]
    done = search(options, *flags, "--floor", "probe>=0.5*dense", "--json")
    assert done.exit_code in (0, 3), done.output
    result = json.loads(done.stdout)
    found = result["report"]["probes"]
    by_task = found["dense"]["tasks"]
    assert set(by_task) == {"subject", "verb"}
    n = found["dense"]["mean"]["n"]
    assert n == sum(by_task[task]["n"] for task in ("subject", "verb")) == 2 * 26  # a third of 80, rounded down
    card = (tmp_path / "s" / result["checkpoint"] / "README.md").read_text()
    assert f"| probes, mean accuracy of 2 | {found['compressed']['mean']['value']:.4f} " in card
    front = json.loads((tmp_path / "s" / "front.json").read_text())
    assert front["objectives"] == ["divergence", "flops ratio", "probe"]
    accuracy = [one["selection"]["accuracy"]["value"] for one in result["members"]]
    winner = next(one for one in result["members"] if one["trial"] == result["winner"])
    kept = [one for one in result["members"] if one["keeps_floors"] == winner["keeps_floors"]]
    near = [one for one in kept if one["selection"]["accuracy"]["value"] >= max(accuracy) - 0.01]
    if winner in near:
        assert winner["selection"]["probe"]["value"] == max(one["selection"]["probe"]["value"] for one in near)
    trial = json.loads((tmp_path / "s" / "trials" / "3.json").read_text())
    assert {"divergence", "accuracy", "agreement", "probe"} == set(trial["scores"])
    shown = search(options, *flags, "--floor", "probe>=0.5*dense")  # finished: printed again
    assert "probe %" in shown.stdout
    assert "Probes, mean accuracy over 2 tasks" in " ".join(shown.stdout.split())


def test_what_the_dense_model_knows_is_measured_before_anything_is_compressed(
    made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of every part, the report's too, which is touched while the winner is at hand."""
    parts, build = [], selection.probe_scorer

    def watched(inputs, bank, part, progress):
        assert not any(isinstance(module, LowRankLinear) for module in inputs.model.modules())
        parts.append(part)
        return build(inputs, bank, part, progress)

    for module in (selection, final_report):
        monkeypatch.setattr(module, "probe_scorer", watched)
    monkeypatch.setattr("autolr.workflows.search.rehearse", lambda *_: None)
    options, folder = made
    done = search(options, "--probes", str(folder), "--trials", "4", "--study", str(tmp_path / "s"))
    assert done.exit_code == 0, done.output
    assert parts == ["selection", "report"]


@pytest.mark.parametrize("flags", [["--objective", "probes"], ["--floor", "probe>=0.9*dense"]])
def test_probes_that_are_asked_for_must_be_given(made, tmp_path: Path, flags: list[str]):
    done = search(made[0], *flags, "--study", str(tmp_path / "s"))
    assert (done.exit_code, "--probes" in done.stderr) == (2, True)


def test_a_search_has_one_signal(made, tmp_path: Path):
    done = search(made[0], "--objective", "accuracy", "--objective", "agreement", "--study", str(tmp_path / "s"))
    assert (done.exit_code, "a search has one signal" in done.stderr) == (2, True)
