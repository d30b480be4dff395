"""The table and the plot of ``autolr compare``."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from autolr.errors import UsageError
from autolr.records import Score
from autolr.report.format import at_chance
from autolr.spec.budgets import Budget


def comparison_table(summary: Mapping[str, Any]) -> Table:
    """Return the table: by budget, an entry a line, scores on the report part; it fits a terminal of 80 columns."""
    conditions, rows = summary["conditions"], summary["rows"]
    counts = [row["accuracy"]["n"] for row in rows if "accuracy" in row]
    seeds = "1 seed" if len(conditions["seeds"]) == 1 else f"{len(conditions['seeds'])} seeds: mean ± deviation"
    quantity = Budget.parse(conditions["budgets"][0]).quantity
    lm = conditions.get("task") == "lm"
    noun = "blocks" if lm else "pairs"
    legend = "perplexity: exp of the mean loss" if lm else "kept %: accuracy, share of dense"
    table = Table(
        box=SIMPLE_HEAD,
        title=f"Each winner on {max(counts, default=0)} report {noun}, which nothing was chosen on",
        caption=f"{conditions['trials']} trials each (a rule stops at its one), {seeds}. {legend}; {quantity}: "
        f"reached, ratio to dense; nats: divergence from dense",
        title_justify="left",
        caption_justify="left",
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("budget", no_wrap=True)
    table.add_column("entry", overflow="fold")
    for name in ("perplexity" if lm else "kept %", quantity, "nats"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for budget in conditions["budgets"]:
        for position, (name, by_budget) in enumerate(summary["table"].items()):
            of_cell = [row for row in rows if (row["entry"], row["budget"]) == (name, budget) and "accuracy" in row]
            cells = _cells(by_budget[budget], of_cell, len(conditions["seeds"]))
            table.add_row("" if position else budget, name, *cells)
        table.add_section()
    return table


def comparison_lines(summary: Mapping[str, Any]) -> Iterator[str]:
    """Return what stands below the table: what its marks mean, and what each search found, for what."""
    rows = [row for row in summary["rows"] if "accuracy" in row]
    if any(_guesses(row) for row in rows):
        share = 100 * max(row["majority"] for row in rows if "majority" in row)
        yield f"{_CHANCE} for some seed not distinguishably above chance, the commonest label's {share:.1f} %"
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


def _cells(found: Mapping[str, Any] | None, rows: Sequence[Mapping[str, Any]], seeds: int) -> tuple[str, str, str, str]:
    if found is None:
        return "-", "-", "-", "not reachable"
    marks = [_CHANCE] * any(_guesses(row) for row in rows) + [_OVER] * (found["reached"] < found["seeds"])
    if found["seeds"] < seeds:
        marks.append(f"{found['seeds']} of {seeds} seeds")
    ratio = found["ratio"][0]
    if "perplexity" in found:
        value, spread = found["perplexity"]
        kept = f"{value:.3f}" + ("" if spread is None else f" ± {spread:.3f}")
    else:
        share, spread = found["accuracy_ratio"]
        kept = f"{100 * share:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")
    nats, deviation = found["divergence"]
    divergence = f"{nats:.3g}" + ("" if deviation is None else f" ± {deviation:.1g}")
    return kept, f"{ratio:.3f}", divergence, " ".join(marks)


def _guesses(row: Mapping[str, Any]) -> bool:
    return "majority" in row and at_chance(Score.from_json(row["accuracy"]), row["majority"])


def plot_comparison(summary: Mapping[str, Any], file: Path) -> None:
    """Draw accuracy against the ratio reached, and the dominated area against evaluations and seconds.

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
    quality, progress, clock = figure.subplots(1, 3)
    for name, by_budget in summary["table"].items():
        found = [(one["ratio"][0], one["accuracy_ratio"]) for one in by_budget.values() if one is not None]
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
    quality.set(xlabel=f"{quantity}, ratio to dense", ylabel="accuracy, ratio to dense")
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
