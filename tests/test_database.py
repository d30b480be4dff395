"""Studies in PostgreSQL: several processes on one, dead ones taken over, restarts waited for, passwords kept out."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from database_fixture import PASSWORD, Server, server
from nli_fixture import arguments, write_inputs, write_pairs
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError
from test_search import spec_of
from typer.testing import CliRunner

from autolr.cli.main import app
from autolr.errors import AutolrError, UsageError
from autolr.optimization.sampler.fixed_space import SpaceSampler
from autolr.optimization.study import database as storage_module
from autolr.optimization.study import heartbeats as heartbeat_module
from autolr.optimization.study.database import _passwords, alone, check_private, open_database, without_password
from autolr.optimization.study.driver import Driver
from autolr.optimization.study.evaluator import Objective
from autolr.optimization.study.folder import StudyFolder
from autolr.optimization.study.front import front_trials
from autolr.optimization.study.heartbeats import Heartbeat
from autolr.optimization.study.queue import TrialQueue
from autolr.optimization.study.summary import summarize
from autolr.optimization.study.takeover import SharedTrials
from autolr.optimization.study.trial_record import DEATHS, OWNER, SURPLUS
from autolr.progress import Printed, Silent
from autolr.spec.study import make_spec
from autolr.workflows.search import _prepared_driver, run_search

__all__ = ["server"]  # a fixture
TRIALS = 12


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def beside(options: dict[str, str], folder: Path) -> StudyFolder:
    """The folder of a study that shares its bank with all of these inputs."""
    study = StudyFolder(folder)
    study.bank = Path(options["--model"]).with_name("bank")
    return study


def queue_of(options: dict[str, str], folder: Path, address: str, **changes: object) -> tuple[TrialQueue, Objective]:
    spec = spec_of(options, storage=without_password(address), **changes)
    folder.mkdir(parents=True, exist_ok=True)
    driver = _prepared_driver(spec, beside(options, folder), Silent())
    return driver.queue, driver.objective


def run_one(queue: TrialQueue, objective: Objective) -> int | None:
    claim = queue.claim()
    if claim is None:
        return None
    queue.record(claim, objective.evaluate(claim.candidate, lambda: None, queue.race(claim)))
    return claim.trial.number


def finished_digests(study: optuna.Study) -> list[str]:
    states = [TrialState.COMPLETE, TrialState.PRUNED]
    return [t.user_attrs["digest"] for t in study.get_trials(deepcopy=False, states=states)]


def test_the_password_is_nowhere_but_in_memory(server: Server, options: dict[str, str], tmp_path: Path) -> None:
    address = server.database()
    command = [sys.executable, "-c", "from autolr.cli import main; main()", "search", *arguments(options)]
    command += ["--budget", "0.6x-flops", "--trials", "4", "--method", "svd", "--multiple", "2", "--no-refit"]
    command += ["--storage", address, "--study", str(tmp_path / "study")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert PASSWORD not in found.stdout + found.stderr
    for path in (tmp_path / "study").rglob("*"):
        assert path.is_dir() or PASSWORD.encode() not in path.read_bytes(), path
    shown = summarize(StudyFolder(tmp_path / "study"))  # without the password: this server asks for none
    assert (shown.trials["complete"], shown.finished) == (4, True)
    assert not (tmp_path / "study" / "study.journal").exists()


def test_a_specification_with_a_password_is_refused_without_repeating_it() -> None:
    with pytest.raises(UsageError, match="must not hold a password") as refused:
        make_spec({"budgets": ["0.5x-flops"], "storage": f"postgresql://me:{PASSWORD}@host/db"}, "test")
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("sqlite:///study.db", "PostgreSQL databases alone"),
        ("no address", "must look like"),
        (f"postgresql://me:{PASSWORD}@host:port/db", "must look like"),
        (
            f"postgresql://me:{PASSWORD}@127.0.0.1:1/db",
            r"cannot open the database postgresql://me@127.0.0.1:1/db: .*port 1 failed: Connection refused$",
        ),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(address: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        open_database(address)
    assert PASSWORD not in str(refused.value)


def test_a_database_that_is_away_is_told_of_before_the_model_is_loaded(
    options: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = spec_of(options).model_copy(update={"storage": "postgresql://me@127.0.0.1:1/db"})
    with pytest.raises(UsageError, match=r"Connection refused$"):
        run_search(asked, StudyFolder(tmp_path / "study"), Printed())
    assert "load the model" not in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_a_beat_that_fails_ends_the_work_of_its_process(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise others would take over its trials while it goes on."""
    mine = Heartbeat(optuna.create_study(storage=open_database(server.database())))
    monkeypatch.setattr(heartbeat_module, "BEAT_SECONDS", 0.01)
    mine.start()

    def fails() -> None:
        raise KeyError("no such table")

    monkeypatch.setattr(mine, "_beat", fails)
    mine._thread.join(10.0)
    with pytest.raises(KeyError, match="no such table"):
        mine.check()


@pytest.mark.parametrize(
    ("address", "plain"),
    [
        (f"postgresql://me:{PASSWORD}@host/db", "postgresql://me@host/db"),
        (f"postgresql://me@host/db?password={PASSWORD}", "postgresql://me@host/db"),
        (f"postgresql://host/db?user=me&password={PASSWORD}", "postgresql://host/db?user=me"),
    ],
)
def test_a_password_is_taken_out_of_an_address_wherever_it_stands(address: str, plain: str) -> None:
    assert without_password(address) == plain
    assert _passwords[plain] == PASSWORD
    with pytest.raises(UsageError, match="must not hold a password"):
        make_spec({"budgets": ["0.5x-flops"], "storage": address}, "test")
    check_private(address, cluster=False)
    with pytest.raises(UsageError, match="a cluster must not be sent a password") as refused:
        check_private(address, cluster=True)
    assert PASSWORD not in str(refused.value)
    check_private(plain, cluster=True)


def test_a_password_for_a_key_is_refused() -> None:
    with pytest.raises(UsageError, match="must not hold sslpassword") as refused:
        without_password(f"postgresql://me@host/db?sslpassword={PASSWORD}")
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize("command", ["search", "doctor"])
def test_no_command_sends_a_password_to_a_cluster(command: str) -> None:
    """Also where only the cluster's address says that there is one."""
    given = ["--ray-address", "127.0.0.1:1", "--storage", f"postgresql://me:{PASSWORD}@host/db"]
    given += ["--budget", "0.5x-flops"] if command == "search" else []
    done = CliRunner().invoke(app, [command, *given])
    assert (done.exit_code, "a cluster must not be sent a password" in " ".join(done.output.split())) == (2, True)
    assert PASSWORD not in done.output


def test_a_trial_that_another_process_closed_while_it_was_proposed_is_let_go(
    server: Server, options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, _ = queue_of(options, tmp_path / "study", server.database())
    ask = queue.study.ask
    closed = []

    def slow() -> optuna.Trial:
        trial = ask()
        if not closed:
            closed.append(trial.number)
            queue.study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        return trial

    monkeypatch.setattr(queue.study, "ask", slow)
    claim = queue.claim()
    assert closed
    assert claim.trial.number not in closed
    assert not queue.trials._mine - {claim.trial.number}


def test_a_trial_is_signed_before_it_is_proposed(
    server: Server, options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proposal may take longer than the grace: others must see that the trial is somebody's."""
    queue, objective = queue_of(options, tmp_path / "study", server.database(), trials=20)
    signed, propose = [], SpaceSampler.sample_relative

    def looks(self: SpaceSampler, study: optuna.Study, trial: optuna.trial.FrozenTrial, space: dict) -> dict:
        signed.append(study._storage.get_trial(trial._trial_id).user_attrs.get(OWNER))
        return propose(self, study, trial, space)

    monkeypatch.setattr(SpaceSampler, "sample_relative", looks)
    while not signed:
        run_one(queue, objective)
    assert signed == [queue.trials.heartbeat.me]


def test_who_ends_in_good_order_is_known_to_be_gone_at_once(
    server: Server, options: dict[str, str], tmp_path: Path
) -> None:
    """Its process goes on living, as one that exports the winner does; what it left running is taken over."""
    address = server.database()
    ended, alive = (queue_of(options, tmp_path / name / "study", address)[0] for name in "ab")
    claim = ended.claim()
    assert alive.trials.heartbeat.alive(ended.trials.heartbeat.me)
    ended.close()
    assert not alive.trials.heartbeat.alive(ended.trials.heartbeat.me)
    alive.claim()
    assert alive.study.trials[claim.trial.number].state == TrialState.FAIL
    queued = [t for t in alive.study.trials if t.user_attrs.get(DEATHS) == 1 and t.state != TrialState.FAIL]
    assert len(queued) == 1


def test_the_end_does_not_wait_for_a_database_that_is_away(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Heartbeat(optuna.create_study(storage=open_database(server.database())))
    mine.start()
    back = threading.Event()
    monkeypatch.setattr(mine, "_say", lambda _: back.wait(20))
    monkeypatch.setattr(heartbeat_module, "GOODBYE_SECONDS", 0.2)
    began = time.monotonic()
    mine.stop()
    assert time.monotonic() - began < 10
    back.set()


def test_one_who_never_lets_go_of_a_study_in_the_database_is_named(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = server.database()
    holder, waiting = open_database(address), open_database(address)
    monkeypatch.setattr(storage_module, "PATIENCE", 0.3)
    with alone(holder, "mine"):
        with alone(waiting, "another"):
            pass
        with pytest.raises(AutolrError, match="has been opening the study 'mine'"), alone(waiting, "mine"):
            pass
    with alone(waiting, "mine"):
        pass


def test_a_lock_in_a_database_that_is_away_is_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_database(server.database())
    engine = storage.engine
    connect, tries = engine.connect, []

    def away() -> Any:
        tries.append(1)
        if len(tries) < 3:
            raise OperationalError("SELECT", {}, OSError("connection refused"))
        return connect()

    monkeypatch.setattr(engine, "connect", away)
    with alone(storage, "mine"):
        assert len(tries) == 3
    monkeypatch.setattr(storage_module, "PATIENCE", 0.05)
    tries.clear()
    with pytest.raises(AutolrError, match="has not answered"), alone(storage, "mine"):
        pass


def test_who_concludes_rewrites_a_front_that_another_wrote_late(
    server: Server, options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, run = beside(options, tmp_path / "study"), Driver.run

    def then_another_writes(self: Driver) -> None:
        run(self)
        folder.front_file.write_text('{"members": []}')

    monkeypatch.setattr(Driver, "run", then_another_writes)
    spec = spec_of(options, storage=without_password(server.database()), trials=6)
    run_search(spec, folder, Silent(), checkpoint=False)
    front = json.loads(folder.front_file.read_text())
    assert [m["trial"] for m in front["members"]] == [t.number for t in front_trials(folder.load_study())]


def test_a_name_that_the_database_knows_from_another_study_is_refused(
    server: Server, options: dict[str, str], tmp_path: Path
) -> None:
    address = server.database()
    queue, _ = queue_of(options, tmp_path / "here" / "study", address)
    queue.close()
    with pytest.raises(UsageError, match="another study of the name 'study', with another seed"):
        queue_of(options, tmp_path / "there" / "study", address, seed=1)


def test_a_machine_where_the_same_model_and_data_lie_elsewhere_takes_part(
    server: Server, options: dict[str, str], tmp_path: Path
) -> None:
    address = server.database()
    here = queue_of(options, tmp_path / "here" / "study", address)
    assert run_one(*here) == 0
    elsewhere = queue_of(write_inputs(tmp_path / "elsewhere"), tmp_path / "there" / "study", address)
    assert run_one(*elsewhere) == 1
    for queue, _ in (here, elsewhere):
        queue.close()


def test_two_ledgers_share_the_trials_and_stop_at_the_number_wanted(
    server: Server, options: dict[str, str], tmp_path: Path
) -> None:
    address = server.database()
    one = queue_of(options, tmp_path / "a" / "study", address)
    two = queue_of(options, tmp_path / "b" / "study", address)  # another machine: another folder of the same name
    held = one[0].claim(), two[0].claim()
    assert held[0].trial.number != held[1].trial.number
    for (queue, objective), claim in zip((one, two), held, strict=True):
        queue.record(claim, objective.evaluate(claim.candidate, lambda: None))
    turn = 0
    while run_one(*(one, two)[turn % 2]) is not None:
        turn += 1
    assert one[0].completed() == two[0].completed() == TRIALS
    digests = finished_digests(one[0].study)
    assert len(digests) == TRIALS
    assert len({t.user_attrs[OWNER] for t in one[0].study.trials if t.state == TrialState.COMPLETE}) == 2
    assert [t.number for t in front_trials(one[0].study)] == [t.number for t in front_trials(two[0].study)]


def test_of_two_that_claim_the_last_trial_at_once_neither_goes_beyond_the_number_wanted(
    server: Server, options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = server.database()
    one = queue_of(options, tmp_path / "a" / "study", address, trials=6)
    two = queue_of(options, tmp_path / "b" / "study", address, trials=6)
    for _ in range(5):
        run_one(*one)
    claimed = one[0].claim()
    assert claimed is not None
    looks = iter([5])  # two has looked before one claimed
    monkeypatch.setattr(two[0].trials, "active", lambda: next(looks, None) or SharedTrials.active(two[0].trials))
    assert two[0].claim() is None
    assert sum(SURPLUS in t.user_attrs for t in one[0].study.trials) == 1
    one[0].record(claimed, one[1].evaluate(claimed.candidate, lambda: None))
    assert one[0].completed() == 6


def test_the_trials_of_a_dead_process_are_run_again_and_those_of_a_living_one_are_not(
    server: Server, options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = server.database()
    dead = queue_of(options, tmp_path / "a" / "study", address)[0]
    lost = [dead.claim(), dead.claim()]
    alive = queue_of(options, tmp_path / "b" / "study", address)
    assert alive[0].claim().candidate.digest not in {claim.candidate.digest for claim in lost}
    machine, _, started, rest = dead.trials.heartbeat.me.split(" ")
    for claim in lost:  # as if the process were one that has ended
        storage = claim.trial.storage
        storage.set_trial_user_attr(claim.trial._trial_id, OWNER, f"{machine} {2**22 + 1} {started} {rest}")
    again = {alive[0].claim().candidate.digest for _ in range(6)}  # behind the first candidates that were queued before
    assert {claim.candidate.digest for claim in lost} <= again
    closed = [t for t in alive[0].study.trials if t.number in {claim.trial.number for claim in lost}]
    assert [t.state for t in closed] == [TrialState.FAIL] * 2
    assert all(t.user_attrs[DEATHS] == 1 for t in closed)
    queued = [t for t in alive[0].study.trials if t.user_attrs.get(DEATHS) == 1 and t.state != TrialState.FAIL]
    assert len(queued) == 2
    # The dead one was only slow: what it finds now is no longer its own.
    before = alive[0].completed()
    dead.record(lost[0], alive[1].evaluate(lost[0].candidate, lambda: None))
    assert alive[0].completed() == before


def test_a_beat_that_stands_still_is_given_up_after_the_grace(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = optuna.create_study(storage=open_database(server.database()))
    now = [0.0]
    monkeypatch.setattr(heartbeat_module.time, "monotonic", lambda: now[0])
    other, mine = Heartbeat(study, me="elsewhere 1 2 other"), Heartbeat(study)
    other._beat()
    assert mine.alive(other.me)

    def later(seconds: float) -> None:  # for which this process beats
        until = now[0] + seconds
        while now[0] < until:
            now[0] = min(until, now[0] + heartbeat_module.BEAT_SECONDS)
            mine._beat()

    later(heartbeat_module.GRACE_SECONDS - 1)
    assert mine.alive(other.me)
    other._beat()
    later(heartbeat_module.GRACE_SECONDS - 1)
    assert mine.alive(other.me)
    later(heartbeat_module.GRACE_SECONDS + 1)
    assert not mine.alive(other.me)
    other._beat()
    assert mine.alive(other.me)
    now[0] += 2 * heartbeat_module.GRACE_SECONDS  # the database was away: nobody could beat
    assert mine.alive(other.me)
    mine._beat()
    assert mine.alive(other.me)
    later(heartbeat_module.GRACE_SECONDS - 1)
    assert mine.alive(other.me)
    later(2)
    assert not mine.alive(other.me)
    assert mine.alive(mine.me)
    machine, pid, started, _ = mine.me.split(" ")
    assert mine.alive(f"{machine} {pid} {started} another")  # this process lives
    assert not mine.alive(f"{machine} {pid} 1{started} another")  # its number was another's before


@pytest.mark.slow
def test_a_restart_of_the_server_is_waited_for(server: Server, options: dict[str, str], tmp_path: Path) -> None:
    address = server.database()
    spec = spec_of(options, storage=without_password(address), trials=20)
    restarts = []

    def restart_while_trials_run() -> None:
        while not list((tmp_path / "study").glob("trials/3.json")):
            time.sleep(0.02)
        for _ in range(2):
            server.restart()
            restarts.append(time.monotonic())
            time.sleep(0.3)

    thread = threading.Thread(target=restart_while_trials_run)
    thread.start()
    run_search(spec, StudyFolder(tmp_path / "study"), Silent(), checkpoint=False)
    thread.join()
    assert len(restarts) == 2
    study = StudyFolder(tmp_path / "study").load_study()
    assert sum(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in study.trials) == 20
    assert not [t for t in study.trials if t.state == TrialState.RUNNING]


DRIVER = """
import sys
from autolr.optimization.study import heartbeats
heartbeats.BEAT_SECONDS, heartbeats.GRACE_SECONDS = 1.0, 8.0
from autolr.cli import main
main()
"""


@pytest.mark.slow
def test_8_processes_on_one_study_of_400_trials(server: Server, tmp_path: Path) -> None:
    options = write_inputs(tmp_path / "inputs")
    options["--validation"] = str(write_pairs(tmp_path / "inputs" / "more.jsonl", 200, 180))
    command = [sys.executable, "-c", DRIVER, "search", *arguments(options), "--budget", "0.6x-flops"]
    command += ["--trials", "400", "--multiple", "1", "--no-refit", "--sampler", "random", "--threads", "1", "--json"]
    command += ["--search-examples", "40", "--selection-examples", "40", "--space", "per-layer"]
    command += ["--storage", server.database(), "--study", str(tmp_path / "study")]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    drivers = [subprocess.Popen(command, **quiet) for _ in range(8)]
    outputs = [driver.communicate() for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0] * 8, [error[-300:] for _, error in outputs]
    study = StudyFolder(tmp_path / "study").load_study()
    done = [t for t in study.trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(done) == 400
    assert len({t.user_attrs[OWNER] for t in done}) == 8
    assert not [t for t in study.trials if t.state == TrialState.RUNNING]
    scored = [t.user_attrs["digest"] for t in done if "same_as" not in t.user_attrs]
    assert len(scored) - len(set(scored)) <= 8  # two may meet the same new candidate at the same moment
    results = {json.dumps(json.loads(text)["winner"]) for text, _ in outputs}
    assert len(results) == 1
    front = json.loads((tmp_path / "study" / "front.json").read_text())
    assert [m["trial"] for m in front["members"]] == [t.number for t in front_trials(study)]
