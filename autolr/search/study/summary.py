"""What a study's files say, without loading the model: its state, its front, a trial by number or by budget."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from optuna.trial import TrialState

from autolr.errors import BudgetError, UsageError, command
from autolr.records import Cost
from autolr.search.study.folder import StudyFolder
from autolr.search.study.front import feasible, finished, member, scored
from autolr.search.study.study_attributes import stored_dense_cost
from autolr.search.study.trial_record import SURPLUS
from autolr.spec.budgets import Budget, check_priced
from autolr.spec.objectives import rank_of

_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def summarize(folder: StudyFolder) -> dict[str, Any]:
    """Return a study's state: counts of trials, budgets, the front's size, failures with their reasons, the winner."""
    spec = folder.spec()
    counts = dict.fromkeys(_STATES.values(), 0)
    failures: list[dict[str, Any]] = []
    seconds = 0.0
    if folder.begun():
        trials = [t for t in folder.load_study().get_trials(deepcopy=False) if SURPLUS not in t.user_attrs]
        counts.update(Counter(_STATES[t.state] for t in trials if t.state in _STATES))
        failures = [
            {"trial": t.number, "reason": t.user_attrs.get("reason", "unknown")}
            for t in trials
            if t.state == TrialState.FAIL
        ]
        seconds = sum(sum(t.user_attrs.get("seconds", {}).values()) for t in trials)
    result = folder.result()
    front = folder.front() or {"members": []}
    return {
        "study": str(folder.path),
        "trials": counts,
        "wanted": spec.trials,
        "finished": result is not None and result["trials"] == counts["complete"] + counts["stopped"],
        "running": folder.busy(),
        "budgets": list(spec.budgets),
        "floors": list(spec.floors),
        "front": [m["trial"] for m in front["members"]],
        "winner": result["winner"] if result else None,
        "trial_seconds": round(seconds, 2),
        "failures": failures,
    }


def read_front(folder: StudyFolder) -> dict[str, Any]:
    """Return front.json, its members with their scores on the selection part where the search has ended.

    Raises:
        UsageError: no trial has finished yet.
    """
    front = folder.front()
    if front is None:
        raise UsageError(
            f"the study at {folder.path} has no finished trial yet; go on with {command('resume', folder.path)}"
        )
    result = folder.result()
    if result is not None:
        selected = {m["trial"]: m["selection"] for m in result["members"]}
        for one in front["members"]:
            if one["trial"] in selected:
                one["selection"] = selected[one["trial"]]
        front["winner"] = result["winner"]
    return front


def select_trial(folder: StudyFolder, budgets: Sequence[str]) -> dict[str, Any]:
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
    dense = stored_dense_cost(study)
    within = [m for m in (member(t) for t in trials) if all(_excess(m, b, dense) <= 0 for b in limits)]
    fitting = [m for m in within if all(m["constraints"].get(floor, 0.0) <= 0 for floor in spec.floors)]
    objective = spec.search.objective
    if within and not fitting:
        best = min(within, key=lambda m: max(m["constraints"].get(floor, 0.0) for floor in spec.floors))
        raise BudgetError(
            f"no finished trial within {', '.join(budgets)} keeps {', '.join(spec.floors)}; the nearest is trial "
            f"{best['trial']}: raise the budget, or export --trial {best['trial']}"
        )
    if not fitting:

        def distance(one: dict[str, Any]) -> tuple[float, float]:
            return max(_excess(one, b, dense) for b in limits), rank_of(objective, one["scores"][objective]["value"])

        closest = min((member(t) for t in trials), key=distance)
        ratios = ", ".join(f"{closest['costs']['ratio'][b.quantity]:.3f}x-{b.quantity}" for b in limits)
        raise BudgetError(
            f"no finished trial is within {', '.join(budgets)}; the nearest is trial {closest['trial']} with {ratios}: "
            f"search again with that budget, export --trial {closest['trial']}, or solve for the budget with "
            f"export --budget … --solve"
        )
    first = limits[0].quantity

    def rank(one: dict[str, Any]) -> tuple[float, float, int]:
        return rank_of(objective, one["scores"][objective]["value"]), one["costs"]["ratio"][first], one["trial"]

    return min(fitting, key=rank)


def with_multipliers(folder: StudyFolder, number: int | None) -> dict[str, Any]:
    """Return the trial of this number, or the winner; where that has no multipliers, the best trial that has some.

    Raises:
        UsageError: there is no such finished trial.
    """
    if number is not None:
        return find_trial(folder, number, None)
    study, result = folder.load_study(), folder.result()
    objective = folder.spec().search.objective
    searched = [trial for trial in finished(study) if trial.params]
    won = [trial for trial in searched if result is not None and trial.number == result["winner"]]
    if won:
        return member(won[0])
    if not searched:
        raise UsageError(f"the study at {folder.path} has no trial with multipliers yet; resume it")
    return member(
        min(searched, key=lambda trial: (not feasible(trial), rank_of(objective, trial.values[0]), trial.number))
    )


def find_trial(folder: StudyFolder, number: int | None, budgets: Sequence[str] | None) -> dict[str, Any]:
    """Return the trial of this number, or the best within budgets, or with neither the winner.

    Raises:
        UsageError: there is no such finished trial, or no winner yet.
        BudgetError: no trial is within the budgets.
    """
    if budgets:
        return select_trial(folder, budgets)
    if number is None:
        result = folder.result()
        if result is None:
            raise UsageError(
                f"the study at {folder.path} has no winner yet; name a --trial or a --budget, or resume it"
            )
        number = int(result["winner"])
    study = folder.load_study()
    found = {trial.number: trial for trial in finished(study)}
    stopped = {trial.number: trial for trial in scored(study) if trial.number not in found}
    if number in stopped:
        rival, seen = stopped[number].user_attrs["stopped_by"], stopped[number].user_attrs["scores"]
        raise UsageError(
            f"trial {number} of {folder.path} was stopped after {next(iter(seen.values()))['n']} examples, where trial "
            f"{rival} was better with confidence; export trial {rival}, or search with --no-racing"
        )
    if number not in found:
        known = ", ".join(map(str, sorted(found)[-12:]))
        hint = f"scored in full are {'..., ' if len(found) > 12 else ''}{known}" if found else "none is finished"
        raise UsageError(f"trial {number} of {folder.path} is not a finished trial; {hint}: see autolr front")
    return member(found[number])


def _excess(one: dict[str, Any], budget: Budget, dense: Cost) -> float:
    check_priced(budget, dense)
    return float(one["costs"]["absolute"][budget.quantity] / budget.limit(dense) - 1.0)
