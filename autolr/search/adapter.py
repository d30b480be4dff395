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
    """

    def __init__(self, make: Callable[[int], BaseSampler], space: Mapping[str, BaseDistribution], seed: int) -> None:
        self._make = make
        self._space = dict(space)
        self._seed = seed

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

    def _inner(self, number: int) -> BaseSampler:
        return self._make(int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0]))


def quiet_optuna() -> None:
    """Let Optuna log warnings only: autolr reports progress itself."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
