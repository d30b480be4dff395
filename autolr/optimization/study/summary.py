"""What a study's files say, without loading the model: its state, its front, a trial by number or by budget."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from optuna.trial import FrozenTrial, TrialState

from autolr.errors import BudgetError, UsageError, command
from autolr.optimization.study.folder import StudyFolder
from autolr.optimization.study.front import feasible, finished, member_of, read_result, scored, stored_front
from autolr.optimization.study.study_attributes import stored_dense_cost
from autolr.optimization.study.trial_record import REASON, SURPLUS, TrialRecord
from autolr.records import Cost
from autolr.results import Failure, Front, FrontMember, StudyStatus
from autolr.spec.budgets import Budget, check_priced
from autolr.spec.objectives import rank_of

_SHOWN = 12
"""Numbers of trials that a message names at most."""
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def summarize(folder: StudyFolder) -> StudyStatus:
    """Return a study's state."""
    asked = folder.asked()
    counts = dict.fromkeys(_STATES.values(), 0)
    trials: list[FrozenTrial] = []
    failures: list[Failure] = []
    seconds = 0.0
    if folder.begun():
        trials = [t for t in folder.load_study().get_trials(deepcopy=False) if SURPLUS not in t.user_attrs]
        counts.update(Counter(_STATES[t.state] for t in trials if t.state in _STATES))
        failures = [
            Failure(t.number, t.user_attrs.get(REASON, "unknown")) for t in trials if t.state == TrialState.FAIL
        ]
        seconds = sum((sum(t.user_attrs.get("seconds", {}).values()) for t in trials), 0.0)
    result, front, done = read_result(folder), stored_front(folder), counts["complete"] + counts["stopped"]
    return StudyStatus(
        study=str(folder.path),
        trials=counts,
        wanted=asked.trials,
        finished=result is not None and result.trials == done and (done >= asked.trials or _single_point(trials)),
        running=folder.busy(),
        budgets=asked.budgets,
        floors=asked.floors,
        front=() if front is None else tuple(member.trial for member in front.members),
        winner=None if result is None else result.winner,
        trial_seconds=round(seconds, 2),
        failures=tuple(failures),
    )


def _single_point(trials: Sequence[FrozenTrial]) -> bool:
    """Tell whether a space has nothing to search: it ends with its first candidates, fewer than are wanted.

    The second candidate is of the space, so that it has parameters where the space has.
    """
    return len(trials) > 1 and not any(trial.params for trial in trials)


def read_front(folder: StudyFolder) -> Front:
    """Return the study's front, its members with their scores on the selection part where the search has ended.

    Raises:
        UsageError: no trial has finished yet.
    """
    front, result = stored_front(folder), read_result(folder)
    if front is None:
        raise UsageError(
            f"the study at {folder.path} has no finished trial yet; go on with {command('resume', folder.path)}"
        )
    if result is None:
        return front
    selected = {member.trial: member.selection for member in result.members}
    members = tuple(replace(member, selection=selected.get(member.trial)) for member in front.members)
    return replace(front, members=members, winner=result.winner)


def select_trial(folder: StudyFolder, budgets: Sequence[str]) -> FrontMember:
    """Return the best finished trial, by the study's objective, within other budgets and above the study's floors.

    Raises:
        BudgetError: no finished trial is within them; names the nearest.
    """
    limits = [Budget.parse(text) for text in budgets]
    spec, study = folder.spec(), folder.load_study()
    trials = finished(study)
    if not trials:
        raise UsageError(
            f"the study at {folder.path} has no finished trial yet; go on with {command('resume', folder.path)}"
        )
    dense, objective = stored_dense_cost(study), spec.search.objective
    members = [member_of(trial) for trial in trials]
    within = [member for member in members if all(_excess(member, limit, dense) <= 0 for limit in limits)]
    fitting = [member for member in within if _worst_floor(member, spec.floors) <= 0]
    if within and not fitting:
        best = min(within, key=lambda member: _worst_floor(member, spec.floors))
        raise BudgetError(
            f"no finished trial within {', '.join(budgets)} keeps {', '.join(spec.floors)}; the nearest is trial "
            f"{best.trial}: raise the budget, or export --trial {best.trial}"
        )
    if not fitting:

        def distance(member: FrontMember) -> tuple[float, float]:
            return max(_excess(member, limit, dense) for limit in limits), _rank(member, objective)

        closest = min(members, key=distance)
        ratios = ", ".join(f"{closest.cost.ratios[b.quantity]:.3f}x-{b.quantity}" for b in limits)
        raise BudgetError(
            f"no finished trial is within {', '.join(budgets)}; the nearest is trial {closest.trial} with {ratios}: "
            f"search again with that budget, export --trial {closest.trial}, or solve for the budget with "
            f"export --budget … --solve"
        )
    first = limits[0].quantity
    return min(fitting, key=lambda member: (_rank(member, objective), member.cost.ratios[first], member.trial))


def _rank(member: FrontMember, objective: str) -> float:
    return rank_of(objective, member.scores[objective].value)


def _worst_floor(member: FrontMember, floors: Sequence[str]) -> float:
    """Return by how much the floor that it misses most is missed; at most 0 where it keeps all."""
    return max((member.constraints.get(floor, 0.0) for floor in floors), default=0.0)


def with_multipliers(folder: StudyFolder, number: int | None) -> FrontMember:
    """Return the trial of this number, or the winner; where that has no multipliers, the best trial that has some.

    Raises:
        UsageError: there is no such finished trial.
    """
    if number is not None:
        return find_trial(folder, number, None)
    study, result = folder.load_study(), read_result(folder)
    objective = folder.spec().search.objective
    searched = [trial for trial in finished(study) if trial.params]
    won = [trial for trial in searched if result is not None and trial.number == result.winner]
    if won:
        return member_of(won[0])
    if not searched:
        raise UsageError(f"the study at {folder.path} has no trial with multipliers yet; resume it")
    return member_of(
        min(searched, key=lambda trial: (not feasible(trial), rank_of(objective, trial.values[0]), trial.number))
    )


def find_trial(folder: StudyFolder, number: int | None, budgets: Sequence[str] | None) -> FrontMember:
    """Return the trial of this number, or the best within budgets, or with neither the winner.

    Raises:
        UsageError: there is no such finished trial, or no winner yet.
        BudgetError: no trial is within the budgets.
    """
    if budgets:
        return select_trial(folder, budgets)
    if number is None:
        result = read_result(folder)
        if result is None:
            raise UsageError(
                f"the study at {folder.path} has no winner yet; name a --trial or a --budget, or resume it"
            )
        number = result.winner
    study = folder.load_study()
    complete = {trial.number: trial for trial in finished(study)}
    stopped = {trial.number: TrialRecord.of(trial) for trial in scored(study) if trial.number not in complete}
    if number in stopped:
        record = stopped[number]
        raise UsageError(
            f"trial {number} of {folder.path} was stopped after {next(iter(record.scores.values())).n} examples, where "
            f"trial {record.stopped_by} was better with confidence; export trial {record.stopped_by}, or search with "
            f"--no-racing"
        )
    if number not in complete:
        hint = f"scored in full are {_numbers(sorted(complete))}" if complete else "none is finished"
        raise UsageError(f"trial {number} of {folder.path} is not a finished trial; {hint}: see autolr front")
    return member_of(complete[number])


def _numbers(numbers: Sequence[int]) -> str:
    """Return trials' numbers, of many the first and the last.

    Example:
        >>> _numbers(range(0, 40, 2))
        '0, 2, 4, 6, 8, 10, …, 28, 30, 32, 34, 36, 38'
    """
    shown = [str(number) for number in numbers]
    return ", ".join(shown if len(shown) <= _SHOWN else [*shown[: _SHOWN // 2], "…", *shown[-_SHOWN // 2 :]])


def _excess(member: FrontMember, budget: Budget, dense: Cost) -> float:
    check_priced(budget, dense)
    return float(member.cost.amounts[budget.quantity] / budget.limit(dense) - 1.0)
