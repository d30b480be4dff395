"""The table of ``autolr probe``."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table

from autolr.report.format import percent
from autolr.results.probing import Probing
from autolr.scores import ACCURACY


def probe_tables(probing: Probing) -> Iterator[Table | str]:
    """Return what probes and minimal pairs found, as tables with lines below."""
    if probing.tasks:
        yield _tasks(probing)
    pairs = probing.minimal_pairs
    if pairs is not None:
        yield (
            f"minimal pairs, by {pairs.how}: {percent(pairs.mean)} % of {pairs.mean.n} "
            f"(chance 50; standard error over pairs"
            f"{'; the other half of each paradigm trains the probe' if pairs.how == 'probe' else ''})"
        )
        for name, score in pairs.fields.items():
            yield f"  {name}: {percent(score)} % of {score.n}"


def _tasks(probing: Probing) -> Table:
    table = Table(
        box=SIMPLE_HEAD,
        title=f"{probing.checkpoint}: what {probing.kind} probes read, pooling {probing.pooling}",
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
    for name, task in probing.tasks.items():
        table.add_row(
            name,
            str(task.layer),
            percent(task.best.accuracy),
            percent(task.layers[-1].accuracy),
            f"{100 * task.best.selectivity.value:.1f}",
            f"{100 * task.majority:.1f}",
            f"{100 * task.length.value:.1f}",
            str(task.test),
        )
    return table
