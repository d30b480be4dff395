"""The tables of tasks and scores: their laws, on every row and on rows from elsewhere, which go through whole studies."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from decoder_fixture import write_decoder, write_text
from extending import brier, shortness
from nli_fixture import arguments, write_inputs, write_pairs
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

from autolr import registry
from autolr.cli.main import app
from autolr.data.examples import ExampleData
from autolr.errors import AutolrError, UsageError
from autolr.model.padding import ensure_padding
from autolr.scores import ACCURACY, AGREEMENT, DIVERGENCE, SCORES, TASKS, ScoreKind, TaskKind, add_task, forget_task
from autolr.scores import conformance as score_laws
from autolr.spec.budgets import Floor
from autolr.spec.study import make_spec
from autolr.tasks import conformance as task_laws
from autolr.tasks import own_task
from autolr.tasks.class_scorer import ClassScorer


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """Registers records as an installed package would."""

    def install(group: str, *records: object) -> None:
        before = registry.entry_points
        points = [SimpleNamespace(name=r.name, value=f"elsewhere:{r.name}", load=lambda r=r: r) for r in records]
        monkeypatch.setattr(
            registry, "entry_points", lambda group: [*before(group=group), *(points if group == named else [])]
        )
        TASKS.forget(), SCORES.forget()

    named = ""

    def of(group: str, *records: object) -> None:
        nonlocal named
        named = group
        install(group, *records)

    yield of
    monkeypatch.undo()
    TASKS.forget()
    SCORES.forget()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory):
    """A classifier with pairs, and a decoder with text."""
    folder = tmp_path_factory.mktemp("given")
    options = write_inputs(folder / "pairs")
    write_decoder(folder / "decoder")
    for part, words in (("train", 3000), ("validation", 3000), ("test", 1500)):
        write_text(folder / f"{part}.txt", words, seed=words + len(part))
    for part in ("train", "validation", "test"):
        rows = [json.loads(line) for line in (folder / f"pairs/{part}.jsonl").read_text().splitlines()]
        lines = [
            json.dumps({"both": [row["premise"], row["hypothesis"]], "weight": 1.0 + (i % 2)})
            for i, row in enumerate(rows)
        ]
        (folder / f"{part}.remarks").write_text("\n".join([*lines, json.dumps({"comment": "no example"})]) + "\n")
    return SimpleNamespace(folder=folder, options=options, model=options["--model"], decoder=str(folder / "decoder"))


def opened(path: str, auto: type = AutoModelForSequenceClassification):
    model, tokenizer = auto.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    ensure_padding(model, tokenizer)
    return model, tokenizer


def spec_of(task: str, places: SimpleNamespace, ending: str = "jsonl", **more: object):
    folder = places.folder / ("pairs" if ending == "jsonl" else "")
    data = {part: str(folder / f"{part}.{ending}") for part in ("train", "validation", "test")}
    return make_spec({"task": task, "budgets": ["0.5x-flops"], "data": data, **more}, "test")


@pytest.mark.parametrize("name", ["accuracy", "agreement", "divergence", "loss", "perplexity", "probe"])
def test_every_score_of_the_table_keeps_the_laws(name):
    assert name in SCORES.names()
    score_laws.check(SCORES.get(name))


def test_the_laws_are_run_on_every_built_in_score_and_task():
    assert set(SCORES.names()) == {"accuracy", "agreement", "divergence", "loss", "perplexity", "probe"}
    assert set(TASKS.names()) == {"nli", "lm"}


def test_a_score_from_elsewhere_keeps_the_laws():
    score_laws.check(brier.SCORE)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"needs": frozenset()}, "reads labels, and says it does not"),
        ({"bounds": (0.0, 0.5)}, "outside"),
        ({"binary": True}, "is said to be 0 or 1"),
        ({"help": ""}, "needs a help sentence"),
        ({"values": lambda a, d, y: brier.values(a, d, y).float()}, "not float64"),
        ({"values": lambda a, d, y: brier.values(a, d, y).mean()}, "has shape"),
        ({"values": lambda a, d, y: brier.values(a, d, y) / len(a)}, "depends on the others"),
        (
            {"values": lambda a, d, y: brier.values(a, d, y) + d.square().clamp(max=0.1).sum(-1).double()},
            "dense model's",
        ),
        ({"values": lambda a, d, y: brier.values(a.mul_(0.5), d, y)}, "changed an argument"),
    ],
)
def test_the_laws_of_scores_tell_what_is_broken(changes, complaint):
    with pytest.raises(AssertionError, match=complaint):
        score_laws.check(replace(brier.SCORE, **changes))


def test_a_score_that_answers_can_beat_is_none_of_the_distance_to_dense():
    worse = replace(AGREEMENT, better="smaller")
    with pytest.raises(AssertionError, match="the dense answers are beaten"):
        score_laws.check(worse)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"name": "F1"}, "lower-case"),
        ({"name": "f1", "better": "more"}, "must be 'smaller' or 'larger'"),
        ({"name": "f1", "bounds": (1.0, 0.0)}, "must ascend"),
        ({"name": "f1", "needs": frozenset({"logits"})}, "needs are 'dense' and 'labels'"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_malformed_score_is_refused(given, complaint, monkeypatch):
    with pytest.raises(
        Exception, match=complaint if "better" not in given and "needs" not in given else "better|needs"
    ):
        ScoreKind(**{"better": "larger", **given})


def test_a_task_needs_a_measured_score_and_roles_among_its_scores():
    with pytest.raises(ValueError, match="at least one score that is measured"):
        TaskKind("none", build="a:b", scores=())
    with pytest.raises(ValueError, match="objective 'accuracy' is not among its scores divergence"):
        TaskKind("own", build="a:b", scores=(DIVERGENCE,), objective=ACCURACY.name)
    kind = TaskKind("own", build="a:b", scores=(DIVERGENCE, ACCURACY))
    assert (kind.objective, kind.headline) == ("divergence", "divergence")
    with pytest.raises(UsageError, match="task own gives no score 'acuracy'; did you mean accuracy"):
        kind.score("acuracy")


def test_every_task_of_the_table_keeps_the_laws(places):
    task_laws.check(TASKS.get("nli"), spec_of("nli", places), *opened(places.model))
    spec = spec_of("lm", places, "txt", run={"seq_len": 16})
    task_laws.check(TASKS.get("lm"), spec, *opened(places.decoder, AutoModelForCausalLM))


def test_a_prompted_decoder_keeps_the_laws_of_nli(places):
    spec = spec_of("nli", places)
    words = {**spec.data.model_dump(), "words": ("yes", "may", "no"), "templates": ("{premise} : {hypothesis} :",)}
    spec = spec.model_copy(update={"data": type(spec.data)(**words)})
    task_laws.check(TASKS.get("nli"), spec, *opened(places.decoder, AutoModelForCausalLM))


def test_a_task_from_elsewhere_keeps_the_laws(places, installed):
    installed("autolr.tasks", shortness.TASK)
    task_laws.check(shortness.TASK, spec_of("shortness", places, "remarks"), *opened(places.model))


def test_the_laws_of_tasks_tell_of_missing_scores_and_of_values_out_of_bounds(places, installed):
    class Wrong(shortness.Shortness):
        def score(self, model, examples):
            return {"calm": [2.0] * len(examples), "brier": [0.0] * len(examples)}

    class Silent(shortness.Shortness):
        def score(self, model, examples):
            return {"calm": [0.5] * len(examples)}

    class Short(shortness.Shortness):
        def score(self, model, examples):
            return {"calm": [0.5], "brier": 0.1}

    given = opened(places.model)
    for build, complaint in (
        (Wrong, r"score calm is 2, outside its bounds \[0, 1\]"),
        (Silent, "score brier is missing; given are calm"),
        (Short, r"score calm must be one number or \d+, one for each example"),
    ):
        kind = replace(shortness.TASK, build=build)
        installed("autolr.tasks", kind)
        with pytest.raises(AutolrError, match=complaint):
            task_laws.check(kind, spec_of("shortness", places, "remarks"), *given)
        TASKS.forget()
        registry_of_this_test = registry.entry_points
        del registry_of_this_test


def test_a_registered_score_of_classification_is_a_score_of_every_classifier(installed):
    installed("autolr.scores", brier.SCORE)
    assert [kind.name for kind in TASKS.get("nli").given()] == ["accuracy", "agreement", "divergence", "brier"]
    assert "brier" not in {kind.name for kind in TASKS.get("lm").given()}
    labels, logits = torch.tensor([0, 1]), torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    values = ClassScorer([{"labels": labels}], logits).values(logits)
    wrong = 1 / (1 + torch.tensor(2.0, dtype=torch.float64).exp())
    torch.testing.assert_close(values["brier"], torch.stack([2 * wrong**2, torch.tensor(0.5, dtype=torch.float64)]))
    assert Floor.parse("brier<=0.4").shortfall(0.5, 0.1) == pytest.approx(0.1)
    with pytest.raises(UsageError, match="of brier less is better; turn the sign round"):
        Floor.parse("brier>=0.4")
    with pytest.raises(UsageError, match=r"is 3; it must lie in \(0, 2\]"):
        Floor.parse("brier<=3")


def test_a_task_of_this_process_alone_is_replaced_but_takes_no_name_in_use():
    kind = own_task("mine", lambda model: 0.5, ScoreKind("niceness", "larger", help="how nice it is"))
    try:
        assert SCORES.get("niceness").better == "larger"
        other = own_task("mine", lambda model, examples: 0.5, ScoreKind("niceness", "smaller", help="how bad it is"))
        assert TASKS.get("mine") == other != kind
        assert SCORES.get("niceness").better == "smaller"
        with pytest.raises(AutolrError, match="another score 'accuracy' than the one in use"):
            own_task("mine", lambda model: 0.5, ScoreKind("accuracy", "smaller"))
        assert TASKS.get("mine") == other, "a refused task leaves the one before"
    finally:
        forget_task("mine")
    assert "mine" not in TASKS
    assert "niceness" not in SCORES
    with pytest.raises(AutolrError, match="'nli' is in use"):
        add_task(TASKS.get("nli"))
    with pytest.raises(UsageError, match="must take a model, or a model and examples, got 3 arguments: a, b, c"):
        own_task("mine", lambda a, b, c: 0.5, ScoreKind("niceness", "larger"))


def test_rows_are_divided_so_that_equal_ones_stay_together():
    data = ExampleData("hand", tuple({"n": n % 10} for n in range(40)))
    parts = data.divided({"search": 2, "selection": 1}, seed=0)
    values = [{row["n"] for row in part.rows} for part in parts.values()]
    assert not values[0] & values[1]
    assert [len(part) for part in parts.values()] == [28, 12]
    shuffled = data.select(reversed(range(40))).divided({"search": 2, "selection": 1}, seed=0)
    assert [{row["n"] for row in part.rows} for part in shuffled.values()] == values
    with pytest.raises(UsageError, match="part 'b' would be empty"):
        ExampleData("hand", ({"n": 1}, {"n": 1})).divided({"a": 1, "b": 1}, 0)


def run(*words: object):
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code in (0, 3), (result.output, result.exception)
    return result


def test_a_task_from_elsewhere_goes_through_a_whole_study(places, installed, tmp_path):
    installed("autolr.tasks", shortness.TASK)
    study, out = tmp_path / "study", tmp_path / "model"
    data = [
        part for name in ("train", "validation", "test") for part in (f"--{name}", places.folder / f"{name}.remarks")
    ]
    run(
        "search", "--model", places.model, "--task", "shortness", *data, "--budget", "0.6x-flops", "--trials", "8",
        "--multiple", "1", "--floor", "calm>=0.5*dense", "--threads", "1", "--study", study,
    )  # fmt: skip
    result = json.loads((study / "result.json").read_text())
    report = result["report"]
    assert set(report["compressed"]) == {"calm", "brier"}
    assert report["calm_difference"]["value"] == pytest.approx(
        report["compressed"]["calm"]["value"] - report["dense"]["calm"]["value"]
    )
    trials = [json.loads(file.read_text()) for file in sorted((study / "trials").glob("*.json"))]
    assert all(set(trial["scores"]) == {"calm", "brier"} for trial in trials)
    assert trials[0]["values"][0] == trials[0]["scores"]["brier"]["value"], "the search goes by the task's objective"
    assert "calm" in run("front", study).output
    run("export", study, "--trial", result["winner"], "--out", out)
    card = (out / "README.md").read_text()
    assert "| calm |" in card
    assert "| brier |" in card
    found = json.loads(
        run("eval", out, "--task", "shortness", "--data", places.folder / "test.remarks", "--json").stdout
    )
    assert found["calm"] == pytest.approx(report["compressed"]["calm"]["value"], abs=1e-6)
    assert "calm" in run("eval", out, "--task", "shortness", "--data", places.folder / "test.remarks").output
    assert run("sensitivity", study, "--trial", result["winner"]).output


def test_a_task_from_elsewhere_is_compared(places, installed, tmp_path):
    installed("autolr.tasks", shortness.TASK)
    data = {name: str(places.folder / f"{name}.remarks") for name in ("train", "validation", "test")}
    asked = {
        "model": places.model, "task": "shortness", "data": data, "budgets": ["0.6x-flops"], "trials": 3, "multiple": 1,
        "entries": [{"name": "grouped", "space": "grouped", "sampler": "random"}, {"name": "ours"}],
    }  # fmt: skip
    file = tmp_path / "compare.yaml"
    file.write_text(json.dumps(asked))
    assert "calm" in run("compare", file, "--out", tmp_path / "out").output


def test_a_function_is_a_task_of_a_decoder_and_one_number_is_never_raced(places, tmp_path):
    """The number says nothing of its parts: every trial sees all."""

    def score(model, examples):
        with torch.no_grad():
            return float(model.model.layers[0].self_attn.o_proj(torch.eye(32)).abs().mean())

    kind = own_task("size", score, ScoreKind("bulk", "larger", help="how much a layer puts out"), noun="texts")
    try:
        for part, words in (("train", 200), ("validation", 600), ("test", 200)):
            text = write_text(tmp_path / "text", words * 6, seed=len(part)).read_text().split()
            rows = [json.dumps({"text": " ".join(text[6 * i : 6 * i + 6])}) for i in range(words)]
            (tmp_path / f"{part}.jsonl").write_text("\n".join(rows))
        data = [part for name in ("train", "validation") for part in (f"--{name}", tmp_path / f"{name}.jsonl")]
        run(
            "search", "--model", places.decoder, "--task", kind.name, *data, "--budget", "0.8x-nonembedding-params",
            "--trials", "7", "--multiple", "1", "--threads", "1", "--study", tmp_path / "study",
        )  # fmt: skip
        trials = [json.loads(file.read_text()) for file in (tmp_path / "study/trials").glob("*.json")]
        assert {trial["state"] for trial in trials} == {"complete"}
        assert all(trial["scores"]["bulk"] == {**trial["scores"]["bulk"], "stderr": 0.0, "n": 1} for trial in trials)
    finally:
        forget_task("size")


def test_a_file_of_other_rows_names_what_is_missing(places):
    own_task("rows", lambda model: 0.5, ScoreKind("niceness", "larger"))
    try:
        model, tokenizer = opened(places.model)
        spec = spec_of(
            "rows", places, data={"train": str(write_pairs(places.folder / "more.jsonl", 30)), "validation": "x"}
        )
        task = TASKS.get("rows").builder(spec, model, tokenizer, "here")
        data = task.load(spec, spec.data.train, None)
        assert task.text(data.rows[0]) == (data.rows[0]["premise"], data.rows[0]["hypothesis"])
        with pytest.raises(UsageError, match=r"has no column 'text'; did you mean test.*--text-column"):
            task.text({"test": "a"})
    finally:
        forget_task("rows")


def test_options_name_the_task(places):
    result = CliRunner().invoke(
        app, [*arguments(places.options), "--task", "nil"][:0] + ["search", "--budget", "0.5x-flops", "--task", "nil"]
    )
    assert result.exit_code == 2
    assert "did you mean nli?" in result.output
