"""What would fail at the end of a study fails before its beginning, and leaves nothing behind."""

import json
import resource
from pathlib import Path

import pytest
from nli_fixture import write_inputs, write_model, write_pairs
from transformers import PreTrainedTokenizerBase
from typer.testing import CliRunner

from autolr.checkpoint import verify as verify_module
from autolr.cli.main import app
from autolr.errors import AutolrError
from autolr.problem import open_inputs
from autolr.progress import Silent
from autolr.spec.budgets import Budget
from autolr.spec.study import make_spec
from autolr.workflows import export as export_module
from autolr.workflows import rehearse as rehearsal
from autolr.workflows import verify_latency as verification
from autolr.workflows.rehearse import rehearse


def search(tmp_path: Path, options: dict[str, str], *more: str):
    arguments = [text for name, value in options.items() for text in (name, value)]
    fixed = ["search", "--trials", "3", "--budget", "0.6x-flops", "--offline", "--study", str(tmp_path / "study")]
    return CliRunner().invoke(app, [*fixed, *arguments, *more])


def left_behind(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "study").iterdir()} - {"study.lock", "study.yaml", ".rehearsal-lock"}


def refused(tmp_path: Path, done, words: str) -> None:
    assert done.exit_code == 1, done.output
    assert words in " ".join(done.stderr.split())
    assert not left_behind(tmp_path)


def test_a_tokenizer_that_cannot_be_saved(tmp_path, monkeypatch: pytest.MonkeyPatch):
    options = write_inputs(tmp_path / "inputs")

    def fails(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", fails)
    refused(tmp_path, search(tmp_path, options), "could not be written: [Errno 28] No space left on device")


def test_a_full_disk_is_told_of_with_the_folder(tmp_path):
    options = write_inputs(tmp_path / "inputs")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, hard))
    try:
        done = search(tmp_path, options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    refused(tmp_path, done, f"not all could be written to {tmp_path / 'study'}: ")
    assert "make room there, or choose another --study" in done.stderr


def test_a_checkpoint_that_does_not_give_the_same_logits(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verify_module, "_worst_difference", lambda *_: 0.5)
    done = search(tmp_path, write_inputs(tmp_path / "inputs"))
    refused(tmp_path, done, "does not reproduce the model: logits differ by 0.5")


def test_a_card_that_cannot_be_written(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(export_module, "model_card", lambda *_: "\ud800")
    done = search(tmp_path, write_inputs(tmp_path / "inputs"))
    refused(tmp_path, done, "failed: UnicodeEncodeError:")


def test_what_code_of_a_tokenizers_own_raises_is_told_with_its_kind(tmp_path, monkeypatch: pytest.MonkeyPatch):
    options = write_inputs(tmp_path / "inputs")

    def fails(*_: object, **__: object) -> None:
        raise KeyError("vocab_file")

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", fails)
    words = "the end of the study was tried before its beginning, and failed: KeyError: 'vocab_file'"
    refused(tmp_path, search(tmp_path, options), words)


def test_what_a_killed_rehearsal_left_is_swept_by_the_next(tmp_path):
    options = write_inputs(tmp_path / "inputs")
    left = tmp_path / "study" / "rehearsal-killed"
    left.mkdir(parents=True)
    (left / "lock").touch()
    (left / "model.safetensors").touch()
    assert search(tmp_path, options).exit_code == 0
    assert not left.exists()


def test_the_clocks_process_is_started_once_where_a_budget_is_a_time(tmp_path, monkeypatch: pytest.MonkeyPatch):
    plain = {
        "model": str(write_model(tmp_path / "model")),
        "data": {
            "train": str(write_pairs(tmp_path / "a.jsonl", 40)),
            "validation": str(write_pairs(tmp_path / "b.jsonl", 90, 100)),
        },
        "budgets": ["0.6x-flops"],
        "run": {"seq_len": 8, "batch_size": 2, "threads": 1},
    }
    inputs = open_inputs(make_spec(plain, "test"), Silent())
    times = []
    whole = rehearsal.time_checkpoint
    monkeypatch.setattr(rehearsal, "latency_budgets", lambda _: [Budget.parse("0.9x-latency")])
    monkeypatch.setattr(
        rehearsal, "time_checkpoint", lambda *given, **more: times.append(whole(*given, **more)) or times[-1]
    )
    rehearse(inputs, tmp_path, Silent())
    assert times[0].ms > 0
    assert len(times[0].processes) == 1
    monkeypatch.setattr(verification.sys, "executable", "/bin/false")
    with pytest.raises(AutolrError, match="failed with exit code 1"):
        rehearse(inputs, tmp_path, Silent())
    assert not list(tmp_path.glob("rehearsal-*"))


def test_it_is_done_once_and_does_not_change_the_study(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """A study that is resumed, and one without a checkpoint, do without; what a search finds is the same."""
    calls = []
    whole = rehearsal.rehearse
    monkeypatch.setattr("autolr.workflows.search.rehearse", lambda *given: (calls.append(given), whole(*given)))
    options = write_inputs(tmp_path / "inputs")
    assert search(tmp_path, options).exit_code == 0
    assert len(calls) == 1
    front = json.loads((tmp_path / "study" / "front.json").read_text())
    assert CliRunner().invoke(app, ["resume", str(tmp_path / "study"), "--trials", "4"]).exit_code == 0
    assert len(calls) == 1
    monkeypatch.setattr("autolr.workflows.search.rehearse", lambda *_: None)
    (tmp_path / "study").rename(tmp_path / "first")
    assert search(tmp_path, options).exit_code == 0
    again = json.loads((tmp_path / "study" / "front.json").read_text())
    without_times = [[{**one, "seconds": 0} for one in found["members"]] for found in (front, again)]
    assert without_times[0] == without_times[1]
