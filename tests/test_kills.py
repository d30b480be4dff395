"""A search that is killed with SIGKILL at random moments, again and again, ends as the uninterrupted one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nli_fixture import arguments, write_inputs

from autolr.optimization.study.folder import StudyFolder

TRIALS = 60
KILLS = 20


def command(inputs: dict[str, str], study: Path) -> list[str]:
    options = ["--method", "kfac", "--multiple", "2", "--search-examples", "40", "--selection-examples", "40"]
    options += ["--budget", "0.5x-flops", "--trials", str(TRIALS), "--study", str(study), "--threads", "1"]
    return [sys.executable, "-c", "from autolr.cli import main; main()", "search", *arguments(inputs), *options]


def finished(study: Path) -> list[tuple]:
    trials = StudyFolder(study).load_study().trials
    return [(t.number, t.state.name, t.user_attrs.get("digest"), t.values) for t in trials]


@pytest.mark.slow
def test_20_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path / "inputs")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command(inputs, tmp_path / "whole"), check=True, **quiet)
    expected = finished(tmp_path / "whole")
    assert [row[:2] for row in expected] == [(n, "COMPLETE") for n in range(TRIALS)]

    study, draw, kills = tmp_path / "killed", random.Random(0), 0  # noqa: S311  no secret
    while kills < KILLS:
        process = subprocess.Popen(command(inputs, study), **quiet, start_new_session=True)
        # Half of the kills come while trials run: wait for the search to get going, then a random moment more.
        before = len(list((study / "trials").glob("*.json"))) if study.exists() else 0
        aimed = draw.random() < 0.8
        deadline = time.monotonic() + (60 if aimed else draw.uniform(0.5, 8))
        while time.monotonic() < deadline and process.poll() is None:
            if aimed and len(list((study / "trials").glob("*.json"))) > before:
                time.sleep(draw.uniform(0, 0.1))
                break
            time.sleep(0.005)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        if (study / "result.json").exists():
            break
    assert kills == KILLS, "the search ended before it was killed often enough"
    subprocess.run(command(inputs, study), check=True, **quiet)
    assert finished(study) == expected
    files = {int(p.stem) for p in (study / "trials").glob("*.json")}
    assert files == set(range(TRIALS))
    front = json.loads((study / "front.json").read_text())
    assert front == json.loads((tmp_path / "whole" / "front.json").read_text())
