"""Many workers: the same scores as in one process, every fault survived, nothing lost and nothing doubled."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import torch
from nli_fixture import write_inputs
from optuna.trial import TrialState
from test_search import spec_of

from autolr.errors import AutolrError, Stopped, UsageError
from autolr.forms.swap import compressed
from autolr.machine import locks
from autolr.optimization.study.folder import StudyFolder
from autolr.optimization.study.front import front_trials
from autolr.optimization.workers import worker
from autolr.optimization.workers.dispatcher import MAX_TRIES, Dispatcher
from autolr.optimization.workers.payload import BANK, Payload
from autolr.optimization.workers.ray_driver import RayDriver, cluster
from autolr.optimization.workers.watchdog import Watchdog
from autolr.progress import Silent
from autolr.tasks.class_scorer import predict
from autolr.types import Candidate
from autolr.workflows.search import _prepared_driver, open_study, run_search

TRIALS = 12


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def unpinned():
    """Give this process its cores back."""
    before = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, before)


def done(folder: StudyFolder) -> list:
    states = [TrialState.COMPLETE, TrialState.PRUNED]
    return folder.load_study().get_trials(deepcopy=False, states=states)


def worker_processes() -> list[int]:
    """Return the process numbers of this machine's Ray actors that run trials."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if b"ray::" in command and (b"Trainable" in command or b"RayWorker" in command):
            found.append(int(path.parent.name))
    return found


def test_two_workers_score_as_one_process_does_and_a_killed_one_is_replaced(
    options: dict[str, str], tmp_path: Path
) -> None:
    folder = StudyFolder(tmp_path / "study")
    killed = []

    def kill_one() -> None:
        while not list(folder.path.glob("trials/*.json")):
            time.sleep(0.02)
        for pid in worker_processes()[:1]:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    thread = threading.Thread(target=kill_one, daemon=True)
    thread.start()
    result = run_search(spec_of(options, crew={"workers": 2}), folder, Silent(), checkpoint=False)
    thread.join()
    assert len(killed) == 1
    trials = done(folder)
    assert len(trials) == result.trials == TRIALS
    assert [
        t.state for t in folder.load_study().trials if t.state not in (TrialState.COMPLETE, TrialState.WAITING)
    ] == []
    opened = open_study(folder, Silent())
    scorer = opened.inputs.batches("search")
    for trial in trials:
        candidate = Candidate.from_json(trial.user_attrs["candidate"])
        with compressed(opened.inputs.model, candidate, opened.bank):
            right = (
                predict(opened.inputs.model, scorer).argmax(-1) == torch.cat([b["labels"] for b in scorer])
            ).double()
        assert trial.user_attrs["scores"]["accuracy"]["value"] == pytest.approx(float(right.mean()))
    front = json.loads(folder.front_file.read_text())
    assert [m["trial"] for m in front["members"]] == [t.number for t in front_trials(folder.load_study())]


@pytest.mark.slow
def test_a_study_of_workers_that_was_stopped_goes_on_in_one_process(options: dict[str, str], tmp_path: Path) -> None:
    class StopAtThree(Silent):
        def check(self) -> None:
            if len(list((tmp_path / "study").glob("trials/*.json"))) >= 3:
                raise Stopped("enough")

    folder = StudyFolder(tmp_path / "study")
    with pytest.raises(Stopped, match="enough"):
        run_search(spec_of(options, crew={"workers": 2}), folder, StopAtThree(), checkpoint=False)
    before = {t.number for t in done(folder)}
    assert 3 <= len(before) < TRIALS
    run_search(spec_of(options), folder, Silent(), checkpoint=False)
    assert before < {t.number for t in done(folder)}
    assert len(done(folder)) == TRIALS
    assert not [t for t in folder.load_study().trials if t.state == TrialState.RUNNING]


def test_an_address_without_a_cluster_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no Ray cluster at '127\.0\.0\.1:1'"), cluster("127.0.0.1:1", 1, 1, 0.0):
        pass


def dispatcher_of(options: dict[str, str], folder: Path) -> tuple[Dispatcher, RayDriver]:
    folder.mkdir(parents=True)
    study = StudyFolder(folder)
    study.bank = Path(options["--model"]).with_name("bank")  # what all studies of these inputs compute
    driver = _prepared_driver(spec_of(options, crew={"workers": 2}), study, Silent())
    assert isinstance(driver, RayDriver)
    return Dispatcher(driver.queue, ahead=2), driver


def test_a_candidate_that_takes_its_workers_down_fails_with_the_reason(options: dict[str, str], tmp_path: Path) -> None:
    dispatcher, driver = dispatcher_of(options, tmp_path / "study")
    dispatcher.start()
    try:
        first = dispatcher.next(10.0)
        assert first is not None
        for tries in range(1, MAX_TRIES):
            dispatcher.lost(first.trial)
            again = dispatcher.next(10.0)
            assert again is not None
            assert (again.trial, again.halved) == (first.trial, True), tries
        dispatcher.lost(first.trial)
        trial = driver.queue.study.trials[first.trial]
        assert trial.state == TrialState.FAIL
        assert "3 workers were lost over it" in trial.user_attrs["reason"]
        following = dispatcher.next(10.0)
        assert following is not None
        assert following.trial != first.trial
        dispatcher.take(following.trial, driver.objective.evaluate(following.candidate, lambda: None))
        dispatcher.lost(following.trial)  # its worker died after it had answered
        assert driver.queue.study.trials[following.trial].state == TrialState.COMPLETE
    finally:
        dispatcher.stop()


@pytest.mark.parametrize("error", [AutolrError, KeyError, optuna.exceptions.StorageInternalError])
def test_what_goes_wrong_while_proposing_reaches_the_caller(
    options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    dispatcher, driver = dispatcher_of(options, tmp_path / "study")

    def fails() -> None:
        raise error("no proposal")

    monkeypatch.setattr(driver.queue, "claim", fails)
    dispatcher.start()
    with pytest.raises(error, match="no proposal"):
        dispatcher.next(10.0)
    dispatcher.stop()


def test_a_candidate_under_way_is_not_evaluated_twice(options: dict[str, str], tmp_path: Path) -> None:
    """A trial that comes to the same candidate waits for the first, and is recorded with its scores."""
    _, driver = dispatcher_of(options, tmp_path / "study")
    queue, objective = driver.queue, driver.objective
    decode, first = queue._proposals.candidate, queue.claim()
    calls = []

    def same(trial: optuna.Trial) -> Candidate:
        calls.append(trial.number)
        return first.candidate if len(calls) < 3 else decode(trial)

    queue._proposals.candidate = same
    third = queue.claim()
    assert len(calls) == 3
    assert third.candidate != first.candidate
    assert queue.completed() == 0
    queue.record(first, objective.evaluate(first.candidate, lambda: None))
    assert queue.completed() == 3
    twins = [queue.study.trials[number].user_attrs["same_as"] for number in calls[:2]]
    assert twins == [first.trial.number] * 2
    queue.record(third, objective.evaluate(third.candidate, lambda: None))
    assert queue.completed() == 4


def test_who_waits_for_a_candidate_that_fails_is_evaluated_after_all(options: dict[str, str], tmp_path: Path) -> None:
    _, driver = dispatcher_of(options, tmp_path / "study")
    queue, objective = driver.queue, driver.objective
    first, decode, calls = queue.claim(), queue._proposals.candidate, []

    def same(trial: optuna.Trial) -> Candidate:
        calls.append(trial.number)
        return first.candidate if len(calls) < 3 else decode(trial)

    queue._proposals.candidate = same
    queue.claim()
    queue.fail(first, "out of memory")
    second = queue.claim()
    assert second.trial.number == calls[0]
    queue.record(second, objective.evaluate(second.candidate, lambda: None))
    assert queue.study.trials[calls[1]].user_attrs["same_as"] == calls[0]


def test_a_worker_fetches_a_bank_that_it_cannot_reach_once_for_its_node(
    options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, driver = dispatcher_of(options, tmp_path / "study")
    payload = Payload.of(driver.inputs, driver.prepared, 1)
    here = payload.open(lambda path: pytest.fail(f"{path} is reachable"))
    assert here.bank.directory == payload.bank
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    elsewhere = tmp_path / "not-here"
    object.__setattr__(payload, "bank", elsewhere)
    fetched = []
    (old := locks.own_folder() / f"{BANK}old").mkdir()
    os.utime(old, (0, 0))

    def fetch(path: Path) -> bytes:
        fetched.append(path)
        return (driver.prepared.bank.directory / path.relative_to(elsewhere)).read_bytes()

    there = payload.open(fetch)
    assert not old.exists()
    count = len(fetched)
    units = driver.inputs.units
    assert count == len(set(fetched)) == len(units.units) * (1 + len(driver.inputs.methods)) + len(units.groups)
    os.utime(there.bank.directory, (0, 0))
    payload.open(fetch)
    assert len(fetched) == count
    assert there.bank.directory.stat().st_mtime > time.time() - 100  # it is in use
    candidate = driver.prepared.fixed["uniform kfac"]
    scores = [one.evaluate(candidate, lambda: None).scores for one in (driver.objective, here, there)]
    assert scores[0] == scores[1] == scores[2]


def test_a_worker_whose_model_is_another_says_so(options: dict[str, str], tmp_path: Path) -> None:
    _, driver = dispatcher_of(options, tmp_path / "study")
    payload = Payload.of(driver.inputs, driver.prepared, 1)
    digests = {**payload.problem.digests, "model config": "0" * 64}
    payload = replace(payload, problem=replace(payload.problem, digests=digests))
    with pytest.raises(AutolrError, match="here is not the one that the study began with"):
        payload.open(lambda _: b"")


def sleeper() -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def test_the_watchdog_kills_a_process_that_is_silent_at_work_even_a_stopped_one() -> None:
    process = sleeper()
    watchdog = Watchdog(process.pid, timeout=0.5)
    time.sleep(1.0)
    assert process.poll() is None  # it has not begun to work
    os.kill(process.pid, signal.SIGSTOP)
    watchdog.tick()
    assert process.wait(timeout=10) == -signal.SIGKILL
    watchdog.close()


def test_the_watchdog_spares_a_process_that_rests_or_gives_signs() -> None:
    process = sleeper()
    watchdog = Watchdog(process.pid, timeout=1.6)
    for _ in range(5):
        time.sleep(0.5)
        watchdog.tick()
    watchdog.rest()
    time.sleep(2.0)
    assert process.poll() is None
    watchdog.close()
    process.kill()
    process.wait()


def test_the_watchdog_notices_work_that_hangs_right_after_other_work() -> None:
    """Quick tasks follow each other within the second in which signs of life are not passed on."""
    process = sleeper()
    watchdog = Watchdog(process.pid, timeout=0.5)
    watchdog.tick()
    watchdog.rest()
    watchdog.tick()
    assert process.wait(timeout=10) == -signal.SIGKILL
    watchdog.close()


def hang_as_it_starts() -> None:
    worker.OPEN_SECONDS = 0.5
    crew, run = SimpleNamespace(timeout=0.1), SimpleNamespace(device="cpu")
    problem = SimpleNamespace(spec=SimpleNamespace(crew=crew, run=run))
    payload = SimpleNamespace(problem=problem, threads=1, open=lambda fetch, tick: time.sleep(30))
    worker.Worker(payload, fetch=None)


def test_a_worker_that_hangs_while_it_starts_is_ended() -> None:
    process = multiprocessing.get_context("fork").Process(target=hang_as_it_starts)  # all is imported already
    process.start()
    process.join(timeout=100)
    assert process.exitcode == -signal.SIGKILL


def test_who_measures_waits_for_evaluations_and_holds_new_ones_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    events: list[str] = []
    inside, leave = threading.Event(), threading.Event()

    def evaluate() -> None:
        with locks.evaluating():
            events.append("evaluates")
            inside.set()
            leave.wait(10)
            events.append("has evaluated")

    def measure() -> None:
        with locks.measuring():
            events.append("measures")

    first = threading.Thread(target=evaluate)
    first.start()
    assert inside.wait(10)
    with locks.evaluating():
        events.append("another evaluates too")
    measurer = threading.Thread(target=measure)
    measurer.start()
    time.sleep(0.3)
    asked = []

    def impatient() -> None:
        asked.append(1)
        raise Stopped("waited")

    with pytest.raises(Stopped), locks.evaluating(impatient):  # one who waits to measure goes before
        pass
    leave.set()
    first.join()
    measurer.join()
    assert events == ["evaluates", "another evaluates too", "has evaluated", "measures"]


def test_pinned_processes_have_cores_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unpinned) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cores = sorted(os.sched_getaffinity(0))
    held = []
    for core in cores:
        os.sched_setaffinity(0, cores)
        held.append(locks.pin_to_cores(1))
        assert os.sched_getaffinity(0) == {core}
    os.sched_setaffinity(0, cores)
    assert locks.pin_to_cores(1) is None
    assert os.sched_getaffinity(0) == set(cores)
    held[0].close()
    held.append(locks.pin_to_cores(1))
    assert os.sched_getaffinity(0) == {cores[0]}


def test_processes_with_several_cores_share_none_with_those_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    bound: list[set[int]] = [{3, 5, 6, 9}]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 6, 9})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: bound.append(set(cores)))
    one, pair = locks.pin_to_cores(1), locks.pin_to_cores(2)
    assert bound[1:] == [{3}, {5, 6}]
    assert locks.pin_to_cores(2) is None  # a single one is left, and it stays free
    last = locks.pin_to_cores(1)
    assert bound[3:] == [{9}]
    one.close()
    last.close()
    again = locks.pin_to_cores(2)
    assert bound[4:] == [{3, 9}]
    again.close()
    pair.close()
