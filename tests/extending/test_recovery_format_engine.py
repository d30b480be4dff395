"""A recovery, a format and an engine of third parties, each one file and one entry point, through a whole study."""

import json
from dataclasses import replace
from pathlib import Path

import bias_only
import double_engine
import plain_tensors
import pytest
from installed import installed
from nli_fixture import write_inputs, write_model
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner

from autolr.checkpoint.formats import FORMATS
from autolr.checkpoint.formats import check as check_format
from autolr.cli.main import app
from autolr.engines import ENGINES
from autolr.engines import check as check_engine
from autolr.errors import UsageError
from autolr.forms.swap import compressed
from autolr.optimization.study.folder import StudyFolder
from autolr.optimization.study.front import read_result
from autolr.optimization.study.summary import read_front
from autolr.progress import Silent
from autolr.recovery.conformance import check as check_recovery
from autolr.recovery.registry import RECOVERIES
from autolr.spec.study import make_spec
from autolr.workflows import select as selection
from autolr.workflows.search import open_study, run_search


def spec_of(folder: Path, **search: object):
    options = {name.removeprefix("--"): value for name, value in write_inputs(folder / "inputs").items()}
    plain = {
        "model": options.pop("model"),
        "data": options | {"search_examples": 40, "selection_examples": 40},
        "budgets": ["0.5x-flops"],
        "trials": 6,
        "search": {"methods": ["kfac"], "multiple": 2, **search},
    }
    return make_spec(plain, "test")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    path = tmp_path_factory.mktemp("plain")
    folder = StudyFolder(path / "study")
    run_search(spec_of(path, forms=["low-rank"]), folder, Silent())  # the format knows two thin matrices
    return folder


def test_a_recovery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "scores_better", lambda *_: True)
    folder = StudyFolder(tmp_path / "study")
    with installed(tmp_path, {RECOVERIES.group: {"bias": "bias_only:RECOVERY"}}):
        result = run_search(spec_of(tmp_path, recovery="bias"), folder, Silent())
        winner, opened = result.winning, open_study(folder, Silent())
        layers = sum(  # of a pair the layer that reads; none where entries of queries and keys are left out
            choice.form != "qk-pair" for _, choice in winner.candidate.choices
        )
        assert winner.variant.recovery == "bias"
        assert winner.variant.digest != winner.candidate.digest
        assert (result.report.recovery.layers, result.report.recovery.did) == (layers, "given another bias")
        card = (folder.path / result.checkpoint / "README.md").read_text()
        assert f"{layers} layers were given another bias on calibration data. Nothing was trained." in card
        data = opened.inputs.batches("calibration")
        batches = [{name: tensor for name, tensor in batch.items() if name != "labels"} for batch in data]
        check_recovery(bias_only.RECOVERY, opened.inputs.model, winner.candidate, opened.bank, batches)
        shifted = AutoModelForSequenceClassification.from_pretrained(folder.path / result.checkpoint)
        name = opened.bank.unit(winner.candidate.choices[0][0]).modules[-1]
        with compressed(opened.inputs.model, winner.candidate, opened.bank):
            before = opened.inputs.model.get_submodule(name).bias.clone()
        assert not before.equal(shifted.get_submodule(name).bias)
        assert [member.trial for member in read_front(folder).members]
        assert read_result(folder) == result
    with pytest.raises(UsageError, match="unknown recovery 'bias'"):
        run_search(spec_of(tmp_path, recovery="bias"), StudyFolder(tmp_path / "other"), Silent())


def test_a_format_that_transformers_cannot_load(study: StudyFolder, tmp_path: Path) -> None:
    out = tmp_path / "exported"
    with installed(tmp_path, {FORMATS.group: {"plain": "plain_tensors:FORMAT"}}):
        done = CliRunner().invoke(
            app, ["export", str(study.path), "--out", str(out), "--format", "plain", "--json"], catch_exceptions=False
        )
        assert done.exit_code == 0, done.output
        said = json.loads(done.stdout)
        assert (said["format"], said["max_logit_difference"] <= 1e-5) == ("plain", True)
        assert "Read `tensors.plain` by safetensors." in (out / "README.md").read_text()
        assert {path.name for path in out.iterdir()} == {"README.md", "tensors.plain"}
        with pytest.raises((OSError, ValueError)):
            AutoModelForSequenceClassification.from_pretrained(out)
        opened = open_study(study, Silent())
        batches = [{k: v for k, v in batch.items() if k != "labels"} for batch in opened.inputs.batches("report")]
        candidate = read_result(study).winning.candidate
        for kind in FORMATS:
            with compressed(opened.inputs.model, candidate, opened.bank):
                check_format(kind, opened.inputs.model, batches, tmp_path / kind.name)
    elsewhere = str(tmp_path / "elsewhere")
    unknown = CliRunner().invoke(app, ["export", str(study.path), "--out", elsewhere, "--format", "plane"])
    assert (unknown.exit_code, "unknown format 'plane'" in unknown.stderr) == (2, True)


def test_a_format_whose_file_is_not_the_model_is_found_out(study: StudyFolder, tmp_path: Path) -> None:
    def spoiled(directory, model):
        reloaded = plain_tensors.reload(directory, model)
        return replace(reloaded, logits=lambda batch: reloaded.logits(batch) + 0.01)

    wrong = replace(plain_tensors.FORMAT, reload=spoiled)
    opened = open_study(study, Silent())
    batch = opened.inputs.batches("report")[0]
    candidate = read_result(study).winning.candidate
    with (
        compressed(opened.inputs.model, candidate, opened.bank),
        pytest.raises(AssertionError, match=r"differ by 0\.01"),
    ):
        check_format(wrong, opened.inputs.model, [{k: v for k, v in batch.items() if k != "labels"}], tmp_path)


def test_an_engine(tmp_path: Path) -> None:
    model = str(write_model(tmp_path / "model"))
    fixed = ["bench", model, model, "--seq-len", "8", "--batch-size", "2", "--max-seconds", "1", "--json"]
    with installed(tmp_path, {ENGINES.group: {"double": "double_engine:ENGINE"}}):
        done = CliRunner().invoke(app, [*fixed, "--engine", "double"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        said = json.loads(done.stdout)
        assert said["engine"] == "double"
        assert said["models"][0]["ratio"] == 1.0
        check_engine(double_engine.ENGINE, model)
        check_engine(ENGINES.get("torch"), model)
    refused = CliRunner().invoke(app, [*fixed, "--engine", "onnx"])
    assert (refused.exit_code, "unknown engine 'onnx'" in refused.stderr) == (2, True)
