"""Everything of Optuna that is not public: what another release of it may take away.

Nothing else in the package touches a private name of Optuna; ``tests/test_private_names.py`` fails with the name that
is gone. Why each is needed:

* a trial has to be closed, signed and read by its id, also one that another process made: the storage does that, a
  study only with trials that its own process asked for;
* a sampler must not see trials outside its space: every sampler reads them by ``Study._get_trials``;
* a database may be away for a while: each of its storage's calls waits for it, those of Optuna's cache too;
* a journal is tried line by line on a replay before it is believed.
"""

from collections.abc import Callable, Container
from functools import cache
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages.journal._storage import JournalOperation, JournalStorageReplayResult
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

__all__ = ["JournalReplay", "StudyOfSpace"]

JournalReplay = JournalStorageReplayResult
"""Carries out the changes of a journal: ``apply_logs``, ``get_study``, ``get_trial``, ``log_number_read``."""
SET_STUDY_USER_ATTR = int(JournalOperation.SET_STUDY_USER_ATTR)
SET_STUDY_SYSTEM_ATTR = int(JournalOperation.SET_STUDY_SYSTEM_ATTR)
"""Codes of the changes of a journal that set attributes of the study."""
CACHE_CALLS = ("_get_trials", "_create_new_trial", "_set_trial_param")
"""Methods of a database's storage that Optuna's cache before it calls, beside those of every storage."""

Call = Callable[..., Any]


def storage_of(study: Study) -> BaseStorage:
    """Return where a study is kept."""
    return study._storage


def study_id(study: Study) -> int:
    """Return a study's number in its storage."""
    return study._study_id


def trial_id(trial: Trial | FrozenTrial) -> int:
    """Return a trial's number in its storage, which is not its number in its study."""
    return trial._trial_id


def taken_up(study: Study, running: FrozenTrial) -> Trial:
    """Return a trial that is running already, to go on with it."""
    return Trial(study, running._trial_id)


def as_stored(trial: Trial) -> FrozenTrial:
    """Return what the storage holds of a trial now."""
    return trial.storage.get_trial(trial._trial_id)


def enqueued_params(trial: FrozenTrial) -> dict[str, Any]:
    """Return the parameters that an enqueued trial is to have; none for another."""
    params: dict[str, Any] = trial.system_attrs.get("fixed_params", {})
    return params


def takes(distribution: BaseDistribution, value: Any) -> bool:
    """Tell whether a parameter can have a value."""
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except ValueError:  # an enqueued value of another type, or a choice that is no longer there
        return False


class StudyOfSpace(Study):
    """A study of which only the trials with all the parameters of a space are seen.

    Args:
        study: the whole study.
        names: of the parameters.
    """

    def __init__(self, study: Study, names: frozenset[str]) -> None:
        super().__init__(study.study_name, study._storage, study.sampler, study.pruner)
        self._names = names

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy, states, use_cache)
        return [trial for trial in trials if self._names <= (trial.params.keys() | enqueued_params(trial).keys())]


def database_engine(storage: BaseStorage) -> Any | None:
    """Return the SQLAlchemy engine of a database's storage, behind Optuna's cache or not; None of a journal's."""
    return getattr(getattr(storage, "_backend", storage), "engine", None)


@cache
def database_storage(patient: Callable[[Call], Call]) -> type[RDBStorage]:
    """Return the class of a database's storage whose every call goes through ``patient``, a decorator."""
    names = sorted({*BaseStorage.__abstractmethods__, "get_trial", *CACHE_CALLS})
    return type("PatientStorage", (RDBStorage,), {name: patient(getattr(RDBStorage, name)) for name in names})
