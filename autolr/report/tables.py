"""What the command line prints: tables and lines from the plain forms that are also stored as JSON."""

from collections.abc import Iterator, Mapping, Sequence
from math import exp
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from autolr.errors import command
from autolr.report.chance import at_chance
from autolr.scores import SCORES
from autolr.spec.study import StudySpec

Plain = Mapping[str, Any]


NUMBER_WIDTH = {
    "trial": 5,
    "FLOPs": 5,
    "params": 6,
    "latency": 7,
    "nats": 16,
    "agree %": 10,
    "accuracy %": 10,
    "perplexity": 10,
    "probe %": 10,
}
"""Least widths: on a narrow terminal the origin is cut off, never a number."""


def amount(value: int | float, quantity: str) -> str:
    """Return an amount of a quantity as it is printed.

    Example:
        >>> amount(1234567, "flops"), amount(12.3456, "latency")
        ('1,234,567', '12.35 ms')
    """
    return f"{value:.2f} ms" if quantity == "latency" else f"{value:,.0f}"


def percent(score: Plain) -> str:
    """Return a share with its standard error in percent.

    Example:
        >>> percent({"value": 0.8125, "stderr": 0.01, "n": 1500})
        '81.2 ± 1.0'
    """
    return f"{100 * score['value']:.1f} ± {100 * score['stderr']:.1f}"


def nats(score: Plain) -> str:
    """Return a divergence with its standard error."""
    return f"{score['value']:.3g} ± {score['stderr']:.1g}"


def result_table(result: Plain, spec: StudySpec) -> Table:
    """Return the front at the end of a search, with the scores its winner was chosen by."""
    members = result["members"]
    first = members[0]["selection"]["divergence"]["n"]
    refits = [str(one["trial"]) for one in members if "before_refit" in one]
    refitted = f"the refit was better for {', '.join(refits)} and is counted there; " if refits else ""
    table = _member_table(
        "The front of the search, scored again" if result["reached"] else "No candidate met all; the nearest",
        f"Scores on {first} selection {noun(spec)}, which the search did not see: there a member may fall behind "
        f"another; {refitted}the winner (*) is {_chosen_by(spec)} there",
        members,
    )
    for one in members:
        _add_member(table, one, one["selection"], one["trial"] == result["winner"])
    return table


def front_table(front: Plain) -> Table:
    """Return the table of ``autolr front`` and ``autolr select``."""
    members = front["members"] or front.get("nearest", [])
    title = (
        "The front, on the search part" if front["members"] else "No trial meets every budget and floor; the nearest"
    )
    caption = "Scores on the search part, where the search compared them: they flatter"
    table = _member_table(title, caption, members)
    for one in members:
        _add_member(table, one, one["scores"], one["trial"] == front.get("winner"))
    return table


def _member_table(title: str, caption: str, members: Sequence[Plain]) -> Table:
    timed = any("latency" in one["costs"]["ratio"] for one in members)
    legend = "FLOPs, params: ratio to dense; nats: divergence from dense. "
    if timed:
        legend += "Latency: ratio to dense, ~ where it is predicted. "
    table = Table(
        title=title,
        caption=legend + caption,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("trial", justify="right", no_wrap=True, min_width=NUMBER_WIDTH["trial"])
    table.add_column("origin", overflow="ellipsis", no_wrap=True)
    probed = any("probe" in one["scores"] for one in members)
    language = any("loss" in one["scores"] for one in members)
    names = ("latency",) * timed + ("FLOPs", "params", "nats", "agree %", "accuracy %")
    names += ("perplexity",) * language + ("probe %",) * probed
    for name in names:
        table.add_column(name, justify="right", no_wrap=True, min_width=NUMBER_WIDTH[name])
    return table


def _add_member(table: Table, one: Plain, scores: Plain, winner: bool) -> None:
    ratio = one["costs"]["ratio"]
    timed = [f"{one['latency']['ratio']:.3f}" if "latency" in one else f"~{ratio.get('latency', 1.0):.3f}"]
    table.add_row(
        f"{'* ' if winner else ''}{one['trial']}",
        one["origin"],
        *(timed if "latency" in ratio else []),
        *(f"{ratio[name]:.3f}" for name in ("flops", "params")),
        nats(scores["divergence"]),
        percent(scores["agreement"]),
        percent(scores["accuracy"]),
        *([f"{exp(scores['loss']['value']):.4g}"] if "loss" in scores else []),
        *([percent(scores["probe"])] if "probe" in scores else []),
    )


def result_lines(result: Plain, spec: StudySpec, path: Path) -> Iterator[str]:
    """Return what was reached, in sentences with their conditions."""
    report = result["report"]
    dense, small = report["dense"]["accuracy"], report["compressed"]["accuracy"]
    winner = next(m for m in result["members"] if m["trial"] == result["winner"])
    conditions = winner["costs"]["conditions"]
    ratio = dict(winner["costs"]["ratio"])
    if "latency" in report:
        ratio["latency"] = report["latency"]["ratio"]
    ratios = ", ".join(f"{ratio[b.quantity]:.3f}x {b.quantity}" for b in spec.parsed_budgets)
    yield (
        f"Winner: trial {result['winner']} at {ratios} of the dense model (a batch of "
        f"{conditions['batch_size']} x {conditions['seq_len']} tokens, {conditions['dtype']})."
    )
    if "latency" in report:
        yield _latency_sentence(report["latency"], conditions)
    what = "" if spec.task == "nli" else "next tokens found: "
    yield (
        f"On {report['data']}, {small['n']} {noun(spec)} that nothing was chosen on: {what}dense {percent(dense)} %, "
        f"compressed {percent(small)} % (standard errors); difference "
        f"{100 * report['accuracy_difference']['value']:+.1f} ± {100 * report['accuracy_difference']['stderr']:.1f} "
        f"points; "
        f"{100 * (report['accuracy_ratio'] or 0):.1f} % of dense is kept. Nothing was trained"
        + (f"; {report['refitted']} layers were refitted by least squares." if report.get("refitted") else ".")
    )
    if "perplexity" in report:
        yield _perplexity_sentence(report)
    if "probes" in report:
        found, gap = report["probes"], report["probes"]["difference"]
        yield (
            f"Probes, mean accuracy over {_count(len(found['dense']['tasks']), 'task')}, "
            f"{found['dense']['mean']['n']} sentences that "
            f"nothing was chosen on: dense {percent(found['dense']['mean'])} %, compressed "
            f"{percent(found['compressed']['mean'])} %; difference {100 * gap['value']:+.1f} ± "
            f"{100 * gap['stderr']:.1f} points."
        )
    tokens = spec.task == "lm"
    if at_chance(dense, report["majority"]):
        yield (
            f"Warning: {_always(report['majority'], tokens)}, and the dense model is not distinguishably better. Check "
            f"{_TO_CHECK[tokens]}."
        )
    elif at_chance(small, report["majority"]):
        yield (
            f"Warning: {_always(report['majority'], tokens)}, and the compressed model is not distinguishably better. "
            f"Raise the budget."
        )
    objective = spec.search.objective
    seen = [("search part", winner["scores"]), ("selection part", winner.get("before_refit", winner["selection"]))]
    if "before_refit" in winner:
        seen += [("refitted, search part", report["search"])] if "search" in report else []
        seen += [("refitted, selection part", winner["selection"])]
    parts = [
        f"{name} {scores[objective]['value']:.4g}" for name, scores in [*seen, ("report part", report["compressed"])]
    ]
    yield f"{objective.capitalize()} of the winner: {', '.join(parts)}."
    if "optimism" in report:  # studies from before it was measured do without
        gap, points = report["optimism"][objective], objective not in ("divergence", "loss")
        value, stderr = (100 * gap[name] if points else gap[name] for name in ("value", "stderr"))
        verdict = "no sign that the search part flattered it" if value <= 2 * stderr else "the search part flattered it"
        yield (
            f"As exported, what it loses in {objective} against the dense model is {value:+.2g} ± {stderr:.2g} "
            f"{'points' if points else 'nats'} more on the report part than on the search part; {verdict}."
        )
    if result["checkpoint"] is not None:
        yield f"Checkpoint: {path / result['checkpoint']} (reloaded, logits bit-equal)."


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _chosen_by(spec: StudySpec) -> str:
    if spec.search.probe_axis:
        return "the best in probe of those within a point of accuracy of the best"
    return f"the best in {spec.search.objective}"


def _perplexity_sentence(report: Plain) -> str:
    """Return the perplexities; their standard errors are those of the logarithms, carried over."""
    shown = []
    for name in ("dense", "compressed"):
        value, error = report["perplexity"][name], report[name]["loss"]["stderr"]
        shown.append(f"{name} {value:.3f} ± {value * error:.3f}")
    gap = report["loss_difference"]
    return (
        f"Perplexity there: {', '.join(shown)} (standard errors over blocks); loss "
        f"{gap['value']:+.4f} ± {gap['stderr']:.4f} nats per token."
    )


def noun(spec: StudySpec) -> str:
    """Return what an example of a study's task is called, in the plural."""
    return "pairs" if spec.task == "nli" else "blocks"


def missed_limits(result: Plain, spec: StudySpec) -> Iterator[str]:
    """Return each budget and floor that the winner misses, by how much."""
    winner = next(m for m in result["members"] if m["trial"] == result["winner"])
    floors = {floor.text: floor for floor in spec.parsed_floors}
    for name, excess in winner["constraints"].items():
        if excess > 0 and name not in floors:
            yield f"{name} is missed by {100 * excess:.1f} %"
        elif excess > 0 and not winner["keeps_floors"]:
            by = SCORES.get(floors[name].score).difference(excess)
            refitted = ", before it was refitted" if "before_refit" in winner else ""
            yield f"{name} is missed by {by} on the search part{refitted}"
    if not winner["keeps_floors"] and not any(winner["constraints"].get(name, 0.0) > 0 for name in floors):
        yield "a floor is missed on the selection part"
    clock = result["report"].get("latency")
    if clock is not None and not clock["within"]:
        yield f"the checkpoint takes {clock['ratio']:.3f}x of the dense model's time"


def _latency_sentence(clock: Plain, conditions: Plain) -> str:
    low, high = clock["ratio_range"]
    return (
        f"Timed in {len(clock['processes'])} processes of its own, in turn with the dense model "
        f"({conditions_line(conditions)}): {clock['ms']:.2f} ms, {clock['ratio']:.3f}x of dense (median; "
        f"{low:.3f} to {high:.3f})."
    )


def next_commands(result: Plain, path: Path) -> Iterator[str]:
    """Return the commands to type next."""
    yield command("front", path)
    yield command("export", path, "--trial", result["winner"], "--out", "my-model")
    yield command("dashboard", path)


def status_lines(found: Plain) -> Iterator[str]:
    """Return a study's state in lines."""
    counts = found["trials"]
    scored = counts["complete"] + counts["stopped"]
    state = "running" if found["running"] else "finished" if found["finished"] else "not finished"
    yield f"{found['study']}: {state}; budgets {', '.join([*found['budgets'], *found['floors']])}"
    yield (
        f"trials: {scored} of {max(found['wanted'], scored)}: {counts['complete']} scored in full, "
        f"{counts['stopped']} stopped early by a better one; {counts['failed']} failed, "
        f"{counts['running']} running or interrupted, "
        f"{found['trial_seconds']:.0f} s of work"
    )
    if found["winner"] is not None and not found["front"]:
        yield f"no trial meets every budget and floor; the nearest: {found['winner']}"
    else:
        winner = "none yet" if found["winner"] is None else found["winner"]
        yield f"front: trials {', '.join(map(str, found['front'])) or 'none yet'}; winner: {winner}"
    for failure in found["failures"]:
        yield f"failed: trial {failure['trial']}: {failure['reason']}"
    if not found["finished"] and not found["running"]:
        yield f"go on with: {command('resume', found['study'])}"


def evaluation_line(found: Plain) -> str:
    """Return what ``autolr eval`` found.

    Example:
        >>> evaluation_line({"accuracy": 0.8125, "stderr": 0.01, "n": 1500, "noun": "pairs"})
        'accuracy 81.2 ± 1.0 % (standard error) on 1500 pairs'
    """
    shown = percent({"value": found["accuracy"], "stderr": found["stderr"]})
    line = f"accuracy {shown} % (standard error) on {found['n']} {found['noun']}"
    if "perplexity" in found:
        error = found["perplexity"] * found["loss_stderr"]
        line = f"perplexity {found['perplexity']:.3f} ± {error:.3f}; next-token {line}"
    return line


def chance_warning(found: Plain) -> str | None:
    """Return the warning of ``autolr eval`` where the checkpoint only guesses, else None."""
    if not at_chance({"value": found["accuracy"], "stderr": found["stderr"]}, found["majority"]):
        return None
    tokens = "perplexity" in found
    return (
        f"{_always(found['majority'], tokens)}, and the checkpoint is not distinguishably better; check "
        f"{_TO_CHECK[tokens]}, or take a larger budget"
    )


_TO_CHECK = {False: "the labels and --label-names", True: "the text, the tokenizer and --seq-len"}
"""Where a model only guesses: labels, or tokens."""


def _always(share: float, tokens: bool) -> str:
    what = "naming the commonest token" if tokens else "answering the commonest label"
    return f"always {what} is right on {100 * share:.1f} % of them"


def estimate_table(found: Plain) -> Iterator[Table | str]:
    """Return the estimate: budgets, time, disk, what is left dense."""
    yield f"{found['model']}: {found['layers']} compressible layers"
    table = Table()
    known = any(row["predicted_divergence"] is not None for row in found["budgets"])
    for name in ("budget", "dense", "limit", "lowest", "reachable", *["predicted nats"] * known):
        table.add_column(name, justify="left" if name == "budget" else "right")
    for row in found["budgets"]:
        quality = row["predicted_divergence"]
        table.add_row(
            row["budget"],
            amount(row["dense"], row["quantity"]),
            amount(row["limit"], row["quantity"]),
            f"{row['lowest_ratio']:.3f}x",
            "yes" if row["reachable"] else "no",
            *["-" if quality is None else f"{quality:.4f}"] * known,
        )
    yield table
    clock = found["latency"]
    if clock is not None:
        yield (
            f"latency: predicted, within {100 * clock['median_error']:.1f} % (median over whole models that were "
            f"timed; worst {100 * clock['worst_error']:.1f} %); {conditions_line(clock['conditions'])}"
        )
    if not known:
        yield "quality: predicted once a search of these inputs has calibrated"
    stages = ", ".join(f"{name} {value:.0f} s" for name, value in found["seconds"].items() if name != "total")
    yield f"time on this device: about {found['seconds']['total']:.0f} s ({stages})"
    passing = f", and {found['passing_bytes'] / 1e6:.0f} MB while it calibrates" if found["passing_bytes"] else ""
    yield f"disk: about {found['disk_bytes'] / 1e6:.0f} MB{passing}"
    for name, reason in found["left_dense"].items():
        yield f"left dense: {name} ({reason})"


def bench_table(found: Plain) -> Table:
    """Return the times of several models, the first being the reference."""
    table = Table(title="forward pass, timed in turn", title_justify="left", box=SIMPLE_HEAD)
    for name in ("model", "median ms", "quartiles", "ratio", "95 % interval", "rounds"):
        table.add_column(name, justify="left" if name == "model" else "right", overflow="fold")
    for one in found["models"]:
        table.add_row(
            one["model"],
            f"{1e3 * one['median']:.2f}",
            f"{1e3 * one['low']:.2f}-{1e3 * one['high']:.2f}",
            f"{one['ratio']:.3f}",
            f"{one['ratio_low']:.3f}-{one['ratio_high']:.3f}",
            str(one["rounds"]),
        )
    return table


def conditions_line(conditions: Plain) -> str:
    """Return what a time or a cost holds for, in words."""
    lengths = conditions["lengths"]
    tokens = f"{conditions['batch_size']} x {conditions['seq_len']} tokens"
    padded = f" (sequences of {', '.join(map(str, lengths))} in turn)" if lengths else ""
    threads = f", {conditions['threads']} threads" if conditions["threads"] and conditions["device"] == "cpu" else ""
    return f"batch of {tokens}{padded}, {conditions['dtype']}, {conditions['device']}{threads}"
