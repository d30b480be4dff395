"""The whole job: open, prepare, search, conclude. Each stage reuses what an interrupted run left on disk."""

from contextlib import closing
from dataclasses import dataclass

from autolr.bank import Bank
from autolr.errors import UsageError
from autolr.optimization.preparation import build_bank, prepare
from autolr.optimization.study.database import check_database
from autolr.optimization.study.driver import Driver
from autolr.optimization.study.folder import StudyFolder
from autolr.optimization.study.front import read_result, write_front
from autolr.problem import LoadedProblem, open_inputs
from autolr.progress import Progress
from autolr.results import StudyResult
from autolr.spec.study import StudySpec, without_places
from autolr.workflows.check_given import check_names, check_study
from autolr.workflows.conclude import conclude
from autolr.workflows.rehearse import rehearse
from autolr.workflows.tune_latency import tune


@dataclass(frozen=True)
class Opened:
    """A study opened for work beside the search: exporting, scoring.

    Attributes:
        inputs: the opened inputs.
        bank: its decompositions, complete.
    """

    inputs: LoadedProblem
    bank: Bank


def run_search(spec: StudySpec, folder: StudyFolder, progress: Progress, checkpoint: bool = True) -> StudyResult:
    """Begin or go on with a study until its trials are complete, then select, report and export the winner.

    Args:
        spec: what to do; for an existing study it may differ in ``trials``, ``time_limit`` and ``crew``, and in where
            model and data lie.
        folder: where the study is or will be.
        progress: told what is under way.
        checkpoint: export the winner; a budget in time needs it.

    Returns:
        What result.json holds.

    Raises:
        UsageError: something given cannot be used, or the study was begun under other conditions.
        BudgetError: a budget is below what any candidate reaches. (When no trial meets all the budgets and floors, the
            nearest is exported and the result says so.)
        Stopped: a limit or a signal ended the work; the study can be resumed.
    """
    check_study(spec, folder)
    _driver_class(spec)
    shared = spec.storage is not None
    if spec.storage is not None:
        check_database(spec.storage)
    with folder.locked(progress if shared else None):
        driver = _prepared_driver(spec, folder, progress, checkpoint)
        finished = _finished(driver)
        if finished is not None:
            driver.queue.close()
            return finished
        if not shared:
            driver.run()
            return _conclude(driver, progress, checkpoint)
    with closing(driver.queue):
        driver.run()
    with folder.locked(progress):  # other processes may work on the study: the first one here concludes it
        write_front(folder, driver.queue.study, spec)  # another's last one may be older than what it saw
        return _finished(driver) or _conclude(driver, progress, checkpoint)


def _prepared_driver(spec: StudySpec, folder: StudyFolder, progress: Progress, checkpoint: bool = False) -> Driver:
    """Open what a study is given, check that it goes on as it began, and return what runs its trials."""
    begun = folder.spec_file.is_file() and folder.begun()  # one that was refused before its first trial is no other
    if begun:
        folder.check_journal()
        before, now = (without_places(asked.identity()) for asked in (folder.spec(), spec))
        folder.check_same("specification", before, now)
    elif folder.journal.exists():
        raise UsageError(
            f"{folder.path} has trials but no study.yaml that names their model; put it back or begin another study"
        )
    began = folder.stored()["fingerprint"] if begun else None
    inputs = open_inputs(spec, progress, folder.latency_file, began)
    if begun:
        folder.check_same("model, data or setting", folder.stored()["fingerprint"], inputs.fingerprint)
    folder.write_spec(spec, inputs.fingerprint)
    if checkpoint and not begun:
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
    from autolr.optimization.workers.ray_driver import RayDriver

    return RayDriver


def _finished(driver: Driver) -> StudyResult | None:
    """Return the stored result, where it is of as many trials as there are, and no more are wanted."""
    result, queue = read_result(driver.folder), driver.queue
    done = queue.completed()
    return result if result is not None and done >= queue.wanted and result.trials == done else None


def _conclude(driver: Driver, progress: Progress, checkpoint: bool) -> StudyResult:
    queue = driver.queue
    return conclude(
        driver.inputs, driver.prepared.bank, queue.study, driver.folder, queue.completed(), progress, checkpoint
    )


def open_study(folder: StudyFolder, progress: Progress, spec: StudySpec | None = None) -> Opened:
    """Open a study's model, data and bank for work that adds no trials.

    Args:
        folder: of an existing study.
        progress: told what is under way.
        spec: the study's, with other places of its model and data; None: as it is stored.

    Raises:
        UsageError: the model, the data or a setting is not what the study began with.
    """
    spec = spec or folder.spec()
    check_names(spec, folder)
    began = folder.stored()["fingerprint"]
    inputs = open_inputs(spec, progress, folder.latency_file, began)
    folder.check_same("model, data or setting", began, inputs.fingerprint)
    return Opened(inputs, build_bank(inputs, folder.bank, progress))
