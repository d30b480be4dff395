"""The Optuna study of a study's folder: made or opened, and refused where it is another one."""

import json
import warnings

import optuna
from optuna.samplers import BaseSampler

from autolr.errors import UsageError
from autolr.problem import LoadedProblem
from autolr.scores import PROBE
from autolr.search.study.dashboard_notes import note_study
from autolr.search.study.database import alone
from autolr.search.study.folder import StudyFolder
from autolr.search.study.study_attributes import FINGERPRINT, store_dense_cost
from autolr.spec.objectives import directions
from autolr.spec.study import without_places


def create_study(folder: StudyFolder, inputs: LoadedProblem, sampler: BaseSampler) -> optuna.Study:
    """Make the Optuna study, or open it and go on with it.

    Args:
        folder: of the study; this process holds it.
        inputs: the opened inputs.
        sampler: proposes the trials.

    Raises:
        UsageError: the journal is damaged, the database cannot be reached, or has another study of this name.
    """
    spec = inputs.spec
    files = folder.trial_files()  # before the study is read: another process may be adding trials
    storage = folder.storage(repair=True)
    with alone(storage, folder.study_name):
        study = optuna.create_study(
            study_name=folder.study_name,
            storage=storage,
            directions=directions(spec),
            sampler=sampler,
            load_if_exists=True,
        )
        folder.check_whole(study, files)
        if spec.storage is not None:
            _check_same(study, folder, inputs)
        if not study.metric_names:
            names = [spec.search.objective, f"{spec.parsed_budgets[0].quantity} ratio"]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names([*names, *([PROBE.name] if spec.search.probe_axis else [])])
            note_study(study, inputs)
        store_dense_cost(study, inputs.costs.dense)
    return study


def _check_same(study: optuna.Study, folder: StudyFolder, inputs: LoadedProblem) -> None:
    """Refuse a database's study of this name that was begun with something else; a folder has its own check."""
    now = json.loads(json.dumps({**inputs.spec.identity(), **inputs.fingerprint, "storage": None}))
    if FINGERPRINT not in study.user_attrs:
        study.set_user_attr(FINGERPRINT, now)
    stored, now = without_places(study.user_attrs[FINGERPRINT]), without_places(now)
    changed = [key for key in {**now, **stored} if stored.get(key) != now.get(key)]
    if changed:
        raise UsageError(
            f"the database has another study of the name {folder.study_name!r}, with another "
            f"{', '.join(changed[:4])}; a study is named by its folder: choose another --study"
        )
