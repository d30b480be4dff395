"""The table and the plot of ``autolr compare``."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from autolr.errors import UsageError
from autolr.records import Score
from autolr.report.format import at_chance
from autolr.scores import NLI, TASKS, ScoreKind, TaskKind
from autolr.scores.kind import SHARE
from autolr.spec.budgets import Budget


def comparison_table(summary: Mapping[str, Any]) -> Table:
    """Return the table: by budget, an entry a line, scores on the report part; it fits a terminal of 80 columns."""
    conditions, rows = summary["conditions"], summary["rows"]
    task = _task(summary)
    counts = [row[task.headline]["n"] for row in rows if task.headline in row]
    seeds = "1 seed" if len(conditions["seeds"]) == 1 else f"{len(conditions['seeds'])} seeds: mean ± deviation"
    quantity = Budget.parse(conditions["budgets"][0]).quantity
    name, legend = _stated(task)
    objective = task.score(task.objective)
    table = Table(
        box=SIMPLE_HEAD,
        title=f"Each winner on {max(counts, default=0)} report {task.noun}, which nothing was chosen on",
        caption=f"{conditions['trials']} trials each (a rule stops at its one), {seeds}. {legend}; {quantity}: "
        f"reached, ratio to dense; {objective.title}: {objective.help}",
        title_justify="left",
        caption_justify="left",
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("budget", no_wrap=True)
    table.add_column("entry", overflow="fold")
    for title in (name, quantity, objective.title):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for budget in conditions["budgets"]:
        for position, (entry, by_budget) in enumerate(summary["table"].items()):
            of_cell = [row for row in rows if (row["entry"], row["budget"]) == (entry, budget) and "trace" in row]
            cells = _cells(task, by_budget[budget], of_cell, len(conditions["seeds"]))
            table.add_row("" if position else budget, entry, *cells)
        table.add_section()
    return table


def comparison_lines(summary: Mapping[str, Any]) -> Iterator[str]:
    """Return what stands below the table: what its marks mean, and what each search found, for what."""
    rows, task = [row for row in summary["rows"] if "trace" in row], _task(summary)
    if any(_guesses(task, row) for row in rows):
        most = max(row["majority"] for row in rows if row.get("majority") is not None)
        shown = f"{100 * most:.1f} %" if task.score(task.headline).unit == SHARE else f"{most:.3g}"
        yield f"{_CHANCE} for some seed not distinguishably above chance: {task.commonest} scores {shown}"
    if any(not row["reached"] for row in rows):
        yield f"{_OVER} for some seed over the budget"
    for name, found in summary["search"].items():
        spread = "" if found["deviation"] is None else f" ± {found['deviation'][-1]:.3f}"
        arrived = "never" if found["evaluations"] is None else f"after {found['evaluations']}"
        yield (
            f"{name}: dominated area {found['area'][-1]:.3f}{spread} of the best, 99 % of the best {arrived}; "
            f"{found['examples'][-1]:,.0f} examples, {found['seconds'][-1]:,.0f} s"
        )


_CHANCE, _OVER = "?", "!"
"""Marks in the last column of the table."""


def _task(summary: Mapping[str, Any]) -> TaskKind:
    return TASKS.get(summary["conditions"].get("task", NLI.name))


def _stated(task: TaskKind) -> tuple[str, str]:
    """Return the title of the column of what is kept, and what it means."""
    headline = task.score(task.headline)
    if task.exponential is not None:
        return task.exponential.name, f"{task.exponential.name}: {task.exponential.help}"
    if headline.better == "larger":
        return "kept %", f"kept %: {headline.name}, share of dense"
    return headline.title, f"{headline.title}: {headline.help}"


def _kept(task: TaskKind, found: Mapping[str, Any]) -> str:
    """Return what is kept, with its deviation over the seeds."""
    headline = task.score(task.headline)
    if task.exponential is not None:
        value, spread = found[task.exponential.name]
        return f"{value:.3f}" + ("" if spread is None else f" ± {spread:.3f}")
    if headline.better == "larger" and f"{headline.name}_ratio" in found:
        share, spread = found[f"{headline.name}_ratio"]
        return f"{100 * share:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")
    return _plain(headline, *found[headline.name])


def _plain(kind: ScoreKind, value: float, deviation: float | None) -> str:
    if deviation is not None:
        return kind.show(value, deviation)
    return f"{100 * value:.1f}" if kind.unit == SHARE else f"{value:.3g}"


def _cells(
    task: TaskKind, found: Mapping[str, Any] | None, rows: Sequence[Mapping[str, Any]], seeds: int
) -> tuple[str, str, str, str]:
    if found is None:
        return "-", "-", "-", "not reachable"
    marks = [_CHANCE] * any(_guesses(task, row) for row in rows) + [_OVER] * (found["reached"] < found["seeds"])
    if found["seeds"] < seeds:
        marks.append(f"{found['seeds']} of {seeds} seeds")
    ratio = found["ratio"][0]
    objective = _plain(task.score(task.objective), *found[task.objective])
    return _kept(task, found), f"{ratio:.3f}", objective, " ".join(marks)


def _guesses(task: TaskKind, row: Mapping[str, Any]) -> bool:
    return at_chance(Score.from_json(row[task.headline]), row.get("majority"))


def plot_comparison(summary: Mapping[str, Any], file: Path) -> None:
    """Draw the headline score against the ratio reached, and the dominated area against evaluations and seconds.

    Args:
        summary: of the comparison.
        file: to write; its ending names the format.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("the plot needs matplotlib: pip install 'autolr[plots]'") from error
    task = _task(summary)
    figure = Figure(figsize=(13, 4), layout="constrained")
    quality, progress, clock = figure.subplots(1, 3)
    for name, by_budget in summary["table"].items():
        drawn = f"{task.headline}_ratio"
        found = [(one["ratio"][0], one[drawn]) for one in by_budget.values() if one is not None and drawn in one]
        if found:
            ratios = [ratio for ratio, _ in found]
            means, errors = zip(*((mean, deviation or 0.0) for _, (mean, deviation) in found), strict=True)
            quality.errorbar(ratios, means, yerr=errors, marker="o", ms=4, lw=1, capsize=2, label=name)
        if search := summary["search"].get(name):
            area, deviation = search["area"], search["deviation"] or [0.0] * len(search["area"])
            low, high = zip(*((a - d, a + d) for a, d in zip(area, deviation, strict=True)), strict=True)
            for axes, x in ((progress, range(1, len(area) + 1)), (clock, search["seconds"])):
                (line,) = axes.plot(x, area, lw=1, label=name, drawstyle="steps-post")
                axes.fill_between(x, low, high, color=line.get_color(), alpha=0.15, lw=0, step="post")
    quantity = summary["conditions"]["budgets"][0].partition("-")[2]
    quality.set(xlabel=f"{quantity}, ratio to dense", ylabel=f"{task.headline}, ratio to dense")
    progress.set(xlabel="evaluations of each study", ylabel="dominated area, share of the best")
    clock.set(xlabel="seconds, all budgets' studies")
    floor = min((one["area"][-1] for one in summary["search"].values()), default=1.0)
    for axes in (progress, clock):
        axes.set_ylim(floor - 0.15, 1.02)
    budgets = ", ".join(summary["conditions"]["budgets"])
    figure.suptitle(f"Winners on the report part, and what the searches found ({budgets})", fontsize="medium")
    quality.legend(frameon=False, fontsize="small")
    for axes in (quality, progress, clock):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
