"""The doctor on one machine: each finding right, and every fault with what to do about it."""

from pathlib import Path

import pytest
import torch
from nli_fixture import write_model
from typer.testing import CliRunner

from autolr.cli.main import app
from autolr.workflows import check_machine as doctor_module
from autolr.workflows.check_machine import MODELS_EACH, WORKER_BYTES, Needs, differing, examine, versions


def by_check(needs: Needs) -> dict[str, doctor_module.Finding]:
    return {one.check: one for one in examine(needs)}


def test_a_machine_that_will_do(tmp_path: Path) -> None:
    found = by_check(Needs(model=str(write_model(tmp_path / "model")), study=str(tmp_path)))
    assert list(found) == ["device", "model", "memory", "temporary disk", "study folder"]
    assert all(one.ok and not one.remedy for one in found.values())


def test_memory_is_that_of_all_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = str(write_model(tmp_path / "model"))
    weights = doctor_module._weight_bytes(Needs(model=model))
    assert doctor_module._weight_bytes(Needs(model=model, dtype="bfloat16")) == weights / 2
    each = MODELS_EACH * weights + WORKER_BYTES
    monkeypatch.setattr(doctor_module, "available_bytes", lambda: 3 * each)
    assert by_check(Needs(model=model, workers=3))["memory"].ok
    short = by_check(Needs(model=model, workers=4))["memory"]
    assert not short.ok
    assert "fewer workers" in short.remedy


def test_every_fault_is_named_with_a_remedy(tmp_path: Path) -> None:
    needs = Needs(
        model=str(tmp_path / "model"), study=str(tmp_path / "study"), storage="postgresql://me@127.0.0.1:1/db"
    )
    found = by_check(needs)
    assert [name for name, one in found.items() if not one.ok] == ["model", "storage", "study folder"]
    assert all(one.remedy for one in found.values() if not one.ok)
    assert "there is no directory" in found["model"].found
    if not torch.cuda.is_available():
        assert not by_check(Needs(device="cuda"))["device"].ok


def test_versions_that_differ_are_named() -> None:
    assert not differing(versions(), versions())
    assert differing(versions(), {**versions(), "torch": "1.0"}).startswith("torch 1.0 instead of 2.")


def test_the_command_exits_with_1_where_something_will_not_do(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["doctor", "--json"]).exit_code == 0
    told = CliRunner().invoke(app, ["doctor", "--model", str(tmp_path / "absent")])
    assert told.exit_code == 1
    assert "there is no directory" in told.output.replace("\n", " ")
