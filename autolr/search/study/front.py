"""The front: of the finished trials that meet every budget and floor, those that no other beats in both objectives."""

import json
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from autolr.machine.atomic import write_atomically
from autolr.pareto import non_dominated
from autolr.search.study.folder import StudyFolder
from autolr.spec.study import StudySpec


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that were scored on everything."""
    return study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])


def scored(study: optuna.Study) -> list[FrozenTrial]:
    """Return the complete trials and those that a race stopped, by number."""
    return study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED])


def feasible(trial: FrozenTrial) -> bool:
    """Tell whether a trial meets every budget and floor."""
    return all(value <= 0 for value in trial.constraints.values())


def front_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the front's trials by rising cost; of equal candidates the first."""
    candidates: dict[str, FrozenTrial] = {}
    for trial in finished(study):
        if feasible(trial):
            candidates.setdefault(trial.user_attrs["digest"], trial)
    trials = list(candidates.values())
    if not trials:
        return []
    signs = [1.0 if direction == optuna.study.StudyDirection.MINIMIZE else -1.0 for direction in study.directions]
    points = [[sign * value for sign, value in zip(signs, trial.values, strict=True)] for trial in trials]
    kept = [trial for trial, best in zip(trials, non_dominated(points), strict=True) if best]
    return sorted(kept, key=lambda trial: (trial.values[1], trial.number))


def nearest_trials(study: optuna.Study, count: int = 3) -> list[FrozenTrial]:
    """Return the trials that come nearest, for when none meets every budget and floor.

    By how far they are over, all budgets and floors added up; the dense model only where there is nothing else, since
    it keeps every floor and meets no budget.
    """

    def distance(trial: FrozenTrial) -> tuple[float, int]:
        return sum((max(value, 0.0) for value in trial.constraints.values()), 0.0), trial.number

    trials = sorted(finished(study), key=distance)
    return [trial for trial in trials if trial.user_attrs["candidate"]][:count] or trials[:count]


def member(trial: FrozenTrial) -> dict[str, Any]:
    """Return a trial in the form front.json and ``autolr front --json`` have."""
    attributes = trial.user_attrs
    return {
        "trial": trial.number,
        "origin": attributes.get("origin", "search"),
        "candidate": attributes["candidate"],
        "digest": attributes["digest"],
        "costs": attributes["costs"],
        "scores": attributes["scores"],
        "constraints": trial.constraints,
    }


def write_front(folder: StudyFolder, study: optuna.Study, spec: StudySpec) -> None:
    """Rewrite front.json atomically."""
    trials = front_trials(study)
    content = {
        "objectives": study.metric_names,
        "budgets": list(spec.budgets),
        "floors": list(spec.floors),
        "scored_on": "search part",
        "members": [member(trial) for trial in trials],
    }
    if not trials:
        content["nearest"] = [member(trial) for trial in nearest_trials(study)]
    write_atomically(folder.front_file, json.dumps(content, indent=1) + "\n")


def within(trials: Sequence[FrozenTrial], quantity: str, limit: float) -> list[FrozenTrial]:
    """Return the trials whose amount of a quantity is at most a limit."""
    return [t for t in trials if t.user_attrs["costs"]["absolute"][quantity] <= limit]
