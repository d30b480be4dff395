"""The table of ``autolr sensitivity``."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

MOST_PARAMETERS = 8


def sensitivity_table(found: Mapping[str, Any]) -> Table:
    """Return one line for each layer."""
    shares = [share for share, _ in found["layers"][0]["curve"]]
    table = Table(
        box=SIMPLE_HEAD,
        title=f"Trial {found['trial']}, layer by layer",
        caption="loss: predicted nats of cutting this layer alone, before the multiplier; step: nats that a million "
        "FLOPs more would save and less would cost, after it",
    )
    table.add_column("layer", overflow="fold")
    table.add_column("method", no_wrap=True)
    for name in ("rank", "of", "loss", *(f"at {share:g}" for share in shares), "multiplier", "step up", "step down"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found["layers"]:
        rank = "dense" if one["rank"] is None else f"{one['rank']}" + (f"+{one['rows']}" if one["rows"] else "")
        table.add_row(
            one["unit"],
            one["method"] or "",
            rank,
            str(one["break_even"]),
            _number(one["loss"]),
            *(_number(loss) for _, loss in one["curve"]),
            f"{one['multiplier']:.2f}",
            _number(one["next_step"]),
            _number(one["last_step"]),
        )
    return table


def importance_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Return which parameters of the search mattered."""
    if not found["importances"]:
        return
    ranked = sorted(found["importances"].items(), key=lambda pair: -pair[1])[:MOST_PARAMETERS]
    shown = ", ".join(f"{name} {value:.2f}" for name, value in ranked)
    yield f"what mattered in the search (PED-ANOVA, shares of one): {shown}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
