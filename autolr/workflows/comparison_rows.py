"""What a comparison's studies found, one by one and in summary: accuracy kept, and the area that fronts dominate."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autolr.pareto import hypervolume
from autolr.results import StudyResult
from autolr.scores import DIVERGENCE, TASKS, TaskKind
from autolr.search.study.folder import StudyFolder
from autolr.search.study.front import scored
from autolr.search.study.trial_record import TrialRecord
from autolr.spec.budgets import Budget

NEARLY = 0.99
"""Share of the best entry's final area that counts as having arrived."""


def outcome(folder: StudyFolder, task: TaskKind, budget: str, result: StudyResult) -> dict[str, Any]:
    """Return what one finished study found.

    Args:
        folder: of the study.
        task: of the study.
        budget: its first.
        result: of the study.

    Returns:
        The winner's scores on the report part and its ratio, and ``trace``, for each evaluation in turn the seconds and
        the examples it took, its ratio and its objective; None where it was over the budget or stopped.
    """
    report, quantity, stated = result.report.to_json(), Budget.parse(budget).quantity, task.exponential
    trace = []
    for record in map(TrialRecord.of, scored(folder.load_study())):
        anew = record.same_as is None and record.candidate.choices
        examples = next(iter(record.scores.values())).n if anew else 0
        value = record.values[0] if record.feasible and not record.stopped else None
        trace.append([round(sum(record.seconds.values()), 3), examples, record.cost.ratios[quantity], value])
    return {
        "reached": result.reached,
        "ratio": result.winning.cost.ratios[quantity],
        task.headline: report["compressed"][task.headline],
        f"dense_{task.headline}": report["dense"][task.headline],
        f"{task.headline}_ratio": report[f"{task.headline}_ratio"],
        "majority": report["majority"],
        task.objective: report["compressed"][task.objective],
        **({} if stated is None else {stated.name: report[stated.name]["compressed"]}),
        "trials": result.trials,
        "trace": trace,
    }


def summarize_rows(conditions: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the summary of the studies that are finished.

    Args:
        conditions: of the comparison: entries, budgets, seeds, trials.
        rows: named :func:`outcome` of each study; those of a budget out of reach have a ``reason`` instead.

    Returns:
        ``rows``; ``table``, entry -> budget -> mean and standard deviation over the seeds; ``search``, entry -> after
        each evaluation (one in every budget's study) the area dominated by what all budgets' studies found so far, as
        a share of the best entry's at the end: ``area`` its mean over the seeds, ``deviation``, ``seconds`` and
        ``examples`` spent until then, and ``evaluations``, the first after which the mean area is ``NEARLY`` 1 (None:
        never). ``search`` is empty where the entries do not search by one and the same divergence.
    """
    names, task = [entry["name"] for entry in conditions["entries"]], TASKS.get(conditions["task"])
    done = [row for row in rows if "trace" in row]
    table = {
        name: {
            budget: _moments(task, [row for row in done if (row["entry"], row["budget"]) == (name, budget)])
            for budget in conditions["budgets"]
        }
        for name in names
    }
    return {"rows": list(rows), "table": table, "search": _progress(conditions, names, done)}


def _moments(task: TaskKind, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if not rows:
        return None
    found: dict[str, Any] = {"seeds": len(rows), "reached": sum(row["reached"] for row in rows)}
    stated = [] if task.exponential is None else [task.exponential.name]
    for name in (f"{task.headline}_ratio", task.headline, task.objective, "ratio", *stated):
        values = [row[name]["value"] if isinstance(row[name], dict) else row[name] for row in rows]
        if None in values:  # a share of a dense model that scores zero
            continue
        found[name] = [float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None]
    return found


def _progress(
    conditions: Mapping[str, Any], names: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    if any(entry["objective"] != DIVERGENCE.name for entry in conditions["entries"]):
        return {}
    best = [min((v for *_, v in row["trace"] if v is not None), default=None) for row in rows]
    finals = [value for value in best if value is not None]
    if not finals:
        return {}
    corner = (max(Budget.parse(budget).value for budget in conditions["budgets"]), 1.05 * max(finals))
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        complete = []
        for seed in conditions["seeds"]:
            mine = [row["trace"] for row in rows if (row["entry"], row["seed"]) == (name, seed)]
            if len(mine) == len(conditions["budgets"]):
                complete.append([_until(mine, n, corner) for n in range(1, conditions["trials"] + 1)])
        if complete:
            areas, seconds, examples = np.moveaxis(np.array(complete), -1, 0)
            several = len(complete) > 1
            found[name] = {
                "area": areas.mean(axis=0),
                "deviation": areas.std(axis=0, ddof=1) if several else None,
                "seconds": seconds.mean(axis=0).round(1).tolist(),
                "examples": examples.mean(axis=0).round().tolist(),
            }
    top = max((float(one["area"][-1]) for one in found.values()), default=0.0)
    if not top:
        return {}
    for one in found.values():
        near = np.flatnonzero(one["area"] >= NEARLY * top)
        one["evaluations"] = int(near[0]) + 1 if len(near) else None
        one["area"] = (one["area"] / top).round(5).tolist()
        one["deviation"] = None if one["deviation"] is None else (one["deviation"] / top).round(5).tolist()
    return found


def _until(
    traces: Sequence[Sequence[Sequence[Any]]], n: int, corner: tuple[float, float]
) -> tuple[float, float, float]:
    """Return area, seconds and examples after n evaluations of each study, by their traces."""
    seen = [step for trace in traces for step in trace[:n]]
    points = [(ratio, value) for _, _, ratio, value in seen if value is not None]
    area = float(hypervolume(points, corner)) if points else 0.0
    return area, float(sum(step[0] for step in seen)), float(sum(step[1] for step in seen))
