"""A cluster of several nodes, and every kind of death in one study; all of it takes minutes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from database_fixture import Server, server
from nli_fixture import arguments, write_inputs, write_pairs
from optuna.trial import TrialState
from test_workers import done

from autolr.optimization.study.folder import StudyFolder
from autolr.optimization.study.front import front_trials

__all__ = ["server"]  # a fixture
pytestmark = pytest.mark.slow
NODE_TRIALS = 400


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
    options["--validation"] = str(write_pairs(tmp_path / "inputs" / "more.jsonl", 900, 180))
    options["--test"] = str(write_pairs(tmp_path / "inputs" / "other.jsonl", 60, 1100))
    folder = StudyFolder(tmp_path / "study")
    command = [sys.executable, "-c", "from autolr.cli import main; main()", "search", *arguments(options)]
    command += ["--budget", "0.6x-flops", "--trials", str(NODE_TRIALS), "--method", "svd", "--multiple", "1"]
    command += ["--space", "per-layer", "--sampler", "random", "--no-racing", "--no-refit", "--threads", "1"]
    command += ["--workers", "2", "--ray-address", made.address, "--study", str(folder.path)]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait_for(count: int) -> None:
        while len(list(folder.path.glob("trials/*.json"))) < count:
            assert driver.poll() is None
            time.sleep(0.02)

    wait_for(4)
    made.remove_node(nodes[0], allow_graceful=False)
    wait_for(10)
    made.add_node(num_cpus=1)
    assert driver.poll() is None, "the search ended before the node came"
    assert driver.wait() == 0
    assert len(done(folder)) == NODE_TRIALS
    assert not [t for t in folder.load_study().trials if t.state == TrialState.RUNNING]


def test_the_doctor_looks_at_every_node(cluster, tmp_path: Path) -> None:
    made, _ = cluster
    options = write_inputs(tmp_path / "inputs")
    model = options["--model"]
    code, findings = doctor(made.address, "--workers", "2", "--model", model, "--study", str(tmp_path))
    assert (code, [one for one in findings if not one["ok"]]) == (0, [])
    assert sum(one["check"] == "model" for one in findings) == 3
    code, findings = doctor(made.address, "--workers", "5", "--model", str(tmp_path / "absent"))
    assert (code, {one["check"] for one in findings if not one["ok"]}) == (1, {"model", "room"})


def doctor(address: str, *options: str) -> tuple[int, list[dict]]:
    """Run the command on a cluster; return its exit code and what it found."""
    command = [sys.executable, "-c", "from autolr.cli import main; main()", "doctor", "--cluster", "--json", *options]
    found = subprocess.run([*command, "--ray-address", address], capture_output=True, text=True, check=False)
    return found.returncode, json.loads(found.stdout)["findings"]


DRIVER = """
import sys
from autolr.optimization.study import heartbeats as roster
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
        if group == session and (b"Trainable" in command or b"RayWorker" in command) and b"ray::" in command:
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
