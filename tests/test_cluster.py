"""A cluster of several nodes, and every kind of death in one study; all of it takes minutes."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from database_fixture import Server, server
from nli_fixture import arguments, write_inputs, write_pairs
from optuna.trial import TrialState
from test_search import spec_of
from test_workers import done

from autolr.progress import Silent
from autolr.search.crew.doctor import examine_cluster
from autolr.search.doctor import Needs
from autolr.search.folder import StudyFolder
from autolr.search.front import front_trials
from autolr.search.run import run_search

__all__ = ["server"]  # a fixture
pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch):
    """A head without CPUs and two nodes of one."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [made.add_node(num_cpus=1), made.add_node(num_cpus=1)]
    yield made, nodes
    made.shutdown()


def test_a_node_goes_and_another_comes_while_trials_run(cluster, tmp_path: Path) -> None:
    made, nodes = cluster
    options = write_inputs(tmp_path / "inputs")
    folder = StudyFolder(tmp_path / "study")
    happened = []

    def finished() -> int:
        return len(list(folder.path.glob("trials/*.json")))

    def change_nodes() -> None:
        while finished() < 4:
            time.sleep(0.02)
        made.remove_node(nodes[0], allow_graceful=False)
        happened.append(finished())
        while finished() < 10:
            time.sleep(0.02)
        made.add_node(num_cpus=1)
        happened.append(finished())

    thread = threading.Thread(target=change_nodes, daemon=True)
    thread.start()
    crew = {"workers": 2, "ray_address": made.address}
    run_search(spec_of(options, trials=40, crew=crew), folder, Silent(), checkpoint=False)
    thread.join()
    assert len(happened) == 2
    assert happened[1] < 40
    assert len(done(folder)) == 40
    assert not [t for t in folder.load_study().trials if t.state == TrialState.RUNNING]


def test_the_doctor_looks_at_every_node(cluster, tmp_path: Path) -> None:
    made, _ = cluster
    options = write_inputs(tmp_path / "inputs")
    needs = Needs(model=options["--model"], study=str(tmp_path), workers=2)
    findings = examine_cluster(made.address, needs, threads=1, gpus=0.0)
    assert all(one.ok for one in findings), findings
    assert sum(one.check == "model" for one in findings) == 3
    needs = Needs(model=str(tmp_path / "absent"), workers=5)
    findings = examine_cluster(made.address, needs, threads=1, gpus=0.0)
    assert {one.check for one in findings if not one.ok} == {"model", "room"}


DRIVER = """
import sys
from autolr.search import roster
roster.BEAT_SECONDS, roster.GRACE_SECONDS = 1.0, 10.0
from autolr.cli import main
main()
"""
TRIALS, KILLS, RESTARTS = 200, 50, 5


def processes(session: int) -> dict[str, list[int]]:
    """Return the living processes of a driver: itself, its workers and its raylet, by kind."""
    found: dict[str, list[int]] = {"driver": [session], "worker": [], "raylet": []}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command, group = (path / "cmdline").read_bytes(), os.getsid(int(path.name))
        except (OSError, ValueError):
            continue
        if group == session and b"Worker" in command and b"ray::" in command:
            found["worker"].append(int(path.name))
        elif group == session and command.split(b"\0")[0].endswith(b"raylet/raylet"):
            found["raylet"].append(int(path.name))
    return found


def test_50_kills_of_drivers_workers_and_raylets_and_5_restarts_of_the_database(server: Server, tmp_path: Path) -> None:
    options = write_inputs(tmp_path / "inputs")
    options["--validation"] = str(write_pairs(tmp_path / "inputs" / "more.jsonl", 900, 180))
    options["--test"] = str(write_pairs(tmp_path / "inputs" / "other.jsonl", 60, 1100))
    study = tmp_path / "study"
    command = [sys.executable, "-c", DRIVER, "search", *arguments(options), "--budget", "0.6x-flops", "--threads", "1"]
    command += ["--trials", str(TRIALS), "--multiple", "1", "--no-refit", "--sampler", "random", "--no-racing"]
    command += ["--search-examples", "400", "--selection-examples", "100", "--space", "per-layer", "--workers", "2"]
    command += ["--storage", server.database(), "--study", str(study)]
    log = (tmp_path / "log").open("w")
    draw, kills, restarts, deaths = random.Random(0), [], 0, []  # noqa: S311  no secret

    def finished() -> int:
        return len(list(study.glob("trials/*.json")))

    def start() -> subprocess.Popen:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)

    driver, seen = start(), finished()
    began = time.monotonic()
    while len(kills) < KILLS or restarts < RESTARTS:
        assert time.monotonic() - began < 3000
        if driver.poll() is not None:
            deaths.append(driver.returncode)
            assert driver.returncode != 2, log.name
            assert not (study / "result.json").exists(), "the search ended before it was killed often enough"
            driver = start()
        if finished() < seen + 2:  # something is under way
            time.sleep(0.02)
            continue
        time.sleep(draw.uniform(0.0, 0.3))
        if restarts < RESTARTS and len(kills) >= 8 * restarts:
            server.restart()
            restarts += 1
        kind = draw.choice(["driver", "worker", "worker", "worker", "raylet"])
        pids = processes(driver.pid)[kind]
        if pids:
            os.kill(draw.choice(pids), signal.SIGKILL)
            kills.append(kind)
        seen = finished()
    while True:
        if driver.wait() == 0:
            break
        deaths.append(driver.returncode)
        assert len(deaths) < KILLS + 20
        driver = start()
    assert {*kills} == {"driver", "worker", "raylet"}
    found = StudyFolder(study).load_study()
    states = [t.state for t in found.trials]
    assert states.count(TrialState.COMPLETE) + states.count(TrialState.PRUNED) == TRIALS
    assert TrialState.RUNNING not in states
    front = json.loads((study / "front.json").read_text())
    assert [m["trial"] for m in front["members"]] == [t.number for t in front_trials(found)]
    unexpected = [t.user_attrs["reason"] for t in found.trials if "reason" in t.user_attrs]
    assert all("died" in reason or "workers were lost" in reason for reason in unexpected)
