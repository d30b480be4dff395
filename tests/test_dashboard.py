"""``autolr dashboard`` serves a study, says where, and ends with Ctrl-C."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import optuna
import pytest
from typer.testing import CliRunner

from autolr.cli import app
from autolr.optimization.study.folder import STUDY_NAME, StudyFolder
from autolr.spec.study import make_spec

PATIENCE = 90.0


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = StudyFolder(tmp_path / "study")
    folder.path.mkdir()
    folder.write_spec(make_spec({"budgets": ["0.5x-flops"]}, "test"), {})
    study = optuna.create_study(study_name=STUDY_NAME, storage=folder.storage(), directions=["minimize", "minimize"])
    study.enqueue_trial({})
    return folder.path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def heed_interrupts() -> None:
    """A shell starts a job of the background with Ctrl-C ignored, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def serve(study: Path, port: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "autolr", "dashboard", str(study), "--port", str(port)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,  # noqa: PLW1509
    )


def fetched(url: str, process: subprocess.Popen) -> dict:
    began = time.monotonic()
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  our own address
                return json.load(answer)
        except urllib.error.URLError:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() - began < PATIENCE, "nobody answers"
            time.sleep(0.1)


def test_a_study_is_served_until_it_is_interrupted(study: Path) -> None:
    port = free_port()
    process = serve(study, port)
    try:
        answer = fetched(f"http://127.0.0.1:{port}/api/studies", process)
        assert [one["study_name"] for one in answer["study_summaries"]] == [STUDY_NAME]
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert f"dashboard of {study}: http://127.0.0.1:{port}/" in said
    assert "Traceback" not in said


def test_a_port_that_is_taken_is_an_error_with_a_remedy(study: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = CliRunner().invoke(app, ["dashboard", str(study), "--port", str(port)])
    said = " ".join(done.stderr.split())
    assert done.exit_code == 2
    assert f"cannot listen on 127.0.0.1:{port}" in said
    assert "choose another --port" in said
    assert "dashboard of" not in said
