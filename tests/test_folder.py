"""A study's folder: files replaced in one step, and who may write."""

import os
import stat
import threading
import time
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import optuna
import pytest
import torch
import yaml

import autolr
from autolr.errors import Stopped, UsageError
from autolr.machine.atomic import write_atomically
from autolr.machine.tensor_cache import read_kept, write_kept
from autolr.optimization.study import folder as folder_module
from autolr.optimization.study.folder import StudyFolder
from autolr.optimization.study.front import nearest_trials
from autolr.progress import Silent
from autolr.spec.study import make_spec


class Told(Silent):
    """Keeps the notes, and stops after some checks."""

    def __init__(self, checks: int) -> None:
        self.notes: list[str] = []
        self.checks = checks

    def note(self, text: str) -> None:
        self.notes.append(text)

    def check(self) -> None:
        self.checks -= 1
        if self.checks < 0:
            raise Stopped("interrupted")


def test_processes_of_equal_number_do_not_write_to_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two containers that share the folder: the second writes while the first is between writing and replacing."""
    file, replace, before = tmp_path / "front.json", Path.replace, []

    def replace_late(self: Path, target: Path) -> Path:
        if not before:
            before.append(self)
            write_atomically(file, "second")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replace_late)
    write_atomically(file, "first")
    assert file.read_text() == "first"
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_leaves_the_old_content_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "front.json"
    write_atomically(file, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, "new")
    assert [found.read_text() for found in tmp_path.iterdir()] == ["old"]


def test_a_written_file_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "ours", "x")
    (tmp_path / "usual").write_text("x")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_kept_tensors_have_the_mode_of_any_new_file(tmp_path: Path) -> None:
    write_kept(tmp_path / "ours.safetensors", "key", {"logits": torch.ones(2)})
    (tmp_path / "usual").write_text("x")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1
    assert torch.equal(read_kept(tmp_path / "ours.safetensors", "key")["logits"], torch.ones(2))


def test_kept_tensors_that_may_not_be_read_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may read everything, so the refusal is made."""

    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    write_kept(tmp_path / "ours.safetensors", "key", {"logits": torch.ones(2)})
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UsageError, match=r"cannot read .*ours.safetensors: Permission denied; have its owner let"):
        read_kept(tmp_path / "ours.safetensors", "key")


@pytest.mark.parametrize("content", ["spec: 3\nfingerprint: 4\n", "spec: {}\n", "- 1\n"])
def test_a_damaged_specification_is_named(content: str, tmp_path: Path) -> None:
    """Also where another study begins with its points, and before its database is looked for."""
    (tmp_path / "study.yaml").write_text(content)
    with pytest.raises(UsageError, match=r"study\.yaml is damaged: it must hold spec and fingerprint"):
        StudyFolder.existing(tmp_path).load_study()


def test_who_may_not_wait_for_a_folder_is_refused(tmp_path: Path) -> None:
    with StudyFolder(tmp_path).locked(), pytest.raises(UsageError, match="another process is working on"):
        StudyFolder(tmp_path).locked().__enter__()


def test_the_wait_for_a_folder_is_announced_and_ends_when_the_other_lets_go(tmp_path: Path) -> None:
    told, inside, leave = Told(checks=10**6), threading.Event(), threading.Event()

    def work() -> None:
        with StudyFolder(tmp_path).locked():
            inside.set()
            leave.wait(10)

    other = threading.Thread(target=work)
    other.start()
    assert inside.wait(10)
    threading.Timer(0.3, leave.set).start()
    began = time.monotonic()
    with StudyFolder(tmp_path).locked(told):
        assert time.monotonic() - began > 0.2
    other.join()
    assert "waiting for another process" in told.notes[0]


def test_a_signal_ends_the_wait_for_a_folder(tmp_path: Path) -> None:
    told = Told(checks=3)
    with StudyFolder(tmp_path).locked(), pytest.raises(Stopped), StudyFolder(tmp_path).locked(told):
        pass
    assert told.notes


def test_the_nearest_trials_are_compressed_where_there_are_any() -> None:
    """The dense model keeps every floor and meets no budget: it is no candidate."""
    study = optuna.create_study(directions=["minimize", "minimize"])

    def add(candidate: dict) -> None:
        attributes = {"candidate": candidate, "digest": "", "costs": {}, "scores": {}}
        study.add_trial(optuna.trial.create_trial(values=[1.0, 1.0], user_attrs=attributes))

    add({})
    assert [trial.number for trial in nearest_trials(study)] == [0]
    add({"a": {"rank": 1}})
    assert [trial.number for trial in nearest_trials(study)] == [1]


def test_a_package_that_runs_from_its_source_without_being_installed_writes_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_libraries = folder_module.version

    def version(name: str) -> str:
        if name == "autolr":
            raise PackageNotFoundError(name)
        return of_libraries(name)

    monkeypatch.setattr(folder_module, "version", version)
    folder = StudyFolder(tmp_path)
    folder.write_spec(make_spec({"budgets": ["0.5x-flops"]}, "test"), {})
    versions = yaml.safe_load(folder.spec_file.read_text())["versions"]
    assert list(versions) == ["autolr", "torch", "transformers", "optuna", "botorch"]
    assert versions["autolr"] == autolr.__version__
