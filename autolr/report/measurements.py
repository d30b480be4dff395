"""What the measuring commands print: ``autolr eval``, ``estimate`` and ``bench``, from the forms they have as JSON."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from autolr.records import Conditions, Score
from autolr.report.format import amount, at_chance, conditions_line, percent
from autolr.report.sentences import commonest_sentence
from autolr.scores import TASKS


def evaluation_line(found: Mapping[str, Any]) -> str:
    """Return what ``autolr eval`` found.

    Example:
        >>> evaluation_line({"accuracy": 0.8125, "stderr": 0.01, "n": 1500, "noun": "pairs"})
        'accuracy 81.2 ± 1.0 % (standard error) on 1500 pairs'
    """
    shown = percent(Score(found["accuracy"], found["stderr"], found["n"]))
    line = f"accuracy {shown} % (standard error) on {found['n']} {found['noun']}"
    if "perplexity" in found:
        error = found["perplexity"] * found["loss_stderr"]
        line = f"perplexity {found['perplexity']:.3f} ± {error:.3f}; next-token {line}"
    return line


def chance_warning(found: Mapping[str, Any], task: str) -> str | None:
    """Return the warning of ``autolr eval`` where the checkpoint only guesses, else None."""
    if not at_chance(Score(found["accuracy"], found["stderr"], found["n"]), found["majority"]):
        return None
    return (
        f"{commonest_sentence(task, found['majority'])}, and the checkpoint is not distinguishably better; check "
        f"{TASKS.get(task).check}, or take a larger budget"
    )


def estimate_table(found: Mapping[str, Any]) -> Iterator[Table | str]:
    """Return the estimate: budgets, time, disk, what is left dense."""
    yield f"{found['model']}: {found['layers']} compressible layers"
    table = Table()
    predicted = any(row["predicted_divergence"] is not None for row in found["budgets"])
    for name in ("budget", "dense", "limit", "lowest", "reachable", *["predicted nats"] * predicted):
        table.add_column(name, justify="left" if name == "budget" else "right")
    for row in found["budgets"]:
        quality = row["predicted_divergence"]
        table.add_row(
            row["budget"],
            amount(row["dense"], row["quantity"]),
            amount(row["limit"], row["quantity"]),
            f"{row['lowest_ratio']:.3f}x",
            "yes" if row["reachable"] else "no",
            *["-" if quality is None else f"{quality:.4f}"] * predicted,
        )
    yield table
    clock = found["latency"]
    if clock is not None:
        yield (
            f"latency: predicted, within {100 * clock['median_error']:.1f} % (median over whole models that were "
            f"timed; worst {100 * clock['worst_error']:.1f} %); {_conditions(clock)}"
        )
    if not predicted:
        yield "quality: predicted once a search of these inputs has calibrated"
    stages = ", ".join(f"{name} {value:.0f} s" for name, value in found["seconds"].items() if name != "total")
    yield f"time on this device: about {found['seconds']['total']:.0f} s ({stages})"
    passing = f", and {found['passing_bytes'] / 1e6:.0f} MB while it calibrates" if found["passing_bytes"] else ""
    yield f"disk: about {found['disk_bytes'] / 1e6:.0f} MB{passing}"
    for name, reason in found["left_dense"].items():
        yield f"left dense: {name} ({reason})"


def bench_table(found: Mapping[str, Any]) -> Table:
    """Return the times of several models, the first being the reference."""
    table = Table(title="forward pass, timed in turn", title_justify="left", box=SIMPLE_HEAD)
    for name in ("model", "median ms", "quartiles", "ratio", "95 % interval", "rounds"):
        table.add_column(name, justify="left" if name == "model" else "right", overflow="fold")
    for model in found["models"]:
        table.add_row(
            model["model"],
            f"{1e3 * model['median']:.2f}",
            f"{1e3 * model['low']:.2f}-{1e3 * model['high']:.2f}",
            f"{model['ratio']:.3f}",
            f"{model['ratio_low']:.3f}-{model['ratio_high']:.3f}",
            str(model["rounds"]),
        )
    return table


def bench_conditions(found: Mapping[str, Any]) -> str:
    """Return what the times of ``autolr bench`` hold for, in words."""
    return _conditions(found)


def _conditions(found: Mapping[str, Any]) -> str:
    return conditions_line(Conditions.from_plain(found["conditions"]))
