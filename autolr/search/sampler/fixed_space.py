"""Any Optuna sampler over a space that is known beforehand, beside trials that lie outside the space.

The dense model and uniform candidates are trials of the study without parameters. Samplers that infer the space from
the trials would find nothing in common, so the space is given and those trials are hidden. The inner sampler is made
anew for every trial, from (seed, trial number): what it proposes depends on the study alone, so a study that was killed
and resumed goes on as the uninterrupted one, and never draws the same numbers twice.
"""

import copy
from collections.abc import Callable, Container, Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from autolr.search.sampler.botorch_sampler import BoTorchSampler

BATCH = "batch"
"""User attribute of the first trial of a batch: the parameters of all of them."""
PLACE = "place"
"""User attribute of the others: [number of the first, place in the batch]."""


class _InSpace(Study):
    """A study of which only trials with all the parameters of a space are seen."""

    _names: frozenset[str]

    @classmethod
    def of(cls, study: Study, names: frozenset[str]) -> "_InSpace":
        """Return a view of a study."""
        view = copy.copy(study)
        view.__class__ = cls
        assert isinstance(view, cls)
        view._names = names
        return view

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        found = super()._get_trials(deepcopy, states, use_cache)
        return [t for t in found if self._names <= (t.params.keys() | t.system_attrs.get("fixed_params", {}).keys())]


class SpaceSampler(BaseSampler):
    """Proposes points of a given space through another sampler.

    Args:
        make: seed -> inner sampler.
        space: name -> distribution.
        seed: of the study, ≥ 0.
        at_once: how many proposals to make when one is asked for; those after the first are enqueued. Only a sampler
            that proposes several is asked for more than one.
    """

    def __init__(
        self,
        make: Callable[[int], BaseSampler],
        space: Mapping[str, BaseDistribution],
        seed: int,
        at_once: Callable[[], int] = lambda: 1,
    ) -> None:
        self._make = make
        self._space = dict(space)
        self._seed = seed
        self._at_once = at_once

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the given space."""
        del study, trial
        return self._space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Ask the inner sampler; what it leaves out is drawn independently by it."""
        view = _InSpace.of(study, frozenset(self._space))
        inner = self._inner(trial.number)
        inner.before_trial(view, trial)
        if isinstance(inner, BoTorchSampler):
            return self._first_of_batch(inner, study, view, trial)
        params = inner.sample_relative(view, trial, search_space)
        for name, distribution in search_space.items():
            if name not in params:
                params[name] = inner.sample_independent(view, trial, name, distribution)
        return params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw a parameter outside the space."""
        return self._inner(trial.number).sample_independent(study, trial, param_name, param_distribution)

    def _first_of_batch(
        self, inner: BoTorchSampler, study: Study, view: _InSpace, trial: FrozenTrial
    ) -> dict[str, Any]:
        """Propose a batch, put all but the first into the queue, and return the first.

        The batch is stored with the trial in one step before anything is enqueued: when the process is killed in
        between, the trial is taken up again with the same batch, and what is missing in the queue is added.
        """
        stored = study._storage.get_trial(trial._trial_id).user_attrs.get(BATCH)
        if stored is None:
            stored = inner.propose(view, trial, self._space, max(1, self._at_once()))
            if len(stored) > 1:
                study._storage.set_trial_user_attr(trial._trial_id, BATCH, stored)
        queued = {t.user_attrs[PLACE][1] for t in self._of_batch(study, trial.number)}
        for place, params in enumerate(stored[1:], start=1):
            if place not in queued:
                study.enqueue_trial(params, user_attrs={PLACE: [trial.number, place]})
        first: dict[str, Any] = stored[0]
        return first

    @staticmethod
    def _of_batch(study: Study, number: int) -> list[FrozenTrial]:
        trials = study.get_trials(deepcopy=False)
        return [t for t in trials if PLACE in t.user_attrs and t.user_attrs[PLACE][0] == number]

    def _inner(self, number: int) -> BaseSampler:
        return self._make(int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0]))


def quiet_optuna() -> None:
    """Let Optuna log warnings only: autolr reports progress itself."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
