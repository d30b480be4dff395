"""The end of a study: choose the winner, time it where a budget asks, report on it, export it."""

from collections.abc import Sequence
from dataclasses import replace

import optuna

from autolr.bank import Bank
from autolr.problem import LoadedProblem
from autolr.progress import Progress
from autolr.results import FrontMember, StudyResult
from autolr.search.study.folder import StudyFolder
from autolr.search.study.front import front_trials, nearest_trials, write_result
from autolr.workflows.export import EXPORT_FORMAT, export
from autolr.workflows.final_report import report_on
from autolr.workflows.finalists import changes_of_member
from autolr.workflows.select import rank_members
from autolr.workflows.sensitivity import store_account
from autolr.workflows.verify_latency import latency_budgets, time_checkpoint

MOST_CHECKPOINTS = 6
"""Members that are exported and timed, best first, before a latency budget counts as missed."""


def conclude(
    inputs: LoadedProblem,
    bank: Bank,
    study: optuna.Study,
    folder: StudyFolder,
    trials: int,
    progress: Progress,
    checkpoint: bool,
) -> StudyResult:
    """Choose, report on and export the winner; write result.json and the winner's account.

    Args:
        inputs: the opened inputs.
        bank: decompositions, complete.
        study: with its trials.
        folder: of the study.
        trials: how many the result rests on.
        progress: told what is under way.
        checkpoint: export the winner.
    """
    members = rank_members(inputs, bank, front_trials(study) or nearest_trials(study), progress)
    if latency_budgets(inputs):
        members = _fastest_first(inputs, bank, members, folder, progress)
    winner = members[0]
    changes = changes_of_member(inputs, bank, winner, progress)
    report = report_on(inputs, bank, winner.candidate, changes, progress)
    report = replace(report, latency=winner.latency)
    if checkpoint:
        directory = folder.path / "front" / str(winner.trial)
        export(inputs, bank, winner, changes, report, directory, EXPORT_FORMAT, progress)
    quantity = inputs.spec.parsed_budgets[0].quantity
    result = StudyResult(
        winner=winner.trial,
        reached=_reached(winner, inputs.spec.budgets),
        members=tuple(sorted(members, key=lambda member: member.cost.ratios[quantity])),
        report=report,
        trials=trials,
        checkpoint=f"front/{winner.trial}" if checkpoint else None,
    )
    store_account(folder, inputs, bank, study, winner.trial)
    write_result(folder, result)
    return result


def _reached(winner: FrontMember, budgets: Sequence[str]) -> bool:
    """Tell whether a member meets everything.

    Floors are judged on the selection part, as exported: what the search saw of a recovered one was before that.
    """
    affordable = all(winner.constraints[budget] <= 0 for budget in budgets)
    return affordable and winner.selected.keeps_floors and (winner.latency is None or winner.latency.within)


def _fastest_first(
    inputs: LoadedProblem, bank: Bank, ranking: Sequence[FrontMember], folder: StudyFolder, progress: Progress
) -> list[FrontMember]:
    """Export and time the best members until one meets the latency budgets in a process of its own.

    What a member took beyond its prediction is expected of the others too: those that would then be late are passed
    over, and when all would be, the cheapest is the last that is tried.

    Returns:
        The members, each that was tried with its times: that one first (the fastest of those tried when none meets the
        budgets), the others in the order that they came in.
    """
    limit = min(budget.limit(inputs.costs.dense) for budget in latency_budgets(inputs))
    tried: list[FrontMember] = []
    left, expected, last = list(ranking), 1.0, False
    while left and not last and len(tried) < MOST_CHECKPOINTS:
        hopeful = [member for member in left if member.cost.amounts["latency"] * expected <= limit]
        last = not hopeful
        member = hopeful[0] if hopeful else min(left, key=lambda m: m.cost.amounts["latency"])
        left.remove(member)
        tried.append(_timed(inputs, bank, member, folder, progress))
        if _within(tried[-1]):
            break
        expected = max(_clock_ratio(m) / m.cost.ratios["latency"] for m in tried)
    first = tried[-1] if _within(tried[-1]) else min(tried, key=_clock_ratio)
    by_trial = {member.trial: member for member in tried}
    others = [by_trial.get(member.trial, member) for member in ranking if member.trial != first.trial]
    return [first, *others]


def _timed(
    inputs: LoadedProblem, bank: Bank, member: FrontMember, folder: StudyFolder, progress: Progress
) -> FrontMember:
    directory = folder.path / "front" / str(member.trial)
    changes = changes_of_member(inputs, bank, member, progress)
    export(inputs, bank, member, changes, None, directory, EXPORT_FORMAT, progress)
    return replace(member, latency=time_checkpoint(inputs, directory, progress))


def _within(member: FrontMember) -> bool:
    return member.latency is not None and member.latency.within


def _clock_ratio(member: FrontMember) -> float:
    assert member.latency is not None
    return member.latency.ratio
