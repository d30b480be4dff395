"""Several ways to search, at equal budgets, equal evaluations and equal seeds: one study each, one summary.

A folder holds ``<entry>/<budget>/seed-<n>/``, each an ordinary study, and one bank for each seed that the studies
share. What is finished is not run again.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from optuna.study import StudyDirection
from pydantic import AfterValidator, Field, TypeAdapter, model_validator

from autolr.config import Budget, DataSpec, RunSpec, SearchSpec, Strict, StudySpec, make_spec, parse_plain, read_yaml
from autolr.errors import BudgetError
from autolr.factorize import get_methods
from autolr.pareto import hypervolume
from autolr.progress import Progress
from autolr.search.folder import StudyFolder, write_atomically
from autolr.search.front import feasible, finished
from autolr.search.run import run_search
from autolr.search.sampler import check_sampler
from autolr.search.spaces.configs import load_space_config, presets


class Entry(Strict):
    """One way to search.

    Attributes:
        name: in the table; unique.
        space: a preset's name or a YAML file.
        sampler: as ``autolr search --sampler``.
        methods: none: those the space names, else the defaults.
        objective: as ``autolr search --objective``.
        refit: whether finalists are refitted.
        racing: whether candidates are scored on growing parts of the search data.
        proposals: as ``autolr search --proposals``.
    """

    name: Annotated[str, Field(min_length=1)]
    space: str = "importance"
    sampler: str = "botorch"
    methods: tuple[str, ...] = ()
    objective: str = "divergence"
    refit: bool = True
    racing: bool = True
    proposals: Annotated[int, Field(ge=1)] | None = None


def _relative(text: str) -> str:
    budget = Budget.parse(text)
    if not budget.relative:
        raise ValueError("a comparison needs budgets relative to the dense model, such as 0.5x-flops")
    return text


class Comparison(Strict):
    """The YAML file of ``autolr compare``."""

    model: str | None = None
    data: DataSpec = DataSpec()
    run: RunSpec = RunSpec()
    budgets: Annotated[tuple[Annotated[str, AfterValidator(_relative)], ...], Field(min_length=1)]
    entries: Annotated[tuple[Entry, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    trials: Annotated[int, Field(ge=1)] = 40
    multiple: Annotated[int, Field(ge=1)] = 8

    @model_validator(mode="after")
    def _comparable(self) -> "Comparison":
        names = [slug(entry.name) for entry in self.entries]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"entries: the name {twice[0]!r} is given twice")
        for name in ("budgets", "seeds"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name}: one is given twice")
        quantities = {Budget.parse(text).quantity for text in self.budgets}
        if len(quantities) > 1:
            raise ValueError(f"budgets must be of one quantity, got {', '.join(sorted(quantities))}")
        return self


@dataclass(frozen=True)
class Cell:
    """One study of a comparison."""

    entry: Entry
    budget: str
    seed: int
    spec: StudySpec
    folder: StudyFolder


def slug(text: str) -> str:
    """Return a text as the name of a folder.

    Example:
        >>> slug("uniform SVD, refitted")
        'uniform-SVD-refitted'
    """
    return re.sub(r"[^\w.%-]+", "-", text).strip("-")


def read_comparison(file: Path) -> Comparison:
    """Read the YAML file; paths in it are relative to it.

    Raises:
        UsageError: it is missing or malformed; a space, sampler or method it names does not exist.
    """
    comparison: Comparison = parse_plain(TypeAdapter(Comparison), read_yaml(file), str(file), Comparison)

    def beside(text: str | None) -> str | None:
        path = None if text is None else file.parent / Path(text).expanduser()
        return str(path.resolve()) if path is not None and path.exists() else text

    parts = () if comparison.data.dataset else ("train", "validation", "test")  # of a data set they name splits
    data = {name: beside(getattr(comparison.data, name)) for name in parts}
    entries = [
        entry if entry.space in presets() else entry.model_copy(update={"space": beside(entry.space)})
        for entry in comparison.entries
    ]
    for entry in entries:
        load_space_config(entry.space)
        check_sampler(entry.sampler)
        get_methods(entry.methods)
    changes = {
        "model": beside(comparison.model),
        "data": comparison.data.model_copy(update=data),
        "entries": tuple(entries),
    }
    return comparison.model_copy(update=changes)


def cells(comparison: Comparison, out: Path) -> Iterator[Cell]:
    """Return the studies: all entries at one seed and budget before the next, so that a part can be compared."""
    for seed in comparison.seeds:
        for budget in comparison.budgets:
            for entry in comparison.entries:
                folder = StudyFolder(out / slug(entry.name) / budget / f"seed-{seed}")
                folder.bank = out / f"bank-{seed}"
                yield Cell(entry, budget, seed, _spec(comparison, entry, budget, seed), folder)


def _spec(comparison: Comparison, entry: Entry, budget: str, seed: int) -> StudySpec:
    methods = entry.methods or load_space_config(entry.space).methods or SearchSpec().methods
    search = entry.model_dump(mode="json", exclude={"name"}) | {"methods": methods, "multiple": comparison.multiple}
    plain = {
        "model": comparison.model,
        "data": comparison.data.model_dump(mode="json"),
        "run": comparison.run.model_dump(mode="json"),
        "budgets": [budget],
        "trials": comparison.trials,
        "seed": seed,
        "search": search,
    }
    return make_spec(plain, f"entry {entry.name!r}")


def compare(comparison: Comparison, out: Path, progress: Progress) -> dict[str, Any]:
    """Run what is not finished and return the summary, which is rewritten after every study.

    Args:
        comparison: what to compare.
        out: the folder; an older comparison there goes on.
        progress: told what is under way.

    Raises:
        UsageError: something given cannot be used.
        Stopped: a signal ended the work; the same command goes on.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    todo = list(cells(comparison, out))
    for number, cell in enumerate(todo):
        progress.note(f"{number + 1} of {len(todo)}: {cell.entry.name}, {cell.budget}, seed {cell.seed}")
        try:
            result = run_search(cell.spec, cell.folder, progress, checkpoint=False)
        except BudgetError as error:
            progress.note(f"{cell.entry.name} does not reach {cell.budget}: {error}")
            rows.append({"entry": cell.entry.name, "budget": cell.budget, "seed": cell.seed, "reason": str(error)})
        else:
            rows.append(_row(cell, result))
        summary = summarize_comparison(comparison, rows)
        write_atomically(out / "comparison.json", json.dumps(summary, indent=1) + "\n")
    return summary


def _row(cell: Cell, result: Mapping[str, Any]) -> dict[str, Any]:
    report = result["report"]
    winner = next(one for one in result["members"] if one["trial"] == result["winner"])
    study = cell.folder.load_study()
    sign = 1.0 if study.directions[0] == StudyDirection.MINIMIZE else -1.0
    best, seconds, history = np.inf, 0.0, []
    for trial in finished(study):
        seconds += sum(trial.user_attrs["seconds"].values())
        if feasible(trial):
            best = min(best, sign * trial.values[0])
        history.append([round(seconds, 3), None if np.isinf(best) else sign * best])
    return {
        "entry": cell.entry.name,
        "budget": cell.budget,
        "seed": cell.seed,
        "reached": result["reached"],
        "ratio": winner["costs"]["ratio"][Budget.parse(cell.budget).quantity],
        "accuracy": report["compressed"]["accuracy"],
        "dense_accuracy": report["dense"]["accuracy"],
        "accuracy_ratio": report["accuracy_ratio"],
        "divergence": report["compressed"]["divergence"],
        "trials": result["trials"],
        "history": history,
    }


def summarize_comparison(comparison: Comparison, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the summary of the studies that are finished.

    Returns:
        ``rows``, one for each study: report-part scores of its winner, ``history`` with [seconds so far, best objective
        of the search so far] after each evaluation; ``table``, entry -> budget -> mean and standard deviation over the
        seeds; ``hypervolume``, entry -> for each evaluation the mean over the seeds of the area that the winners so far
        dominate over all budgets, as a share of the best entry's at the end.
    """
    names = [entry.name for entry in comparison.entries]
    done = [row for row in rows if "history" in row]
    table = {
        name: {
            budget: _moments([row for row in done if (row["entry"], row["budget"]) == (name, budget)])
            for budget in comparison.budgets
        }
        for name in names
    }
    return {
        "conditions": comparison.model_dump(mode="json"),
        "rows": list(rows),
        "table": table,
        "hypervolume": _hypervolumes(comparison, names, done),
    }


def _moments(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if not rows:
        return None
    found: dict[str, Any] = {"seeds": len(rows), "reached": sum(row["reached"] for row in rows)}
    for name in ("accuracy_ratio", "divergence", "ratio"):
        values = [row[name]["value"] if isinstance(row[name], dict) else row[name] for row in rows]
        found[name] = [float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None]
    return found


def _hypervolumes(
    comparison: Comparison, names: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> dict[str, list[float]]:
    """Return the curves; empty where the entries do not search by one and the same divergence."""
    if any(entry.objective != "divergence" for entry in comparison.entries):
        return {}
    finals = [row["history"][-1][1] for row in rows if row["history"][-1][1] is not None]
    if not finals:
        return {}
    reference = (1.0, 1.05 * max(finals))
    shares = {budget: Budget.parse(budget).value for budget in comparison.budgets}
    curves: dict[str, np.ndarray] = {}
    for name in names:
        of_seed = []
        for seed in comparison.seeds:
            mine = [row for row in rows if (row["entry"], row["seed"]) == (name, seed)]
            if len(mine) == len(shares):
                of_seed.append([_area(mine, shares, n, reference) for n in range(comparison.trials)])
        if of_seed:
            curves[name] = np.mean(of_seed, axis=0)
    top = max((float(curve[-1]) for curve in curves.values()), default=0.0)
    return {name: [round(float(area) / top, 5) for area in curve] for name, curve in curves.items()} if top else {}


def _area(
    rows: Sequence[Mapping[str, Any]], shares: Mapping[str, float], n: int, reference: tuple[float, float]
) -> float:
    points = [(shares[row["budget"]], row["history"][min(n, len(row["history"]) - 1)][1]) for row in rows]
    reached = [point for point in points if point[1] is not None]
    return hypervolume(reached, reference) if reached else 0.0
