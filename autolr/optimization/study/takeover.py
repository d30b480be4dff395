"""Which trials are this process's to run: its own, those that a dead process left, and the next of the queue.

With a journal one process works on a study: a trial that was running when the process died is taken up again under its
own number with the parameters it already has. In a database several processes do: each signs the trials it runs, and
those of a dead one are closed and put into the queue anew.
"""

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from autolr.optimization.optuna_access import as_stored, enqueued_params, storage_of, taken_up, trial_id
from autolr.optimization.study.heartbeats import Heartbeat
from autolr.optimization.study.trial_record import DEATHS, ORIGIN, OWNER, REASON, SURPLUS

MAX_RETRIES = 4
"""How often a trial whose process died is run again before it counts as failed."""


class Trials(ABC):
    """The trials of one study, as this process sees them.

    Args:
        study: Optuna's.
        wanted: returns how many trials the finished study has.
    """

    def __init__(self, study: optuna.Study, wanted: Callable[[], int]) -> None:
        self.study, self.wanted = study, wanted
        self._mine: set[int] = set()

    @abstractmethod
    def next(self) -> Trial | None:
        """Take the next trial; None where as many as are wanted are scored or under way."""

    @abstractmethod
    def check(self) -> None:
        """Raise what has made this process one that others count as dead."""

    @abstractmethod
    def stop(self) -> None:
        """Let others know at once that this process works no more; they take over what it has left running."""

    def active(self) -> int:
        """Return how many trials are scored or under way."""
        return self._count(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)

    def waiting(self) -> int:
        """Return how many trials are in the queue."""
        return self._count(TrialState.WAITING)

    def done(self, trial: Trial) -> None:
        """Count a trial as run; not before the study was told, or it would seem to be left by a dead process."""
        self._mine.discard(trial.number)

    def close(self, trial: Trial | FrozenTrial, attributes: Mapping[str, Any]) -> bool:
        """Mark a trial as failed; return whether it was this process that did."""
        storage = storage_of(self.study)
        try:
            for name, content in attributes.items():
                storage.set_trial_user_attr(trial_id(trial), name, content)
            return storage.set_trial_state_values(trial_id(trial), TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False
        finally:
            self._mine.discard(trial.number)  # not before: a running trial that is nobody's would be taken up again

    def _count(self, *states: TrialState) -> int:
        return len(self.study.get_trials(deepcopy=False, states=states))

    def _running_elsewhere(self) -> list[FrozenTrial]:
        running = self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        return [trial for trial in running if trial.number not in self._mine]


class OwnTrials(Trials):
    """Those of a journal, which this process has for itself."""

    def next(self) -> Trial | None:
        """Take up a trial that a dead process left, else the next one."""
        left = self._running_elsewhere()
        if not left and self.active() >= self.wanted():
            return None
        trial = taken_up(self.study, left[0]) if left else self.study.ask()
        self._mine.add(trial.number)
        return trial

    def check(self) -> None:
        """Do nothing: no other process could take over."""

    def stop(self) -> None:
        """Do nothing: the folder's lock is let go by the caller."""


class SharedTrials(Trials):
    """Those of a database, which other processes may be running too."""

    def __init__(self, study: optuna.Study, wanted: Callable[[], int]) -> None:
        super().__init__(study, wanted)
        self.heartbeat = Heartbeat(study)
        self.heartbeat.start()

    def check(self) -> None:
        """Raise what ended the heartbeat of this process."""
        self.heartbeat.check()

    def stop(self) -> None:
        """End the heartbeat in good order."""
        self.heartbeat.stop()

    def next(self) -> Trial | None:
        """Take over what dead processes left, then sign the next trial."""
        self._take_over()
        if self.active() >= self.wanted():
            return None
        trial = self.study.ask()
        trial.storage.set_trial_user_attr(trial_id(trial), OWNER, self.heartbeat.me)
        if self.active() > self.wanted():  # another process claimed at the same moment; of those the last sees it
            if self.close(trial, {SURPLUS: True}):
                self._queue_again(as_stored(trial), {})
            time.sleep(random.uniform(0.0, 0.2))  # noqa: S311  no secret
            return None
        self._mine.add(trial.number)
        return trial

    def _take_over(self) -> None:
        """Close the trials of dead processes and put them into the queue anew."""
        others = self._running_elsewhere()
        owners = {trial.user_attrs[OWNER] for trial in others if OWNER in trial.user_attrs}
        alive = {owner: self.heartbeat.alive(owner) for owner in owners}
        for trial in others:
            owner = trial.user_attrs.get(OWNER)
            if alive[owner] if owner is not None else self.heartbeat.unsigned(trial.number):
                continue
            deaths = trial.user_attrs.get(DEATHS, 0) + 1
            given_up = deaths > MAX_RETRIES
            reason = f"its process died{f', for the {deaths}th time' if given_up else '; it is run again'}"
            if self.close(trial, {REASON: reason, DEATHS: deaths}) and not given_up:
                self._queue_again(trial, {DEATHS: deaths})

    def _queue_again(self, trial: FrozenTrial, attributes: Mapping[str, Any]) -> None:
        again = {name: trial.user_attrs[name] for name in (ORIGIN, DEATHS) if name in trial.user_attrs}
        params = enqueued_params(trial) or trial.params
        if not params and "candidate" not in trial.user_attrs:
            return  # it died before it was proposed
        if not params:
            again["candidate"] = trial.user_attrs["candidate"]
        self.study.enqueue_trial(params, user_attrs={**again, **attributes})
