"""A damaged journal -> a new one, of the files that finished trials have."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import copyfile
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from autolr.errors import UsageError
from autolr.machine.atomic import read_json
from autolr.machine.temporary import passing_folder
from autolr.optimization.optuna_access import SET_STUDY_SYSTEM_ATTR, SET_STUDY_USER_ATTR, storage_of, study_id
from autolr.optimization.sampler.fixed_space import BATCH, PLACE
from autolr.optimization.study.folder import STUDY_NAME, StudyFolder, may_be_trial
from autolr.optimization.study.journal import open_journal
from autolr.optimization.study.trial_file import restored_trial
from autolr.optimization.study.trial_record import SURPLUS
from autolr.progress import Progress
from autolr.spec.objectives import directions


def rebuild(folder: StudyFolder, progress: Progress) -> None:
    """Make a study's journal anew where it is damaged, and keep the damaged one under another name.

    Every trial with a file comes back under its number. What was running or waiting comes back when the study goes on:
    the first candidates and the proposals of a batch are known. A number that nothing is known of stays unused. Of the
    damaged journal only what it says of the study as a whole is read, such as the points of a warm start.

    Args:
        folder: of the study; this process must hold it.
        progress: told what was done, and which files are left out.

    Raises:
        UsageError: the trials are kept in a database.
    """
    if folder.database is not None:
        raise UsageError(
            f"--rebuild is for a journal; the trials of {folder.path} are kept in the database {folder.database}"
        )
    try:
        folder.check_journal()
    except UsageError as error:
        progress.note(str(error).partition(". ")[0])
    else:
        progress.note(f"{folder.journal} is whole; nothing was rebuilt")
        return
    trials, left_out = _restored(folder)
    with passing_folder(folder.path, "rebuilding-") as temporary:
        new = temporary / folder.journal.name
        storage = open_journal(new)
        study = optuna.create_study(study_name=STUDY_NAME, storage=storage, directions=directions(folder.spec()))
        _copy_attributes(folder.journal, study)
        numbers = [number for number, file in folder.trial_files().items() if may_be_trial(file, number)]
        _add(study, trials, 1 + max(numbers, default=-1))
        kept = _keep(folder.journal)
        new.replace(folder.journal)
    progress.note(
        f"rebuilt {folder.journal} with {len(trials)} trials" + (f"; the damaged one is {kept}" if kept else "")
    )
    for file in left_out:
        progress.note(f"{file} is damaged too and left out; its candidate may be evaluated again")


def _restored(folder: StudyFolder) -> tuple[dict[int, FrozenTrial], list[Path]]:
    """Return the trials by number, and the files that give none."""
    spec, trials, left_out = folder.spec(), dict[int, FrozenTrial](), list[Path]()
    for number, file in folder.trial_files().items():
        try:
            trials[number] = restored_trial(read_json(file) or {}, number, spec)
        except (KeyError, TypeError, ValueError, AttributeError):
            left_out.append(file)
    return trials, left_out


def _add(study: optuna.Study, trials: Mapping[int, FrozenTrial], count: int) -> None:
    """Add the trials and what fills the numbers between them, then what the batches begun proposed besides."""
    unknown = create_trial(state=TrialState.FAIL, user_attrs={SURPLUS: True, "reason": "its file is lost or damaged"})
    for number in range(count):
        study.add_trial(trials.get(number, unknown))
    places = {tuple(trial.user_attrs[PLACE]) for trial in trials.values() if PLACE in trial.user_attrs}
    for number, trial in trials.items():
        for place, params in enumerate(trial.user_attrs.get(BATCH, [])[1:], start=1):
            if (number, place) not in places:
                study.enqueue_trial(params, user_attrs={PLACE: [number, place]})


def _copy_attributes(journal: Path, study: optuna.Study) -> None:
    """Give a study the attributes that the changes of a journal set, as far as they can be read."""
    setters: dict[int, tuple[str, Callable[[int, str, Any], None]]] = {
        SET_STUDY_USER_ATTR: ("user_attr", storage_of(study).set_study_user_attr),
        SET_STUDY_SYSTEM_ATTR: ("system_attr", storage_of(study).set_study_system_attr),
    }
    for line in journal.read_bytes().split(b"\n") if journal.is_file() else []:
        try:
            change = json.loads(line)
            key, setter = setters[change["op_code"]]
            [(name, value)] = change[key].items()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # another change, or a damaged line
        setter(study_id(study), name, value)


def _keep(journal: Path) -> Path | None:
    """Copy a journal to a name that is free; not moved, so that there is one whatever happens meanwhile."""
    if not journal.is_file():
        return None
    names = (
        journal.with_name(f"{journal.name}.damaged{suffix}") for suffix in ["", *(f"-{n}" for n in range(2, 1000))]
    )
    kept = next(name for name in names if not name.exists())
    copyfile(journal, kept)
    return kept
