"""The front: of the finished trials that meet every budget and floor, those that no other beats in both objectives."""

import json

import optuna
from optuna.trial import FrozenTrial, TrialState

from autolr.machine.atomic import write_atomically
from autolr.optimization.study.folder import StudyFolder
from autolr.optimization.study.trial_record import TrialRecord
from autolr.pareto import non_dominated
from autolr.results import Front, FrontMember, StudyResult, Variant
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
    best = [trial for trial, on_front in zip(trials, non_dominated(points), strict=True) if on_front]
    return sorted(best, key=lambda trial: (trial.values[1], trial.number))


def nearest_trials(study: optuna.Study, count: int = 3) -> list[FrozenTrial]:
    """Return the trials that come nearest, for when none meets every budget and floor.

    By how far they are over, all budgets and floors added up; the dense model only where there is nothing else, since
    it keeps every floor and meets no budget.
    """

    def distance(trial: FrozenTrial) -> tuple[float, int]:
        return sum((max(value, 0.0) for value in trial.constraints.values()), 0.0), trial.number

    trials = sorted(finished(study), key=distance)
    return [trial for trial in trials if trial.user_attrs["candidate"]][:count] or trials[:count]


def member_of(trial: FrozenTrial) -> FrontMember:
    """Return what front.json has of a trial."""
    record = TrialRecord.of(trial)
    return FrontMember(
        trial=record.number,
        origin=record.origin or "search",
        variant=Variant(record.candidate),
        cost=record.cost,
        scores=record.scores,
        constraints=dict(record.constraints),
    )


def front_of(study: optuna.Study, spec: StudySpec) -> Front:
    """Return the front of a study's finished trials."""
    members = tuple(member_of(trial) for trial in front_trials(study))
    nearest = () if members else tuple(member_of(trial) for trial in nearest_trials(study))
    return Front(tuple(study.metric_names or ()), members, nearest, spec.budgets, spec.floors)


def write_front(folder: StudyFolder, study: optuna.Study, spec: StudySpec) -> None:
    """Rewrite front.json atomically."""
    write_atomically(folder.front_file, json.dumps(front_of(study, spec).to_json(), indent=1) + "\n")


def stored_front(folder: StudyFolder) -> Front | None:
    """Return what front.json holds, or where it is lost or damaged the front anew; None before a trial has finished."""
    plain = folder.front()
    try:
        if plain is not None:
            return Front.from_json(plain)
    except (AttributeError, KeyError, TypeError, ValueError):
        pass  # it is derived from the trials
    study = folder.load_study() if folder.begun() else None
    return front_of(study, folder.spec()) if study is not None and finished(study) else None


def read_result(folder: StudyFolder) -> StudyResult | None:
    """Return what result.json holds; None before the search has ended, or if it is damaged (it is derived)."""
    plain = folder.result()
    try:
        return None if plain is None else StudyResult.from_json(plain)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def write_result(folder: StudyFolder, result: StudyResult) -> None:
    """Write result.json atomically."""
    write_atomically(folder.result_file, json.dumps(result.to_json(), indent=1) + "\n")
