"""The Python API with objects: they are never changed, any process can go on, contents decide what is the same."""

import inspect
import json
import logging
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import transformers
from nli_fixture import LABELS, write_inputs, write_model, write_pairs
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

import autolr
from autolr.cli import app
from autolr.data.objects import write_rows
from autolr.errors import BudgetError, Stopped, UsageError
from autolr.model.objects import model_directory
from autolr.optimization.study.folder import StudyFolder
from autolr.progress import Silent
from autolr.report.front_table import front_table
from autolr.results import Front
from autolr.spec.options import options_of
from autolr.spec.study import StudySpec
from autolr.workflows.search import run_search
from autolr.workflows.undisturbed import undisturbed

FEW = {"method": "svd", "multiple": 2, "search_examples": 40, "selection_examples": 40, "trials": 3, "refit": False}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return {name.strip("-"): place for name, place in write_inputs(tmp_path_factory.mktemp("inputs")).items()}


def rows_of(place):
    return [json.loads(line) for line in Path(place).read_text().splitlines()]


@pytest.fixture
def objects(inputs):
    """A model that lies nowhere on disk as it is, with its tokenizer, and rows."""
    model = AutoModelForSequenceClassification.from_pretrained(inputs["model"])
    with torch.no_grad():
        model.classifier.bias.add_(0.25)
    data = {name: rows_of(inputs[name]) for name in ("train", "validation", "test")}
    return {"model": model, "tokenizer": AutoTokenizer.from_pretrained(inputs["model"]), **data}


@pytest.fixture(scope="module")
def study(inputs, tmp_path_factory):
    path = tmp_path_factory.mktemp("studies") / "mine"
    return autolr.search(**inputs, budget="0.5x-flops", study=path, **FEW)


def test_objects_become_part_of_the_study_and_are_not_changed(objects, tmp_path):
    before = {name: tensor.clone() for name, tensor in objects["model"].state_dict().items()}
    objects["model"].train()
    study = autolr.search(**objects, budget="0.5x-flops", study=tmp_path / "s", **FEW)
    assert study.reached
    after = objects["model"].state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert objects["model"].training
    inside = sorted(place.name.split("-")[0] for place in (tmp_path / "s" / "inputs").iterdir())
    assert inside == ["model", "test", "train", "validation"]
    assert study.spec.model == str(next((tmp_path / "s" / "inputs").glob("model-*")))
    stored = AutoModelForSequenceClassification.from_pretrained(study.spec.model)
    assert torch.equal(stored.classifier.bias, before["classifier.bias"])


def test_the_same_objects_go_on_and_others_are_refused(objects, tmp_path):
    study = autolr.search(**objects, budget="0.5x-flops", study=tmp_path / "s", **FEW)
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "s" / "inputs").rglob("*")}
    again = autolr.search(**objects, budget="0.5x-flops", study=tmp_path / "s", **FEW)
    assert again.result == study.result
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "s" / "inputs").rglob("*")} == files
    with torch.no_grad():
        objects["model"].classifier.bias.add_(0.25)
    with pytest.raises(UsageError, match=r"begun with another model, data or setting:\n +model weights: was"):
        autolr.search(**objects, budget="0.5x-flops", study=tmp_path / "s", **FEW)


def test_objects_and_the_files_they_came_from_are_the_same_study(inputs, tmp_path):
    """Contents decide, wherever they are: the study of files goes on with objects, and finds the same trials."""
    by_place = autolr.search(**inputs, budget="0.5x-flops", study=tmp_path / "s", **FEW)
    data = {name: rows_of(inputs[name]) for name in ("train", "validation", "test")}
    model = AutoModelForSequenceClassification.from_pretrained(inputs["model"])
    tokenizer = AutoTokenizer.from_pretrained(inputs["model"])
    by_object = autolr.search(
        model, tokenizer=tokenizer, **data, budget="0.5x-flops", study=tmp_path / "s", **{**FEW, "trials": 4}
    )
    assert by_object.status.trials["complete"] + by_object.status.trials["stopped"] == 4
    assert by_object.spec.model == str(Path(inputs["model"]).resolve())  # the same lies there: it is not copied
    assert by_place.path == by_object.path


def test_another_process_goes_on_with_a_study_of_objects_also_where_its_folder_was_moved(objects, tmp_path):
    autolr.search(**objects, budget="0.5x-flops", study=tmp_path / "s", **FEW)
    (tmp_path / "s").rename(tmp_path / "elsewhere")
    program = "import sys; from autolr.cli import main; main()"
    words = ["resume", str(tmp_path / "elsewhere"), "--trials", "4"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    study = autolr.Study(tmp_path / "elsewhere")
    assert study.status.trials["complete"] + study.status.trials["stopped"] == 4
    assert study.resume(trials=5).status.finished


def test_a_data_set_with_class_labels_is_matched_by_their_names(inputs, tmp_path):
    """Numbers in a file would be the model's own ids, and here the data set counts them the other way round."""
    rows, turned = rows_of(inputs["test"]), LABELS[::-1]
    features = datasets.Features(
        premise=datasets.Value("string"), hypothesis=datasets.Value("string"), label=datasets.ClassLabel(names=turned)
    )
    columns = {name: [row[name] for row in rows] for name in ("premise", "hypothesis", "label")}
    data = datasets.Dataset.from_dict(columns, features=features)
    assert data[0]["label"] != LABELS.index(rows[0]["label"])
    assert rows_of(write_rows(data, tmp_path, "test")) == rows
    assert autolr.evaluate(inputs["model"], data) == autolr.evaluate(inputs["model"], rows)


def test_rows_are_written_once_under_a_name_of_their_content(tmp_path):
    rows = [{"text": "a", "n": np.int64(3), "gold": np.float32(0.5)}]
    first = write_rows(rows, tmp_path, "train")
    assert rows_of(first) == [{"text": "a", "n": 3, "gold": 0.5}]
    assert write_rows([{"text": "a", "n": 3, "gold": 0.5}], tmp_path, "train") == first
    assert write_rows([{"text": "b"}], tmp_path, "train") != first


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (["text"], "train data, row 1 must be a mapping of columns to values, saw 'text'; give a list of dicts"),
        ([{"a": 1}, {"a": object()}], "train data, row 2: 'a' holds <object .*which JSON cannot"),
        ([{"a": float("nan")}], "row 1: 'a' holds nan, which JSON cannot"),
    ],
)
def test_a_row_that_cannot_be_written_is_named(rows, complaint, tmp_path):
    with pytest.raises(UsageError, match=complaint):
        write_rows(rows, tmp_path, "train")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["weights", "config", "tokenizer", "dtype", "none"])
def test_a_model_is_copied_where_its_directory_holds_another(change, inputs, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(inputs["model"])
    tokenizer = AutoTokenizer.from_pretrained(inputs["model"])
    if change == "weights":
        with torch.no_grad():
            model.bert.embeddings.word_embeddings.weight[3, 2] += 1e-3
    if change == "config":
        model.config.layer_norm_eps = 1e-3
    if change == "tokenizer":
        tokenizer.add_tokens(["another"])
    if change == "dtype":
        model.to(torch.float16)
    place = model_directory(model, tokenizer, tmp_path)
    assert (place == Path(inputs["model"]).resolve()) == (change == "none")
    assert model_directory(model, tokenizer, tmp_path) == place
    assert len(list(tmp_path.iterdir())) == (change != "none")


def test_a_model_that_was_never_on_disk_is_copied(tmp_path):
    write_model(tmp_path / "m")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "m")
    model = AutoModelForSequenceClassification.from_config(config)
    assert model_directory(model, None, tmp_path / "here").parent == tmp_path / "here"


def test_what_cannot_be_used_is_refused_and_leaves_nothing_behind(objects, inputs, tmp_path):
    path = tmp_path / "s"
    common = {"study": path, **FEW}
    data = {name: objects[name] for name in ("train", "validation", "test")}
    with pytest.raises(UsageError, match="a model that is an object needs its tokenizer"):
        autolr.search(objects["model"], **data, budget="0.5x-flops", **common)
    with pytest.raises(UsageError, match=r"tokenizer=\.\.\. belongs to a model that is an object"):
        autolr.search(inputs["model"], tokenizer=objects["tokenizer"], **data, budget="0.5x-flops", **common)
    with pytest.raises(UsageError, match="there is no option 'metod'; did you mean method"):
        autolr.search(**objects, budget="0.5x-flops", metod="svd", **common)
    with pytest.raises(UsageError, match=r"^multiple: must be greater than or equal to 1"):
        autolr.search(**objects, budget="0.5x-flops", **{**common, "multiple": 0})
    with pytest.raises(UsageError, match="malformed budget 'half'"):
        autolr.search(**objects, budget="half", **common)
    with pytest.raises(BudgetError, match="nearest reachable budget"):
        autolr.search(**objects, budget="0.01x-params", **common)
    with pytest.raises(UsageError, match="no column 'label'"):
        autolr.search(**{**objects, "train": [{"premise": "a", "hypothesis": "b"}]}, budget="0.5x-flops", **common)
    with pytest.raises(UsageError, match=r"^train holds no rows"):
        autolr.search(**{**objects, "train": []}, budget="0.5x-flops", **common)
    assert not path.exists()
    with pytest.raises(UsageError, match=r"begin one with autolr search --study .* or autolr\.search\(study="):
        autolr.Study(path)


def test_a_study_is_read_and_exported(study, inputs, tmp_path):
    assert [member.trial for member in study.front]
    assert study.winner == study.result.winning
    assert study.report == study.result.report
    assert repr(study) == f"Study({str(study.path)!r}: 0.5x-flops, 3 of 3 trials, winner {study.winner.trial})"
    assert study.select("0.49x-flops").cost.ratios["flops"] <= 0.49
    with pytest.raises(BudgetError, match="the nearest is trial"):
        study.select("0.2x-flops")
    made = study.export(tmp_path / "a", budget="0.49x-flops")
    assert made.max_logit_difference == 0.0
    assert made.member.cost.ratios["flops"] <= 0.49
    with pytest.raises(UsageError, match="not both"):
        study.export(tmp_path / "b", trial=1, budget="0.49x-flops")
    with pytest.raises(UsageError, match="unknown format 'hff'; did you mean hf"):
        study.export(tmp_path / "b", format="hff")
    with pytest.raises(UsageError, match="holds a checkpoint already"):
        study.export(tmp_path / "a")
    model, tokenizer = autolr.load(tmp_path / "a")
    by_object = autolr.evaluate(model, inputs["test"], tokenizer=tokenizer)
    assert by_object.scores == autolr.evaluate(tmp_path / "a", inputs["test"]).scores


def test_the_command_line_and_the_api_find_the_same(study, inputs, tmp_path):
    words = [word for name, place in inputs.items() for word in (f"--{name}", place)]
    few = ["--method", "svd", "--multiple", "2", "--search-examples", "40", "--selection-examples", "40"]
    words += [*few, "--trials", "3", "--no-refit", "--budget", "0.5x-flops", "--study", str(tmp_path / "s"), "--json"]
    told = json.loads(CliRunner().invoke(app, ["search", *words]).stdout)
    del told["study"]
    assert told == json.loads(json.dumps(study.result.to_json()))


def test_a_folder_that_is_no_study_is_refused(tmp_path, study):
    with pytest.raises(UsageError, match="is not a study folder"):
        autolr.Study(tmp_path)
    with pytest.raises(UsageError, match="seed is no place"):
        study.resume(seed=3)


def test_a_time_limit_stops_resumably(inputs, tmp_path):
    with pytest.raises(Stopped):
        autolr.search(**inputs, budget="0.5x-flops", study=tmp_path / "s", time_limit="0.01s", **FEW)
    stopped = autolr.Study(tmp_path / "s")
    assert (stopped.winner, stopped.report, stopped.reached) == (None, None, False)
    assert stopped.resume().reached


def test_a_task_of_ones_own_in_ten_lines(inputs, tmp_path):
    def brevity(model, examples):
        device = next(model.parameters()).device
        tokens = torch.tensor([[5, 6, 7]] * len(examples), device=device)
        return model(input_ids=tokens).logits.softmax(-1)[:, 0].double().cpu()

    from autolr.scores import ScoreKind, forget_task

    kind = autolr.own_task("brevity", brevity, ScoreKind("brief", "larger"))
    try:
        study = autolr.search(**inputs, task=kind, budget="0.5x-flops", study=tmp_path / "s", **FEW)
        assert study.spec.search.objective == "brief"
        assert study.report.compressed["brief"].n == 60
        assert autolr.evaluate(inputs["model"], inputs["test"], task="brevity").headline == "brief"
        assert autolr.Study(tmp_path / "s", task=kind).winner == study.winner
    finally:
        forget_task(kind.name)
    elsewhere = autolr.Study(tmp_path / "s")
    with pytest.raises(UsageError, match=r"unknown task 'brevity'; known: lm, nli; .*task=task, study='.*entry point"):
        elsewhere.resume(trials=4)
    assert elsewhere.status.winner == elsewhere.winner.trial
    assert [column.header for column in front_table(Front((), elsewhere.front)).columns][-1] == "brief"


def test_a_method_of_one_process_alone_is_asked_for_by_another(study):
    stored = study.spec
    spec = stored.model_copy(update={"search": stored.search.model_copy(update={"methods": ("plain",)})})
    with pytest.raises(UsageError, match=r"unknown method 'plain'; .* has added by \.add .* entry point"):
        run_search(spec, StudyFolder(study.path), Silent())


class Listener(Silent):
    """Remembers the phases."""

    def __init__(self):
        self.phases = []

    def start(self, phase):
        self.phases.append(phase)


def test_progress_is_told_to_whom_it_is_wanted_by(inputs, capfd):
    listener = Listener()
    autolr.evaluate(inputs["model"], inputs["test"], progress=listener)
    assert listener.phases[-1] == "score 60 pairs"
    assert capfd.readouterr() == ("", "")
    autolr.evaluate(inputs["model"], inputs["test"], progress=True)
    assert "score 60 pairs ...\n" in capfd.readouterr().err


def test_the_process_is_put_back_also_after_an_error(inputs, tmp_path):
    threads, filters = torch.get_num_threads(), list(warnings.filters)
    verbosity, bars = transformers.utils.logging.get_verbosity(), transformers.utils.logging.is_progress_bar_enabled()
    given = {**inputs, "budget": "0.5x-flops", "threads": threads + 1}
    assert autolr.estimate(**given).reachable
    with pytest.raises(BudgetError):
        autolr.search(**{**given, "budget": "0.01x-params"}, study=tmp_path / "s")
    assert torch.get_num_threads() == threads
    assert warnings.filters == filters
    assert transformers.utils.logging.get_verbosity() == verbosity
    assert transformers.utils.logging.is_progress_bar_enabled() == bars
    with pytest.raises(BudgetError), undisturbed():
        _set_threads_and_fail(threads + 2)
    assert torch.get_num_threads() == threads


def test_overlapping_calls_in_threads_leave_the_process_as_it_was():
    """The second begins while the first is under way, and ends after it."""
    logger = logging.getLogger("optuna")

    def state():
        hf = transformers.utils.logging
        return hf.get_verbosity(), hf.is_progress_bar_enabled(), logger.level, list(warnings.filters)

    before, threads = state(), torch.get_num_threads()
    began, ended = threading.Event(), threading.Event()

    def first():
        with undisturbed():
            torch.set_num_threads(threads + 1)
            began.set()
            ended.wait(10)

    other = threading.Thread(target=first)
    other.start()
    began.wait(10)
    with undisturbed():
        assert state() != before
        ended.set()
        other.join()
        assert state() != before
    assert state() == before
    assert torch.get_num_threads() == threads


def _set_threads_and_fail(threads):
    torch.set_num_threads(threads)
    raise BudgetError("none")


def test_estimating_leaves_no_objects_on_disk(objects, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    estimate = autolr.estimate(**objects, budget=["0.5x-flops", "0.01x-params"])
    assert [budget.reachable for budget in estimate.budgets] == [True, False]
    assert estimate.to_json()["budgets"][1]["reachable"] is False
    assert list(tmp_path.iterdir()) == []


def test_every_option_is_an_argument_with_its_default_and_its_help():
    for function in (autolr.api.search, autolr.api.estimate):
        shown = inspect.signature(function).parameters
        options = options_of(StudySpec)
        assert options.keys() <= shown.keys()
        assert shown["multiple"].default == 8
        assert options["multiple"].option.help in function.__doc__


def test_measuring_needs_something_to_measure(inputs):
    with pytest.raises(UsageError, match="at least one model"):
        autolr.bench()
    with pytest.raises(UsageError, match="give tasks, minimal_pairs or both"):
        autolr.probe(inputs["model"])


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (
            lambda model: autolr.bench(model, sequence_length=3),
            "^bench has no option 'sequence_length'; did you mean seq_",
        ),
        (lambda model: autolr.bench(model, seed=1), "^bench has no option 'seed'"),
        (lambda model: autolr.evaluate(model, [{}], threads=1), "^evaluate has no option 'threads'"),
        (lambda model: autolr.evaluate(model, [{}], methods="svd"), "^evaluate has no option 'methods'"),
        (lambda model: autolr.probe(model, "tasks", trials=3), "^probe has no option 'trials'"),
        (
            lambda model: autolr.compare([], "out", budget="0.5x-flops", seed=1),
            "^compare has no option 'seed'; known: batch",
        ),
        (
            lambda model: autolr.compare([], "out", budget="0.5x-flops", sampler="tpe"),
            "^compare has no option 'sampler'",
        ),
    ],
)
def test_an_option_that_is_not_read_is_refused(call, complaint, inputs):
    with pytest.raises(UsageError, match=complaint):
        call(inputs["model"])


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda study, model, out: autolr.search(budget="0.5x-flops", progress=1, study=out), "^progress must be True"),
        (lambda study, model, out: autolr.search(budget="0.5x-flops", task=3, study=out), "^task must be a name"),
        (lambda study, model, out: autolr.search(budget="0.5x-flops", study=3), "^study must be a path .got 3"),
        (lambda study, model, out: autolr.search(budget="0.5x-flops", study=""), "^study is empty; name a path"),
        (lambda study, model, out: autolr.search(budget="0.5x-flops", train=3, study=out), "train data must be a file"),
        (lambda study, model, out: autolr.estimate(budget="0.5x-flops", study=""), "^study is empty"),
        (lambda study, model, out: autolr.Study(None), "^the study's folder must be a path .got None"),
        (lambda study, model, out: autolr.Study(""), "^the study's folder is empty"),
        (lambda study, model, out: study.select(), "^select needs a budget"),
        (lambda study, model, out: study.select(3), "^budget must be one text or several .got 3"),
        (lambda study, model, out: study.export(None), "^the checkpoint's directory must be a path"),
        (lambda study, model, out: study.export(""), "^the checkpoint's directory is empty"),
        (lambda study, model, out: study.export(out, trial=True), "^trial must be a whole number .got True"),
        (lambda study, model, out: study.export(out, trial="1"), "^trial must be a whole number .got '1'"),
        (lambda study, model, out: study.export(out, format=None), "^a format is given by its name .got None"),
        (lambda study, model, out: study.resume(trials=0), "^trials: must be greater than or equal to 1"),
        (lambda study, model, out: study.resume(time_limit=float("inf")), "^time_limit must be finite"),
        (lambda study, model, out: study.resume(model=""), "^model is empty"),
        (lambda study, model, out: autolr.load(""), "^path is empty"),
        (lambda study, model, out: autolr.load(model, trials=3), "^load has no option 'trials'"),
        (lambda study, model, out: autolr.load(model, budget="x"), "^load has no option 'budget'"),
        (lambda study, model, out: autolr.evaluate(model, 3), "data must be a file or rows, saw 3"),
        (lambda study, model, out: autolr.evaluate(model, None), "^data is not given"),
        (lambda study, model, out: autolr.evaluate("", [{}]), "place is empty"),
        (lambda study, model, out: autolr.bench(model, max_seconds="1"), "^max_seconds must be a number above 0"),
        (lambda study, model, out: autolr.bench(model, max_seconds=0), "^max_seconds must be a number above 0"),
        (lambda study, model, out: autolr.bench(model, precision=float("nan")), "^precision must be a number above 0"),
        (lambda study, model, out: autolr.bench(model, precision=-1), "^precision must .* at most 1 .got -1"),
        (lambda study, model, out: autolr.bench(model, engine=None), "^an? engine is given by its name"),
        (lambda study, model, out: autolr.probe(model, 3), "^tasks must be a path"),
        (lambda study, model, out: autolr.compare([], out, budget="0.5x-flops", seeds=1), "seeds: must be a valid"),
        (lambda study, model, out: autolr.compare(None, out, budget="0.5x-flops"), "entries: must be a valid array"),
        (lambda study, model, out: autolr.compare([3], out, budget="0.5x-flops"), r"entries\[0\]: "),
        (lambda study, model, out: autolr.compare([{"name": "a"}], "", budget="0.5x-flops"), "^out is empty"),
    ],
)
def test_what_an_argument_cannot_be_is_said(call, complaint, study, inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=complaint):
        call(study, inputs["model"], tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_stands_for_another_value_is_taken(study, inputs):
    assert study.select(["0.6x-flops"]) == study.select("0.6x-flops") == study.select(("0.6x-flops",), "0.6x-flops")
    model, _ = autolr.load(inputs["model"], dtype=torch.float16)
    assert model.dtype == torch.float16
    assert autolr.evaluate(inputs["model"], inputs["test"], progress=None, scoring_batch_size=np.int64(8)).score.n == 60


@pytest.mark.slow
def test_several_workers_search_with_objects(objects, tmp_path):
    pytest.importorskip("ray")
    study = autolr.search(**objects, budget="0.5x-flops", study=tmp_path / "s", workers=2, threads=1, **FEW)
    assert study.reached
    assert study.status.trials["failed"] == 0


def test_rows_are_read_as_the_file_with_the_same_rows_is(inputs, tmp_path):
    write_pairs(tmp_path / "t.jsonl", 30)
    by_file = autolr.evaluate(inputs["model"], tmp_path / "t.jsonl")
    assert autolr.evaluate(inputs["model"], rows_of(tmp_path / "t.jsonl")).scores == by_file.scores
