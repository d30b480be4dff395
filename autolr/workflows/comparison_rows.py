"""What a comparison's studies found, one by one and in summary: quality kept, and the area that fronts dominate."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from autolr.optimization.study.folder import StudyFolder
from autolr.optimization.study.front import scored
from autolr.optimization.study.trial_record import TrialRecord
from autolr.pareto import hypervolume
from autolr.results import StudyResult
from autolr.results.comparison import Cell, ComparisonSummary, Outcome, Row, SearchCurve, Spread, Step
from autolr.scores import SCORES, TASKS
from autolr.spec.budgets import Budget

if TYPE_CHECKING:
    from autolr.workflows.compare import Comparison

NEARLY = 0.99
"""Share of the best entry's final area that counts as having arrived."""


def outcome(folder: StudyFolder, budget: str, task: str, result: StudyResult) -> Outcome:
    """Return what one finished study found.

    Args:
        folder: of the study.
        budget: its first.
        task: the study's.
        result: of the study.
    """
    report, quantity, objective = result.report, Budget.parse(budget).quantity, TASKS.get(task).objective
    records = map(TrialRecord.of, scored(folder.load_study()))
    return Outcome(
        reached=result.reached,
        ratio=result.winning.cost.ratios[quantity],
        headline=report.headline,
        score=report.compressed[report.headline],
        dense=report.dense[report.headline],
        share=report.share(report.headline),
        objective=objective,
        objective_score=report.compressed[objective],
        exponentials={name: values["compressed"] for name, values in report.exponentials.items()},
        majority=report.majority,
        trials=result.trials,
        trace=tuple(_step(record, quantity) for record in records),
    )


def _step(record: TrialRecord, quantity: str) -> Step:
    anew = record.same_as is None and record.candidate.choices
    examples = next(iter(record.scores.values())).n if anew else 0
    value = record.values[0] if record.feasible and not record.stopped else None
    return Step(round(sum(record.seconds.values()), 3), examples, record.cost.ratios[quantity], value)


def summarize_rows(comparison: "Comparison", rows: Sequence[Row]) -> ComparisonSummary:
    """Return the summary of the studies that are finished.

    Args:
        comparison: entries, budgets, seeds, trials.
        rows: one for each study that was begun.
    """
    names = [entry.name for entry in comparison.entries]
    table = {
        name: {
            budget: _cell([row.outcome for row in rows if (row.entry, row.budget) == (name, budget) and row.outcome])
            for budget in comparison.budgets
        }
        for name in names
    }
    return ComparisonSummary(
        task=comparison.task,
        budgets=comparison.budgets,
        seeds=comparison.seeds,
        trials=comparison.trials,
        rows=tuple(rows),
        table=table,
        search=_curves(comparison, names, rows),
        conditions=comparison.model_dump(mode="json"),
    )


def _cell(outcomes: Sequence[Outcome]) -> Cell | None:
    if not outcomes:
        return None
    figures = [outcome.figures() for outcome in outcomes]
    columns = {name: [each[name] for each in figures] for name in figures[0]}
    spreads = {
        name: _spread([v for v in values if v is not None]) for name, values in columns.items() if None not in values
    }
    return Cell(len(outcomes), sum(outcome.reached for outcome in outcomes), spreads)


def _spread(values: Sequence[float]) -> Spread:
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)


def _curves(comparison: "Comparison", names: Sequence[str], rows: Sequence[Row]) -> dict[str, SearchCurve]:
    """Return each entry's curve over the evaluations: one in every budget's study at a time."""
    objective = TASKS.get(comparison.task).objective
    if SCORES.get(objective).better == "larger" or any(entry.objective != objective for entry in comparison.entries):
        return {}  # an area is dominated by the small values of one and the same score
    traces = {(row.entry, row.seed, row.budget): row.outcome.trace for row in rows if row.outcome is not None}
    values = [[step.value for step in trace if step.value is not None] for trace in traces.values()]
    finals = [min(seen) for seen in values if seen]
    if not finals:
        return {}
    corner = (max(Budget.parse(budget).value for budget in comparison.budgets), 1.05 * max(finals))
    spent: dict[str, np.ndarray] = {}
    for name in names:
        complete = []
        for seed in comparison.seeds:
            mine = [trace for (entry, of, _), trace in traces.items() if (entry, of) == (name, seed)]
            if len(mine) == len(comparison.budgets):
                complete.append([_until(mine, n, corner) for n in range(1, comparison.trials + 1)])
        if complete:
            spent[name] = np.array(complete)  # seeds x evaluations x (area, seconds, examples)
    top = max((float(table[:, -1, 0].mean()) for table in spent.values()), default=0.0)
    return {name: _curve(table, top) for name, table in spent.items()} if top else {}


def _curve(table: np.ndarray, top: float) -> SearchCurve:
    """Return an entry's curve of (seeds, evaluations, 3) areas, seconds and examples; ``top`` is the best area."""
    areas, seconds, examples = np.moveaxis(table, -1, 0)
    area = areas.mean(axis=0)
    near = np.flatnonzero(area >= NEARLY * top)
    deviation = areas.std(axis=0, ddof=1) / top if len(areas) > 1 else None
    return SearchCurve(
        area=tuple((area / top).round(5).tolist()),
        deviation=None if deviation is None else tuple(deviation.round(5).tolist()),
        seconds=tuple(seconds.mean(axis=0).round(1).tolist()),
        examples=tuple(examples.mean(axis=0).round().tolist()),
        evaluations=int(near[0]) + 1 if len(near) else None,
    )


def _until(traces: Sequence[Sequence[Step]], n: int, corner: tuple[float, float]) -> tuple[float, float, float]:
    """Return area, seconds and examples after n evaluations of each study, by their traces."""
    seen = [step for trace in traces for step in trace[:n]]
    points = [(step.ratio, step.value) for step in seen if step.value is not None]
    area = float(hypervolume(points, corner)) if points else 0.0
    return area, float(sum(step.seconds for step in seen)), float(sum(step.examples for step in seen))
