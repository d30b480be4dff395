"""The table and the plot of ``autolr compare``."""

from collections.abc import Iterator
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from autolr.errors import UsageError
from autolr.report.format import at_chance
from autolr.results.comparison import Cell, ComparisonSummary, Outcome, Spread
from autolr.scores import SCORES, TASKS
from autolr.spec.budgets import Budget


def comparison_table(summary: ComparisonSummary) -> Table:
    """Return the table: by budget, an entry a line, scores on the report part; it fits a terminal of 80 columns."""
    task, outcomes = TASKS.get(summary.task), summary.outcomes()
    examples = max((found.score.n for found in outcomes), default=0)
    objective = SCORES.get(task.objective)
    against = " from dense" if objective.against_dense else ""
    seeds = "1 seed" if len(summary.seeds) == 1 else f"{len(summary.seeds)} seeds: mean ± deviation"
    quantity = Budget.parse(summary.budgets[0]).quantity
    table = Table(
        box=SIMPLE_HEAD,
        title=f"Each winner on {examples} {task.noun} of the report part",
        caption=f"{summary.trials} trials each (a rule stops at its one), {seeds}. {_legend(summary)}; {quantity}: "
        f"reached, ratio to dense; {objective.title}: {objective.name}{against}",
        title_justify="left",
        caption_justify="left",
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("budget", no_wrap=True)
    table.add_column("entry", overflow="fold")
    for name in (_stated(summary) or "kept %", quantity, objective.title):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for budget in summary.budgets:
        for position, (name, by_budget) in enumerate(summary.table.items()):
            table.add_row("" if position else budget, name, *_cells(summary, by_budget[budget], name, budget))
        table.add_section()
    return table


def _stated(summary: ComparisonSummary) -> str | None:
    """Return the score that winners are stated by as it is: an exponential, or one of which less is better."""
    names = [name for found in summary.outcomes() for name in found.exponentials]
    headline = SCORES.get(TASKS.get(summary.task).headline)
    return names[0] if names else headline.name if headline.better == "smaller" else None


def _legend(summary: ComparisonSummary) -> str:
    stated = _stated(summary)
    if stated is None:
        return f"kept %: {TASKS.get(summary.task).headline}, share of dense"
    return f"{stated}: {SCORES.get(stated).help}"


def comparison_lines(summary: ComparisonSummary) -> Iterator[str]:
    """Return what stands below the table: what its marks mean, and what each search found, for what."""
    outcomes = summary.outcomes()
    guessed = [found.majority for found in outcomes if found.majority is not None and _guesses(found)]
    if guessed:
        commonest = f"{TASKS.get(summary.task).commonest} scores {100 * max(guessed):.1f} %"
        yield f"{_CHANCE} for some seed not distinguishably above chance: {commonest}"
    if any(not found.reached for found in outcomes):
        yield f"{_OVER} for some seed over the budget"
    for name, curve in summary.search.items():
        spread = "" if curve.deviation is None else f" ± {curve.deviation[-1]:.3f}"
        arrived = "never" if curve.evaluations is None else f"after {curve.evaluations}"
        yield (
            f"{name}: dominated area {curve.area[-1]:.3f}{spread} of the best, 99 % of the best {arrived}; "
            f"{curve.examples[-1]:,.0f} examples, {curve.seconds[-1]:,.0f} s"
        )


_CHANCE, _OVER = "?", "!"
"""Marks in the last column of the table."""


def _cells(summary: ComparisonSummary, cell: Cell | None, name: str, budget: str) -> tuple[str, str, str, str]:
    if cell is None:
        return "-", "-", "-", "not reachable"
    task, stated = TASKS.get(summary.task), _stated(summary)
    outcomes = summary.outcomes(name, budget)
    marks = [_CHANCE] * any(map(_guesses, outcomes)) + [_OVER] * (cell.reached < cell.seeds)
    if cell.seeds < len(summary.seeds):
        marks.append(f"{cell.seeds} of {len(summary.seeds)} seeds")
    if stated is None:
        kept = _with_spread(cell.figures.get(f"{task.headline}_ratio"), "{:.1f}", "{:.1f}", 100.0)
    else:
        kept = _with_spread(cell.figures.get(stated), "{:.3f}", "{:.3f}")
    objective = _with_spread(cell.figures.get(task.objective), "{:.3g}", "{:.1g}")
    return kept, f"{cell.figures['ratio'].mean:.3f}", objective, " ".join(marks)


def _with_spread(spread: Spread | None, value: str, error: str, scale: float = 1.0) -> str:
    if spread is None:
        return "-"
    shown = value.format(scale * spread.mean)
    return shown if spread.deviation is None else f"{shown} ± {error.format(scale * spread.deviation)}"


def _guesses(outcome: Outcome) -> bool:
    return at_chance(outcome.score, outcome.majority)


def plot_comparison(summary: ComparisonSummary, file: Path) -> None:
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
    figure = Figure(figsize=(13, 4), layout="constrained")
    headline = TASKS.get(summary.task).headline
    share = f"{headline}_ratio"
    quality, progress, clock = figure.subplots(1, 3)
    for name, by_budget in summary.table.items():
        figures = [cell.figures for cell in by_budget.values() if cell is not None and share in cell.figures]
        if figures:
            ratios = [figure["ratio"].mean for figure in figures]
            means = [figure[share].mean for figure in figures]
            errors = [figure[share].deviation or 0.0 for figure in figures]
            quality.errorbar(ratios, means, yerr=errors, marker="o", ms=4, lw=1, capsize=2, label=name)
        if search := summary.search.get(name):
            area, deviation = search.area, search.deviation or (0.0,) * len(search.area)
            low, high = zip(*((a - d, a + d) for a, d in zip(area, deviation, strict=True)), strict=True)
            for axes, x in ((progress, range(1, len(area) + 1)), (clock, search.seconds)):
                (line,) = axes.plot(x, area, lw=1, label=name, drawstyle="steps-post")
                axes.fill_between(x, low, high, color=line.get_color(), alpha=0.15, lw=0, step="post")
    quantity = summary.budgets[0].partition("-")[2]
    quality.set(xlabel=f"{quantity}, ratio to dense", ylabel=f"{headline}, ratio to dense")
    progress.set(xlabel="evaluations of each study", ylabel="dominated area, share of the best")
    clock.set(xlabel="seconds, all budgets' studies")
    floor = min((search.area[-1] for search in summary.search.values()), default=1.0)
    for axes in (progress, clock):
        axes.set_ylim(floor - 0.15, 1.02)
    budgets = ", ".join(summary.budgets)
    figure.suptitle(f"Winners on the report part, and what the searches found ({budgets})", fontsize="medium")
    quality.legend(frameon=False, fontsize="small")
    for axes in (quality, progress, clock):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
