"""The whole job: open, prepare, search, select, export. Each stage reuses what an interrupted run left on disk."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autolr.bank import Bank
from autolr.errors import UsageError
from autolr.methods import get_methods
from autolr.problem import Inputs, open_inputs
from autolr.progress import Progress
from autolr.search.preparation import build_bank, prepare
from autolr.search.sampler.registry import SAMPLERS
from autolr.search.study.driver import Driver
from autolr.search.study.folder import StudyFolder
from autolr.search.study.front import front_trials, nearest_trials, write_front
from autolr.spec.spaces import load_space_config
from autolr.spec.study import StudySpec, without_places
from autolr.types import Candidate
from autolr.workflows.export import export
from autolr.workflows.finalists import kept_corrections
from autolr.workflows.rehearse import rehearse
from autolr.workflows.select import Result, rank_members, report_on, store_result
from autolr.workflows.sensitivity import store_account
from autolr.workflows.tune_latency import tune
from autolr.workflows.verify_latency import latency_budgets, time_checkpoint

SelectedResult = dict[str, Any]

MOST_CHECKPOINTS = 6
"""Members that are exported and timed, best first, before a latency budget counts as missed."""


@dataclass(frozen=True)
class Opened:
    """A study opened for work beside the search: exporting, scoring.

    Attributes:
        inputs: the opened inputs.
        bank: its decompositions, complete.
    """

    inputs: Inputs
    bank: Bank


def run_search(spec: StudySpec, folder: StudyFolder, progress: Progress, checkpoint: bool = True) -> SelectedResult:
    """Begin or go on with a study until its trials are complete, then select, report and export the winner.

    Args:
        spec: what to do; for an existing study it may differ in ``trials``, ``time_limit`` and ``crew``, and in where
            model and data lie.
        folder: where the study is or will be.
        progress: told what is under way.
        checkpoint: export the winner; a budget in time needs it.

    Returns:
        The content of result.json.

    Raises:
        UsageError: something given cannot be used, or the study was begun under other conditions.
        BudgetError: a budget is below what any candidate reaches. (When no trial meets all the budgets and floors, the
            nearest is exported and the result says so.)
        Stopped: a limit or a signal ended the work; the study can be resumed.
    """
    get_methods(spec.search.methods)
    load_space_config(spec.search.space)
    SAMPLERS.get(spec.search.sampler)
    _driver_class(spec)
    if spec.search.warm_start is not None and not folder.spec_file.is_file():
        StudyFolder.existing(Path(spec.search.warm_start)).load_study()
    shared = spec.storage is not None
    with folder.locked(progress if shared else None):
        driver = _prepared_driver(spec, folder, progress, checkpoint)
        finished = _finished(driver)
        if finished is not None:
            driver.queue.close()
            return finished
        if not shared:
            driver.run()
            return _conclude(driver, spec, folder, progress, checkpoint)
    with closing(driver.queue):
        driver.run()
    with folder.locked(progress):  # other processes may work on the study: the first one here concludes it
        write_front(folder, driver.queue.study, spec)  # another's last one may be older than what it saw
        return _finished(driver) or _conclude(driver, spec, folder, progress, checkpoint)


def _prepared_driver(spec: StudySpec, folder: StudyFolder, progress: Progress, checkpoint: bool = False) -> Driver:
    known = folder.spec_file.is_file() and folder.begun()  # one that was refused before its first trial is no other
    if known:
        folder.check_journal()
        before, now = (without_places(one.identity()) for one in (folder.spec(), spec))
        folder.check_same("specification", before, now)
    elif folder.journal.exists():
        raise UsageError(
            f"{folder.path} has trials but no study.yaml that names their model; put it back or begin another study"
        )
    inputs = open_inputs(spec, progress, folder.latency_file)
    if known:
        folder.check_same("model, data or setting", folder.stored()["fingerprint"], inputs.fingerprint)
    folder.write_spec(spec, inputs.fingerprint)
    if checkpoint and not known:
        rehearse(inputs, folder.path, progress)
    bank = build_bank(inputs, folder.bank, progress)
    inputs = tune(inputs, bank, folder.latency_file, progress)
    driver = _driver_class(spec)(inputs, prepare(inputs, bank, progress), folder, progress)
    write_front(folder, driver.queue.study, spec)  # the one before may have been killed between telling and writing
    return driver


def _driver_class(spec: StudySpec) -> type[Driver]:
    """Return what runs the trials: this process, or workers.

    Raises:
        UsageError: there are to be workers, and Ray is not installed.
    """
    if spec.crew.workers == 1 and spec.crew.ray_address is None:
        return Driver
    try:
        import ray.tune  # noqa: F401
    except ImportError as error:
        raise UsageError("several workers need Ray; pip install 'autolr[ray]', or leave --workers out") from error
    from autolr.search.workers.ray_driver import RayDriver

    return RayDriver


def _finished(driver: Driver) -> SelectedResult | None:
    """Return the content of result.json, where it is of as many trials as there are, and no more are wanted."""
    result, queue = driver.folder.result(), driver.queue
    done = ledger.completed()
    return result if result is not None and done >= ledger.wanted and result["trials"] == done else None


def _conclude(
    driver: Driver, spec: StudySpec, folder: StudyFolder, progress: Progress, checkpoint: bool
) -> SelectedResult:
    inputs, bank = driver.inputs, driver.prepared.bank
    trials = front_trials(driver.queue.study)
    trials = trials or nearest_trials(driver.queue.study)
    ranking = rank_members(inputs, bank, trials, progress)
    chosen, clock = ranking[0], None
    if latency_budgets(inputs):
        chosen, clock = _first_in_time(inputs, bank, ranking, folder, progress)
    candidate = Candidate.from_json(chosen["candidate"])
    corrections = kept_corrections(inputs, bank, chosen, progress)
    report = report_on(inputs, bank, candidate, corrections, progress)
    if clock is not None:
        report["latency"] = clock
    # Floors are judged on the selection part, as exported: what the search saw of a refitted one was before the refit.
    affordable = all(chosen["constraints"][budget] <= 0 for budget in spec.budgets)
    reached = affordable and chosen["keeps_floors"] and (clock is None or clock["within"])
    if checkpoint:
        directory = folder.path / "front" / str(chosen["trial"])
        export(inputs, bank, chosen, corrections, report, directory, "hf", progress)
    members = sorted(ranking, key=lambda one: one["costs"]["ratio"][spec.parsed_budgets[0].quantity])
    result = Result(chosen["trial"], reached, members, report)
    store_account(folder, inputs, bank, driver.queue.study, chosen["trial"])
    store_result(folder, result, driver.queue.completed(), f"front/{result.winner}" if checkpoint else None)
    stored = folder.result()
    assert stored is not None
    return stored


def _first_in_time(
    inputs: Inputs, bank: Bank, ranking: Sequence[dict[str, Any]], folder: StudyFolder, progress: Progress
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Export and time the best members until one meets the latency budgets in a process of its own.

    What a member took beyond its prediction is expected of the others too: those that would then be late are passed
    over, and when all would be, the cheapest is the last that is tried.

    Returns:
        That member and its times; the fastest of those tried when none does.
    """
    limit = min(budget.limit(inputs.costs.dense) for budget in latency_budgets(inputs))
    tried: list[tuple[dict[str, Any], dict[str, Any]]] = []
    left, expected, last = list(ranking), 1.0, False
    while left and not last and len(tried) < MOST_CHECKPOINTS:
        hopeful = [one for one in left if one["costs"]["absolute"]["latency"] * expected <= limit]
        last = not hopeful
        one = hopeful[0] if hopeful else min(left, key=lambda m: m["costs"]["absolute"]["latency"])
        left.remove(one)
        directory = folder.path / "front" / str(one["trial"])
        corrections = kept_corrections(inputs, bank, one, progress)
        export(inputs, bank, one, corrections, None, directory, "hf", progress)
        one["latency"] = clock = time_checkpoint(inputs, directory, progress)
        tried.append((one, clock))
        if clock["within"]:
            return one, clock
        expected = max(t["ratio"] / m["costs"]["ratio"]["latency"] for m, t in tried)
    return min(tried, key=lambda pair: pair[1]["ratio"])


def open_study(folder: StudyFolder, progress: Progress, spec: StudySpec | None = None) -> Opened:
    """Open a study's model, data and bank for work that adds no trials.

    Args:
        folder: of an existing study.
        progress: told what is under way.
        spec: the study's, with other places of its model and data; None: as it is stored.

    Raises:
        UsageError: the model, the data or a setting is not what the study began with.
    """
    inputs = open_inputs(spec or folder.spec(), progress, folder.latency_file)
    folder.check_same("model, data or setting", folder.stored()["fingerprint"], inputs.fingerprint)
    return Opened(inputs, build_bank(inputs, folder.bank, progress))
