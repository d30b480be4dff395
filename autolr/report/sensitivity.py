"""The table of ``autolr sensitivity``."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table

from autolr.results.sensitivity import Account

MOST_PARAMETERS = 8


WHOLE_WIDTH = 140
"""Columns that the whole table takes; in fewer the curves are left out, so that no number is cut off."""


def sensitivity_table(found: Account, width: int = WHOLE_WIDTH) -> Table:
    """Return one line for each layer.

    Args:
        found: the account of a trial.
        width: columns of the terminal.
    """
    whole = width >= WHOLE_WIDTH
    shares = [share for share, _ in found.layers[0].curve] if whole else []
    at = (
        "at its rank, and at these shares of the break-even rank" if whole else "at its rank (more columns show others)"
    )
    table = Table(
        box=SIMPLE_HEAD,
        title=f"Trial {found.trial}, layer by layer",
        caption="break even: the rank at which low rank costs as much as dense. loss: predicted nats of cutting this "
        f"layer alone, before the multiplier: {at}. step up, down: nats that a million FLOPs more would save and less "
        "would cost, after the multiplier; a dense layer's step down is to its largest low rank",
        title_justify="left",
        caption_justify="left",
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("layer", overflow="fold")
    table.add_column("method", no_wrap=True)
    losses = [f"loss\nat {share:g}x" for share in shares]
    for name in ("rank", "break\neven", "loss", *losses, "multi-\nplier", "step\nup", "step\ndown"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in found.layers:
        size = "+".join(str(value) for value in layer.sizes.values()) if layer.sizes else "full"
        table.add_row(
            layer.unit,
            layer.method or "dense",
            size,
            "-" if layer.break_even is None else str(layer.break_even),
            _number(layer.loss),
            *(_number(loss) for _, loss in layer.curve if whole),
            f"{layer.multiplier:.2f}",
            _number(layer.next_step),
            _number(layer.last_step),
        )
    return table


def importance_lines(found: Account) -> Iterator[str]:
    """Return which parameters of the search mattered."""
    if not found.importances:
        return
    ranked = sorted(found.importances.items(), key=lambda pair: -pair[1])[:MOST_PARAMETERS]
    shown = ", ".join(f"{name} {value:.2f}" for name, value in ranked)
    yield f"what mattered in the search (PED-ANOVA, shares of one): {shown}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
