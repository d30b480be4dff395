"""The result as Markdown: one table of the parts, and one for each part's figures."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

GIGA = 1e9


def as_markdown(result: Mapping[str, Any]) -> str:
    """Return the whole result."""
    machine = result["machine"]
    lines = [", ".join(f"{name} {value}" for name, value in machine.items() if value is not None), ""]
    rows = [[name, summary(name, part), part["ended"], part["seconds"]] for name, part in result["parts"].items()]
    lines += table(["part", "found", "ended", "seconds"], [*rows, ["all", "", "", result["seconds"]]])
    layers = (result["parts"].get("layers") or {}).get("figures")
    if layers and layers["rows"]:
        head = list(layers["rows"][0])
        lines += ["", *table(head, [[row[name] for name in head] for row in layers["rows"]])]
    return "\n".join(lines) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return a table's lines."""
    lines = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in [head, *rows]]
    return [lines[0], "|---" * len(head) + "|", *lines[1:]]


def summary(name: str, part: Mapping[str, Any]) -> str:
    """Return what a part found, in a line."""
    figures = part.get("figures")
    return part.get("said", "nothing") if figures is None else SUMMARIES[name](figures)


def _tests(figures: Mapping[str, Any]) -> str:
    skipped = sum(figures["skipped"].values())
    return f"{figures['passed']} passed, {len(figures['failed'])} failed, {skipped} skipped"


def _search(figures: Mapping[str, Any]) -> str:
    start = f"{figures['trials']} of {figures['trials_wanted']} trials"
    if "equal" not in figures:
        return start
    worst = max(figures["cpu_front_here_in_errors"].values())
    word = "equal" if figures["equal"] else "NOT equal"
    apart = figures.get("fronts_apart_in_errors", "?")
    return f"{start}; front {word}: {apart} errors apart, the CPU's members score at most {worst:.2g} errors off here"


def _workers(figures: Mapping[str, Any]) -> str:
    rates = ", ".join(f"{row['workers']}: {row['trials_a_minute']:g}" for row in figures["rows"])
    ratio = f"; ratio {figures['ratio']:g}" if "ratio" in figures else ""
    return f"workers: trials a minute {rates}{ratio}"


def _shape(figures: Mapping[str, Any]) -> str:
    last = figures["runs"][-1]
    peak = max(run.get(key, 0) for run in figures["runs"] for key in ("calibrate_peak_bytes", "peak_bytes"))
    whole = ", ".join(f"{half} {minutes:g}" for half, minutes in figures["all_blocks_minutes"].items())
    return f"{last['shape']['blocks']} blocks measured; 32 blocks, minutes: {whole}; peak {peak / GIGA:.2f} GB"


def _layers(figures: Mapping[str, Any]) -> str:
    return f"{len(figures['rows'])} rows below, {figures['left_out']} left out"


SUMMARIES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "tests": _tests,
    "search": _search,
    "workers": _workers,
    "shape": _shape,
    "layers": _layers,
}
