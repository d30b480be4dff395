"""What the measuring commands print: ``autolr eval``, ``estimate`` and ``bench``."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table

from autolr.report.format import amount, at_chance, conditions_line, with_unit
from autolr.report.sentences import commonest_sentence
from autolr.results.bench import Bench
from autolr.results.estimate import Estimate
from autolr.results.evaluation import Evaluation
from autolr.scores import SCORES, TASKS


def evaluation_line(evaluation: Evaluation) -> str:
    """Return what ``autolr eval`` found.

    Example:
        >>> from autolr.records import Score
        >>> scores = {"accuracy": Score(0.8125, 0.01, 1500)}
        >>> evaluation_line(Evaluation("m", "dev.jsonl", "nli", "pairs", "accuracy", scores, 0.4))
        'accuracy 81.2 ± 1.0 % (standard error) on 1500 pairs'
    """
    score, kind = evaluation.score, SCORES.get(evaluation.headline)
    line = f"{kind.name} {with_unit(kind, score)} (standard error) on {score.n} {evaluation.noun}"
    stated = [
        f"{name} {value:.3f} ± {value * evaluation.scores[SCORES.get(name).measured].stderr:.3f}"
        for name, value in evaluation.exponentials.items()
    ]
    return "; ".join([*stated, f"next-token {line}" if TASKS.get(evaluation.task).next_tokens else line])


def chance_warning(evaluation: Evaluation) -> str | None:
    """Return the warning of ``autolr eval`` where the checkpoint only guesses, else None."""
    if evaluation.majority is None or not at_chance(evaluation.score, evaluation.majority):
        return None
    return (
        f"{commonest_sentence(evaluation.task, evaluation.majority)}, and the checkpoint is not distinguishably "
        f"better; check {TASKS.get(evaluation.task).check}, or take a larger budget"
    )


_NOT_ESTIMATED = "exporting the winner, and timing layers and checkpoints where a budget is a time"
"""What a search does besides, of which no time is predicted."""


def estimate_table(estimate: Estimate) -> Iterator[Table | str]:
    """Return the estimate: budgets, time, disk, what is left dense."""
    yield f"{estimate.model}: {estimate.layers} compressible layers"
    table = Table()
    predicted = any(row.predicted_divergence is not None for row in estimate.budgets)
    for name in ("budget", "dense", "limit", "lowest", "reachable", *["predicted nats"] * predicted):
        table.add_column(name, justify="left" if name == "budget" else "right")
    for row in estimate.budgets:
        quality = row.predicted_divergence
        table.add_row(
            row.budget,
            amount(row.dense, row.quantity),
            amount(row.limit, row.quantity),
            f"{row.lowest_ratio:.3f}x",
            "yes" if row.reachable else "no",
            *["-" if quality is None else f"{quality:.4f}"] * predicted,
        )
    yield table
    clock = estimate.latency
    if clock is not None:
        yield (
            f"latency: predicted, within {100 * clock.median_error:.1f} % (median over whole models that were timed; "
            f"worst {100 * clock.worst_error:.1f} %); {conditions_line(clock.conditions)}"
        )
    if not predicted:
        yield "quality: predicted once a search of these inputs has calibrated"
    stages = ", ".join(f"{name} {value:.0f} s" for name, value in estimate.seconds.items() if name != "total")
    yield (
        f"time on this device, as busy as it is now: about {estimate.seconds['total']:.0f} s ({stages}); not in it: "
        f"starting and loading, the rehearsal, proposing, {_NOT_ESTIMATED}"
    )
    passing = f", and {estimate.passing_bytes / 1e6:.0f} MB while it calibrates" if estimate.passing_bytes else ""
    yield f"disk: about {estimate.disk_bytes / 1e6:.0f} MB{passing}"
    for name, reason in estimate.left_dense.items():
        yield f"left dense: {name} ({reason})"


def bench_table(bench: Bench) -> Table:
    """Return the times of several models, the first being the reference."""
    table = Table(
        title="forward pass, timed in turn",
        caption="ratio: median over rounds of a model's time by the first one's in the same round; "
        "not the ratio of the medians",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    for name in ("model", "median ms", "quartiles", "ratio", "95 % interval", "rounds"):
        table.add_column(name, justify="left" if name == "model" else "right", overflow="fold")
    for timed in bench.models:
        table.add_row(
            timed.model,
            f"{1e3 * timed.median:.2f}",
            f"{1e3 * timed.low:.2f}-{1e3 * timed.high:.2f}",
            f"{timed.ratio:.3f}",
            f"{timed.ratio_low:.3f}-{timed.ratio_high:.3f}",
            str(timed.rounds),
        )
    return table
