"""Any Optuna sampler over a space that is known beforehand, beside trials that lie outside the space.

The dense model and uniform candidates are trials of the study without parameters. Samplers that infer the space from
the trials would find nothing in common, so the space is given and those trials are hidden. The inner sampler is built
anew for every trial, from (seed, trial number): what it proposes depends on the study alone, so a study that was killed
and resumed goes on as the uninterrupted one, and never draws the same numbers twice.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial

from autolr.optimization.optuna_access import StudyOfSpace, storage_of, trial_id
from autolr.optimization.sampler.base import BatchSampler, Sampler, SpaceInfo
from autolr.optimization.sampler.encoding import Params

BATCH = "batch"
"""User attribute of the first trial of a batch: the parameters of all of them."""
PLACE = "place"
"""User attribute of the others: [number of the first, place in the batch]."""


class SpaceSampler(BaseSampler):
    """Proposes points of a given space through another sampler.

    Args:
        sampler: the other one.
        info: what it is told; its space is the space.
        seed: of the study, ≥ 0.
        at_once: how many proposals to make when one is asked for; those after the first are enqueued. Only a sampler
            that proposes in batches is asked for more than one.
    """

    def __init__(self, sampler: Sampler, info: SpaceInfo, seed: int, at_once: Callable[[], int] = lambda: 1) -> None:
        self._sampler = sampler
        self._info = info
        self._space = dict(info.space)
        self._seed = seed
        self._at_once = at_once

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the given space."""
        del study, trial
        return self._space

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Params:
        """Ask the inner sampler; what it leaves out is drawn independently by it."""
        view = StudyOfSpace(study, frozenset(self._space))
        inner = self._inner(trial.number)
        inner.before_trial(view, trial)
        if self._sampler.batches:
            return self._first_of_batch(cast(BatchSampler, inner), study, view, trial)
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

    def _first_of_batch(self, inner: BatchSampler, study: Study, view: StudyOfSpace, trial: FrozenTrial) -> Params:
        """Propose a batch, put all but the first into the queue, and return the first.

        The batch is stored with the trial in one step before anything is enqueued: when the process is killed in
        between, the trial is taken up again with the same batch, and what is missing in the queue is added.
        """
        storage = storage_of(study)
        batch = storage.get_trial(trial_id(trial)).user_attrs.get(BATCH)
        if batch is None:
            batch = inner.propose(view, trial, self._space, max(1, self._at_once()))
            if len(batch) > 1:
                storage.set_trial_user_attr(trial_id(trial), BATCH, batch)
        queued = {t.user_attrs[PLACE][1] for t in self._of_batch(study, trial.number)}
        for place, params in enumerate(batch[1:], start=1):
            if place not in queued:
                study.enqueue_trial(params, user_attrs={PLACE: [trial.number, place]})
        first: Params = batch[0]
        return first

    @staticmethod
    def _of_batch(study: Study, number: int) -> list[FrozenTrial]:
        trials = study.get_trials(deepcopy=False)
        return [t for t in trials if PLACE in t.user_attrs and t.user_attrs[PLACE][0] == number]

    def _inner(self, number: int) -> BaseSampler:
        own_seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        return self._sampler.build(self._seed if self._sampler.stateless else own_seed, self._info)


def suggested(trial: Trial, space: Mapping[str, BaseDistribution]) -> Params:
    """Return a trial's value of each parameter of a space: what it has or was enqueued with, else what is proposed.

    Raises:
        TypeError: a distribution is neither of numbers nor of choices.
    """
    return {name: _suggested(trial, name, distribution) for name, distribution in space.items()}


def _suggested(trial: Trial, name: str, part: BaseDistribution) -> Any:
    if isinstance(part, FloatDistribution):
        return trial.suggest_float(name, part.low, part.high, step=part.step, log=part.log)
    if isinstance(part, IntDistribution):
        return trial.suggest_int(name, part.low, part.high, step=part.step, log=part.log)
    if isinstance(part, CategoricalDistribution):
        return trial.suggest_categorical(name, part.choices)
    raise TypeError(f"{name!r} must be a Float, Int or Categorical distribution, got {type(part).__name__}")


def quiet_optuna() -> None:
    """Let Optuna log warnings only: autolr reports progress itself."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
