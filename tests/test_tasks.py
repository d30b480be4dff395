"""The tables of tasks and scores: their laws on every row, malformed rows, and tasks made of a function."""

import json
from dataclasses import replace

import pytest
import torch
from decoder_fixture import write_text
from nli_fixture import write_pairs
from task_places import opened, run, spec_of, write_places
from transformers import AutoModelForCausalLM

from autolr.data.examples import ExampleData
from autolr.errors import AutolrError, UsageError
from autolr.scores import ACCURACY, AGREEMENT, DIVERGENCE, SCORES, TASKS, ScoreKind, TaskKind, add_task, forget_task
from autolr.scores import conformance as score_laws
from autolr.tasks import conformance as task_laws
from autolr.tasks import own_task


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory):
    return write_places(tmp_path_factory.mktemp("given"))


@pytest.mark.parametrize("name", ["accuracy", "agreement", "divergence", "loss", "perplexity", "probe"])
def test_every_score_of_the_table_keeps_the_laws(name):
    assert name in SCORES.names()
    score_laws.check(SCORES.get(name))


def test_the_laws_are_run_on_every_built_in_score_and_task():
    assert set(SCORES.names()) == {"accuracy", "agreement", "divergence", "loss", "perplexity", "probe"}
    assert set(TASKS.names()) == {"nli", "lm"}


def test_a_score_that_answers_can_beat_is_none_of_the_distance_to_dense():
    worse = replace(AGREEMENT, better="smaller")
    with pytest.raises(AssertionError, match="the dense answers are beaten"):
        score_laws.check(worse)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"name": "F1"}, "lower-case"),
        ({"name": "f1", "bounds": (1.0, 0.0)}, "must ascend"),
    ],
)
def test_a_malformed_score_is_refused(given, complaint):
    with pytest.raises(ValueError, match=complaint):
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
        with pytest.raises(
            UsageError, match=r"has no column 'text'; did you mean test.*--text-column\), or give own_task a text"
        ):
            task.text({"test": "a"})
    finally:
        forget_task("rows")
