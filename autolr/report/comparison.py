"""The table and the plot of ``autolr compare``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from autolr.errors import UsageError


def comparison_table(summary: Mapping[str, Any]) -> Table:
    """Return the table: an entry a line, a budget a column, accuracy on the report part as a share of dense."""
    conditions, rows = summary["conditions"], summary["rows"]
    counts = [row["accuracy"]["n"] for row in rows if "accuracy" in row]
    n = max(counts, default=0)
    seeds = "1 seed" if len(conditions["seeds"]) == 1 else f"{len(conditions['seeds'])} seeds: mean ± deviation"
    table = Table(
        box=SIMPLE_HEAD,
        title="Accuracy, share of dense in percent",
        caption=f"{conditions['trials']} trials each (a rule stops at its one), {seeds}; on {n} report pairs, "
        "which nothing was chosen on; hv: hypervolume over the budgets of what the searches found, by divergence, as a "
        "share of the best",
    )
    table.add_column("entry", no_wrap=True)
    for budget in conditions["budgets"]:
        table.add_column(budget, justify="right", no_wrap=True)
    if summary["hypervolume"]:
        table.add_column("hv", justify="right")
    for name, by_budget in summary["table"].items():
        shown = [_cell(by_budget[budget], len(conditions["seeds"])) for budget in conditions["budgets"]]
        if summary["hypervolume"]:
            curve = summary["hypervolume"].get(name)
            shown.append(f"{curve[-1]:.3f}" if curve else "-")
        table.add_row(name, *shown)
    return table


def _cell(found: Mapping[str, Any] | None, seeds: int) -> str:
    if found is None:
        return "-"
    mean, deviation = found["accuracy_ratio"]
    text = f"{100 * mean:.1f}" + ("" if deviation is None else f" ± {100 * deviation:.1f}")
    if found["seeds"] < seeds:
        text = f"{text} ({found['seeds']} of {seeds})"
    return text if found["reached"] == found["seeds"] else f"{text} (over)"


def plot_comparison(summary: Mapping[str, Any], file: Path) -> None:
    """Draw accuracy against budget and the area against evaluations.

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
    figure = Figure(figsize=(10, 4), layout="constrained")
    quality, progress = figure.subplots(1, 2)
    for name, by_budget in summary["table"].items():
        found = [(one["ratio"][0], one["accuracy_ratio"]) for one in by_budget.values() if one is not None]
        if found:
            ratios = [ratio for ratio, _ in found]
            means, errors = zip(*((mean, deviation or 0.0) for _, (mean, deviation) in found), strict=True)
            quality.errorbar(ratios, means, yerr=errors, marker="o", ms=4, lw=1, capsize=2, label=name)
        if curve := summary["hypervolume"].get(name):
            progress.plot(range(1, len(curve) + 1), curve, lw=1, label=name)
    quantity = summary["conditions"]["budgets"][0].partition("-")[2]
    quality.set(xlabel=f"{quantity}, ratio to dense", ylabel="accuracy, ratio to dense")
    progress.set(xlabel="evaluations", ylabel="dominated area, share of the best")
    quality.legend(frameon=False, fontsize="small")
    for axes in (quality, progress):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
