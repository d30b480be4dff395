"""Beginning a study, and saying beforehand what it would reach."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from autolr.api.session import Listener, Texts, task_name, with_options, working
from autolr.api.study import Study
from autolr.errors import AutolrError
from autolr.optimization.study.folder import StudyFolder
from autolr.results.estimate import Estimate
from autolr.scores import NLI, TaskKind
from autolr.spec.options import given_path
from autolr.workflows.estimate import estimate_study
from autolr.workflows.placed import Data, Model, named, placed
from autolr.workflows.resolve import default_folder, resolve
from autolr.workflows.search import run_search


@with_options
def search(
    model: Model = None,
    *,
    budget: Texts,
    task: str | TaskKind = NLI.name,
    train: Data = None,
    validation: Data = None,
    test: Data = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    study: str | Path | None = None,
    profile: str | Path | None = None,
    progress: Listener = False,
    **options: object,
) -> Study:
    """Search the best candidates within a budget, choose the winner on held-out data, export it; or go on with that.

    A call with the same arguments goes on where an older one was stopped, and returns at once where it was finished.
    Objects are written into the study's folder, so any process can go on with it; they are not changed.

    Args:
        model: a loaded model with its ``tokenizer``, a directory or hub id; None: the embedded example, with its data.
        budget: such as ``"0.5x-flops"``, ``"12ms-latency"`` or several.
        task: a name, or a task of one's own, see :func:`autolr.own_task`.
        train: to calibrate on: a file, rows (a list of dicts, a ``datasets.Dataset``) or a split of ``dataset``.
        validation: the same, to search and select on.
        test: the same, to report on; None: a part of the validation data.
        tokenizer: of a model that is an object.
        study: the study's folder; None: ``studies/<model>-<budget>``.
        profile: a YAML file with the conditions that costs are stated for.
        progress: True: printed to stderr; or a listener.
        options: those of ``autolr search --help`` by name, see below.

    Returns:
        The study. Where no trial meets all budgets and floors its winner is the nearest, and ``reached`` is False.

    Raises:
        UsageError: something given cannot be used, or the study was begun with something else.
        BudgetError: a budget is below what any candidate reaches.
        Stopped: the time limit has passed; call again to go on.

    Example:
        A search of the embedded example::

            study = autolr.search(budget="0.5x-flops", trials=12)
            print(study.winner.cost.ratios["flops"], study.report.compressed["accuracy"])
    """
    given = _given(options, model=model, budget=budget, task=task, train=train, validation=validation, test=test)
    with working(progress) as listener:
        checked = resolve(named(given), profile)  # what can be refused is refused before anything is written
        folder = given_path(study, "study") if study is not None else default_folder(checked)
        StudyFolder(folder).check_own()
        with _left_clean(folder):
            spec = resolve(placed(given, tokenizer, folder), profile)
            run_search(spec, StudyFolder(folder), listener)
    return Study(folder)


@with_options
def estimate(
    model: Model = None,
    *,
    budget: Texts,
    task: str | TaskKind = NLI.name,
    train: Data = None,
    validation: Data = None,
    test: Data = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    study: str | Path | None = None,
    profile: str | Path | None = None,
    progress: Listener = False,
    **options: object,
) -> Estimate:
    """Say what each budget can reach, and what the search would take in time and disk; nothing is left on disk.

    Args:
        model: as :func:`search`, and so are the others.
        budget: each is judged by itself.
        task: the task.
        train: to calibrate on.
        validation: to search and select on.
        test: to report on.
        tokenizer: of a model that is an object.
        study: where its bank is complete, divergences are predicted.
        profile: a YAML file with the conditions that costs are stated for.
        progress: True: printed to stderr; or a listener.
        options: those of ``autolr search --help`` by name, see below.

    Raises:
        UsageError: something given cannot be used.
    """
    given = _given(options, model=model, budget=budget, task=task, train=train, validation=validation, test=test)
    with working(progress) as listener, tempfile.TemporaryDirectory(prefix="autolr-") as temporary:
        checked = resolve(named(given), profile)
        folder = given_path(study, "study") if study is not None else default_folder(checked)
        spec = resolve(placed(given, tokenizer, Path(temporary)), profile)
        return estimate_study(spec, folder, listener)


def _given(options: Mapping[str, object], *, task: str | TaskKind, **named_ones: object) -> dict[str, object]:
    """Return the options by name; a task of one's own is made known in this process."""
    return {**named_ones, **options, "task": task_name(task)}


@contextmanager
def _left_clean(folder: Path) -> Iterator[None]:
    """Leave nothing behind of a study that is refused before anything was computed."""
    new = not folder.exists()
    try:
        yield
    except AutolrError:
        if new and not (folder / "study.yaml").exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise
