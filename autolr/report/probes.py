"""The table of ``autolr probe``."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from autolr.records import Score
from autolr.report import format as shown
from autolr.scores import ACCURACY, PROBE


def probe_tables(found: Mapping[str, Any]) -> Iterator[Table | str]:
    """Return what probes and minimal pairs found, as tables with lines below."""
    if "tasks" in found:
        yield _tasks(found)
    if "minimal_pairs" in found:
        pairs = found["minimal_pairs"]
        yield (
            f"minimal pairs, by {pairs['how']}: {percent(pairs['mean'])} % of {pairs['mean']['n']} "
            f"(chance 50; standard error over pairs"
            f"{'; the other half of each paradigm trains the probe' if pairs['how'] == 'probe' else ''})"
        )
        for name, score in pairs["fields"].items():
            yield f"  {name}: {percent(score)} % of {score['n']}"


def _tasks(found: Mapping[str, Any]) -> Table:
    table = Table(
        box=SIMPLE_HEAD,
        title=f"{found['checkpoint']}: what {found[PROBE.name]} probes read, pooling {found['pooling']}",
        caption="Per cent of the test sentences, ± standard error. layer: the best one on halves of the training "
        "sentences, 0 the embeddings; "
        "selective: above a control task of the same sentences at that layer; chance: the commonest label; "
        "length: a probe that sees the number of words alone",
        title_justify="left",
        caption_justify="left",
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("task", overflow="fold")
    for name in ("layer", ACCURACY.name, "last layer", "selective", "chance", "length", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, task in found["tasks"].items():
        layer = task["layer"]
        best, last = task["layers"][layer], task["layers"][-1]
        table.add_row(
            name,
            str(layer),
            percent(best[ACCURACY.name]),
            percent(last[ACCURACY.name]),
            f"{100 * best['selectivity']['value']:.1f}",
            f"{100 * task['majority']:.1f}",
            f"{100 * task['length']['value']:.1f}",
            str(task["test"]),
        )
    return table


def percent(plain: Mapping[str, Any]) -> str:
    """Return a share in its plain form, with its standard error, in per cent."""
    return shown.percent(Score(plain["value"], plain["stderr"], plain.get("n", 0)))
