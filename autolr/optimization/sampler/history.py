"""What a study's trials say to the sampler.

Symbols:
    n: the trials in the space that teach; p: parameters; m: objectives.

A completed trial teaches its values; its user attribute ``STDERR`` may hold their m standard errors (of what sets the
trials apart). A trial that was stopped early (state PRUNED) teaches only if its user attribute ``ESTIMATE`` says what
its values would have been: ``{"values": [m numbers], "stderr": [m numbers]}``. Failed trials teach nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.search_space import intersection_search_space
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autolr.optimization.optuna_access import enqueued_params, takes
from autolr.optimization.sampler.encoding import Array, Encoding, Mask, Params

Space = Mapping[str, BaseDistribution]
ESTIMATE = "estimate"  # user attribute of a stopped trial: what its values would have been, with standard errors
STDERR = "stderr"  # user attribute of a completed trial: the standard errors of its values, as far as trials differ
_PENDING = (TrialState.RUNNING, TrialState.WAITING)


@dataclass(frozen=True)
class History:
    """The other trials of a study, as far as they lie in one search space.

    Attributes:
        number: of the trial that is proposed.
        encoding: the space's grid.
        done: the n trials that teach: completed ones, and stopped ones with an estimate.
        pending: (b, p) points of running and enqueued trials.
        taken: keys of every trial's point, whatever became of it.
        maximize: (m,) of bool.
    """

    number: int
    encoding: Encoding
    done: Sequence[FrozenTrial]
    pending: Array
    taken: frozenset[bytes]
    maximize: Mask

    @classmethod
    def of(cls, study: Study, trial: FrozenTrial, space: Space) -> "History":
        """Read it from the study's storage."""
        encoding = Encoding(space)
        known = [(t, _params(t)) for t in other_trials(study, trial)]
        known = [(t, params) for t, params in known if _holds(params, space)]
        return cls(
            number=trial.number,
            encoding=encoding,
            done=[t for t, _ in known if teaches(t)],
            pending=encoding.encode([params for t, params in known if t.state in _PENDING]),
            taken=frozenset(encoding.keys(encoding.encode([params for _, params in known]))),
            maximize=np.array([direction == StudyDirection.MAXIMIZE for direction in study.directions]),
        )

    def thinned(self, most: int) -> "History":
        """Return the history with at most so many trials that teach: half of them the best, half the latest.

        The best are those of the first objective. What is taken or pending stays known.
        """
        if len(self.done) <= most:
            return self
        quality = self.values()[:, 0] * (-1.0 if self.maximize[0] else 1.0)
        best = set(np.argsort(quality, kind="stable")[: most // 2].tolist())
        rest = [i for i in range(len(self.done)) if i not in best]
        kept = sorted(best.union(rest[-(most - len(best)) :]))
        return replace(self, done=[self.done[i] for i in kept])

    def observed(self) -> Array:
        """Return the points of the trials that teach, (n, p)."""
        return self.encoding.encode([t.params for t in self.done])

    def values(self) -> Array:
        """Return their objectives, estimates where a trial was stopped, (n, m)."""
        said = (t.values if _complete(t) else t.user_attrs[ESTIMATE]["values"] for t in self.done)
        return np.array(list(said), dtype=np.float64)

    def standard_errors(self, attribute: str = STDERR) -> Array:
        """Return the standard errors of :meth:`values`, (n, m); 0 where a completed trial's attribute is missing."""
        zero = [0.0] * len(self.maximize)
        said = (
            t.user_attrs.get(attribute, zero) if _complete(t) else t.user_attrs[ESTIMATE]["stderr"] for t in self.done
        )
        return np.array(list(said), dtype=np.float64)

    def constraints(self) -> dict[str, tuple[list[int], Array]]:
        """Return for each constraint, by name, which of the n trials set it and their values, (at most n,)."""
        names = sorted({name for t in self.done for name in t.constraints})
        rows = {name: [i for i, t in enumerate(self.done) if name in t.constraints] for name in names}
        return {name: (rows[name], np.array([self.done[i].constraints[name] for i in rows[name]])) for name in names}

    def complete(self) -> Mask:
        """Return which of the trials were evaluated in full, (n,) of bool; the others are estimates."""
        return np.array([t.state == TrialState.COMPLETE for t in self.done], dtype=bool)

    def feasible(self) -> Mask:
        """Return which of the n trials violate nothing, (n,) of bool."""
        return np.array([all(value <= 0.0 for value in t.constraints.values()) for t in self.done], dtype=bool)


def teaches(trial: FrozenTrial) -> bool:
    """Return whether a trial says something about the objectives: it completed, or it was stopped with an estimate."""
    return _complete(trial) or (trial.state == TrialState.PRUNED and ESTIMATE in trial.user_attrs)


def _complete(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.COMPLETE


def other_trials(study: Study, trial: FrozenTrial) -> list[FrozenTrial]:
    """Return all trials but this one."""
    return [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]


def shared_space(study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
    """Return the parameters all trials that teach share, sorted; before there is one, those all others share."""
    trials = other_trials(study, trial)
    if any(teaches(t) for t in trials):
        space = intersection_search_space([t for t in trials if teaches(t)], include_pruned=True)
    else:
        spaces = [t.distributions for t in trials if t.distributions]
        first = spaces[0] if spaces else {}
        space = {name: first[name] for name in sorted(first) if all(s.get(name) == first[name] for s in spaces)}
    return {name: distribution for name, distribution in space.items() if not distribution.single()}


def _params(trial: FrozenTrial) -> Params:
    """Return a trial's parameters; those an enqueued one is to have are among its system attributes."""
    if trial.state in _PENDING:
        return {**enqueued_params(trial), **trial.params}
    return trial.params


def _holds(params: Mapping[str, Any], space: Space) -> bool:
    """Return whether the parameters give every one of the space a value that it can take."""
    return all(name in params and takes(distribution, params[name]) for name, distribution in space.items())
