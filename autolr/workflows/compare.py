"""Several ways to search, at equal budgets, equal evaluations and equal seeds: one study each, one summary.

A folder holds ``<entry>/<budget>/seed-<n>/``, each an ordinary study, and one bank for each seed that the studies
share. What is finished is not run again.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter, model_validator

from autolr.errors import BudgetError
from autolr.forms import get_forms
from autolr.machine.atomic import write_atomically
from autolr.methods import matrix_methods
from autolr.optimization.sampler.registry import SAMPLERS
from autolr.optimization.study.folder import StudyFolder
from autolr.progress import Progress
from autolr.recovery.registry import RECOVERIES
from autolr.results.comparison import ComparisonSummary, Row
from autolr.scores import NLI, TASKS
from autolr.spec.budgets import Budget
from autolr.spec.plain import Strict, parse_plain, read_yaml
from autolr.spec.spaces import load_space_config, presets
from autolr.spec.study import DataSpec, RunSpec, SearchSpec, StudySpec, make_spec
from autolr.workflows.comparison_rows import outcome, summarize_rows
from autolr.workflows.search import run_search


class Entry(Strict):
    """One way to search.

    Attributes:
        name: in the table; unique.
        space: a preset's name or a YAML file.
        sampler: as ``autolr search --sampler``.
        methods: none: those the space names, else the defaults.
        forms: as ``autolr search --form``; none: all that the methods and the space allow.
        objective: as ``autolr search --objective``; empty: the task's own.
        probe_axis: whether the probes are a third objective.
        refit: whether finalists get a recovery.
        recovery: which; empty: the one that the space names, else ``refit``.
        racing: whether candidates are scored on growing parts of the search data.
        proposals: as ``autolr search --proposals``.
    """

    name: Annotated[str, Field(min_length=1)]
    space: str = "importance"
    sampler: str = "botorch"
    methods: tuple[str, ...] = ()
    forms: tuple[str, ...] = ()
    objective: str = ""
    probe_axis: bool = False
    refit: bool = True
    recovery: str = ""
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
    task: str = NLI.name
    data: DataSpec = DataSpec()
    run: RunSpec = RunSpec()
    budgets: Annotated[tuple[Annotated[str, AfterValidator(_relative)], ...], Field(min_length=1)]
    entries: Annotated[tuple[Entry, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    trials: Annotated[int, Field(ge=1)] = 40
    multiple: Annotated[int, Field(ge=1)] = 8

    @model_validator(mode="after")
    def _comparable(self) -> "Comparison":
        objective = TASKS.get(self.task).objective
        entries = [
            entry if entry.objective else entry.model_copy(update={"objective": objective}) for entry in self.entries
        ]
        object.__setattr__(self, "entries", tuple(entries))  # the record is frozen, and this is still its construction
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
    return parse_comparison(read_yaml(file), str(file), file.parent)


def parse_comparison(plain: Any, origin: str, folder: Path) -> Comparison:
    """Build a comparison from plain values.

    Args:
        plain: nested mappings, as the YAML file has them.
        origin: what they came from, for messages.
        folder: that paths in it are relative to.

    Raises:
        UsageError: it is malformed; a space, sampler or method it names does not exist.
    """
    comparison: Comparison = parse_plain(TypeAdapter(Comparison), plain, origin, Comparison)

    def beside(text: str | None) -> str | None:
        path = None if text is None else folder / Path(text).expanduser()
        return str(path.resolve()) if path is not None and path.exists() else text

    parts = () if comparison.data.dataset else ("train", "validation", "test")  # of a data set they name splits
    data = {name: beside(getattr(comparison.data, name)) for name in parts}
    entries = [
        entry if entry.space in presets() else entry.model_copy(update={"space": beside(entry.space)})
        for entry in comparison.entries
    ]
    for entry in entries:
        load_space_config(entry.space)
        SAMPLERS.get(entry.sampler)
        matrix_methods(entry.methods)
        if entry.recovery:
            RECOVERIES.get(entry.recovery)
        get_forms(entry.forms)
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
    space = load_space_config(entry.space)
    own = {
        "methods": entry.methods or space.methods or SearchSpec().methods,
        "recovery": entry.recovery or space.recovery or SearchSpec().recovery,
    }
    search = entry.model_dump(mode="json", exclude={"name"}) | own | {"multiple": comparison.multiple}
    plain = {
        "model": comparison.model,
        "task": comparison.task,
        "data": comparison.data.model_dump(mode="json"),
        "run": comparison.run.model_dump(mode="json"),
        "budgets": [budget],
        "trials": comparison.trials,
        "seed": seed,
        "search": search,
    }
    return make_spec(plain, f"entry {entry.name!r}")


def compare(comparison: Comparison, out: Path, progress: Progress) -> ComparisonSummary:
    """Run what is not finished and return the summary; comparison.json is rewritten after every study.

    Args:
        comparison: what to compare.
        out: the folder; an older comparison there goes on.
        progress: told what is under way.

    Raises:
        UsageError: something given cannot be used.
        Stopped: a signal ended the work; the same command goes on.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    todo = list(cells(comparison, out))
    for number, cell in enumerate(todo):
        name = cell.entry.name
        progress.note(f"{number + 1} of {len(todo)}: {name}, {cell.budget}, seed {cell.seed}")
        try:
            result = run_search(cell.spec, cell.folder, progress, checkpoint=False)
        except BudgetError as error:
            progress.note(f"{name} does not reach {cell.budget}: {error}")
            rows.append(Row(name, cell.budget, cell.seed, None, str(error)))
        else:
            found = outcome(cell.folder, cell.budget, comparison.task, result)
            rows.append(Row(name, cell.budget, cell.seed, found))
        summary = summarize_rows(comparison, rows)
        write_atomically(out / "comparison.json", json.dumps(summary.to_json(), indent=1) + "\n")
    return summary
