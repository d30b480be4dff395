"""A task and a score of third parties, each one file and one entry point; the task goes through a whole study."""

import json
from dataclasses import replace

import brier
import pytest
import shortness
import torch
from installed import installed
from task_places import opened, run, spec_of, write_places

from autolr.errors import AutolrError, UsageError
from autolr.scores import SCORES, TASKS, add_task, forget_task
from autolr.scores import conformance as score_laws
from autolr.spec.budgets import Floor
from autolr.tasks import conformance as task_laws
from autolr.tasks.class_scorer import ClassScorer


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory):
    return write_places(tmp_path_factory.mktemp("given"))


@pytest.fixture
def with_task(tmp_path_factory):
    package = tmp_path_factory.mktemp("package")
    with installed(package, {TASKS.group: {"shortness": "shortness:TASK"}}):
        SCORES.forget()
        yield
    SCORES.forget()


@pytest.fixture
def with_score(tmp_path_factory):
    package = tmp_path_factory.mktemp("package")
    with installed(package, {SCORES.group: {"brier": "brier:SCORE"}}):
        yield


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
            {"values": lambda a, d, y: 0.5 * brier.values(a, d, y) + d.sigmoid().mean(-1).double()},
            "dense model's",
        ),
        ({"values": lambda a, d, y: brier.values(a.mul_(0.5), d, y)}, "changed an argument"),
    ],
)
def test_the_laws_of_scores_tell_what_is_broken(changes, complaint):
    with pytest.raises(AssertionError, match=complaint):
        score_laws.check(replace(brier.SCORE, **changes))


def test_a_task_from_elsewhere_keeps_the_laws(places, with_task):
    task_laws.check(shortness.TASK, spec_of("shortness", places, "remarks"), *opened(places.model))


def test_the_laws_of_tasks_tell_of_missing_scores_and_of_values_out_of_bounds(places):
    class Wrong(shortness.Shortness):
        def score(self, model, examples):
            return {"calm": [2.0] * len(examples), "alarm": [0.0] * len(examples)}

    class Silent(shortness.Shortness):
        def score(self, model, examples):
            return {"calm": [0.5] * len(examples)}

    class Short(shortness.Shortness):
        def score(self, model, examples):
            return {"calm": [0.5], "alarm": 0.1}

    class Drawn(shortness.Shortness):
        def score(self, model, examples):
            return {"calm": torch.rand(len(examples)), "alarm": torch.rand(len(examples))}

    given = opened(places.model)
    for build, complaint in (
        (Wrong, r"score calm is 2, outside its bounds \[0, 1\]"),
        (Silent, "score alarm is missing; given are calm"),
        (Short, r"score calm must be one number or \d+, one for each example"),
        (Drawn, "the same model scores otherwise again"),
    ):
        kind = add_task(replace(shortness.TASK, name="broken", build=build))
        try:
            with pytest.raises((AutolrError, AssertionError), match=complaint):
                task_laws.check(kind, spec_of("broken", places, "remarks"), *given)
        finally:
            forget_task("broken")


def test_a_registered_score_of_classification_is_a_score_of_every_classifier(with_score):
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


def test_a_task_from_elsewhere_goes_through_a_whole_study(places, with_task, tmp_path):
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
    assert set(report["compressed"]) == {"calm", "alarm"}
    assert report["calm_difference"]["value"] == pytest.approx(
        report["compressed"]["calm"]["value"] - report["dense"]["calm"]["value"]
    )
    trials = [json.loads(file.read_text()) for file in sorted((study / "trials").glob("*.json"))]
    assert all(set(trial["scores"]) == {"calm", "alarm"} for trial in trials)
    assert trials[0]["values"][0] == trials[0]["scores"]["alarm"]["value"], "the search goes by the task's objective"
    assert "calm" in run("front", study).output
    run("export", study, "--trial", result["winner"], "--out", out)
    card = (out / "README.md").read_text()
    assert "| calm |" in card
    assert "| alarm |" in card
    found = json.loads(
        run("eval", out, "--task", "shortness", "--data", places.folder / "test.remarks", "--json").stdout
    )
    assert found["calm"] == pytest.approx(report["compressed"]["calm"]["value"], abs=1e-6)
    assert "calm" in run("eval", out, "--task", "shortness", "--data", places.folder / "test.remarks").output
    assert run("sensitivity", study, "--trial", result["winner"]).output


def test_a_task_from_elsewhere_is_compared(places, with_task, tmp_path):
    data = {name: str(places.folder / f"{name}.remarks") for name in ("train", "validation", "test")}
    asked = {
        "model": places.model, "task": "shortness", "data": data, "budgets": ["0.6x-flops"], "trials": 3, "multiple": 1,
        "entries": [{"name": "grouped", "space": "grouped", "sampler": "random"}, {"name": "ours"}],
    }  # fmt: skip
    file = tmp_path / "compare.yaml"
    file.write_text(json.dumps(asked))
    assert "calm" in run("compare", file, "--out", tmp_path / "out").output
