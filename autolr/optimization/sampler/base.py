"""What a sampler is to a study: a record of its name and of how it is built. Any sampler of Optuna can be one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from autolr.optimization.sampler.encoding import Params
from autolr.optimization.sampler.outcome_models import DeterministicOutcomes

IsNew = Callable[[Params, Sequence[Params]], bool]
"""Tells whether a candidate was not evaluated yet: (its parameters, the proposals of the same batch before it)."""


@dataclass(frozen=True)
class SpaceInfo:
    """What a sampler is told of the search when it is built; it may use any of it or nothing.

    Attributes:
        space: name -> distribution of each parameter; empty where it is only seen trial by trial.
        n_startup: finished trials with parameters before a model of them is used, at least 1.
        is_new: whether parameters stand for a candidate that was not evaluated yet; None: every point is one.
        focus: index of the objective whose best value is worth most; None: the whole front is.
        computed: outcomes that can be computed instead of modelled; None: there are none.
    """

    space: Mapping[str, BaseDistribution] = field(default_factory=dict)
    n_startup: int = 16
    is_new: IsNew | None = None
    focus: int | None = None
    computed: DeterministicOutcomes | None = None


@dataclass(frozen=True)
class Sampler:
    """A sampler that a study can be run with.

    It is built anew for every trial, so that what it proposes depends on the study alone and a resumed study goes on as
    the uninterrupted one; what it knows it reads from the study's trials.

    Attributes:
        name: how it is named on the command line.
        build: ``(seed, info) -> sampler``.
        batches: it proposes several candidates at once: what ``build`` returns is a :class:`BatchSampler`.
        stateless: its draws are a function of its seed and the trial's number already, so it is always built with the
            study's seed; another is built with a seed of the trial's own.

    Example:
        >>> from optuna.samplers import QMCSampler
        >>> sobol = Sampler("sobol", lambda seed, info: QMCSampler(seed=seed, scramble=True))
        >>> str(sobol.build(0, SpaceInfo()))
        'QMCSampler'
    """

    name: str
    build: Callable[[int, SpaceInfo], BaseSampler]
    batches: bool = False
    stateless: bool = False


@runtime_checkable
class BatchSampler(Protocol):
    """A sampler that proposes several candidates at once."""

    def propose(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution], count: int
    ) -> list[Params]:
        """Return at least one and at most ``count`` proposals; the first is what ``sample_relative`` would return."""
        ...
