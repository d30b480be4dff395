"""``autolr probe``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from autolr.cli import options as o
from autolr.cli.terminal import out, print_json, progress, reported
from autolr.errors import UsageError, nearest
from autolr.spec.measuring import PROBING

KINDS = ("ridge", "logistic", "mlp")


@reported
@o.takes("train_examples", "test_examples", "pairs", *PROBING)
def probe(
    given: o.Given,
    directory: Annotated[str, typer.Argument(metavar="DIR", help="A checkpoint, compressed or dense.")],
    tasks: Annotated[
        Path | None,
        typer.Option(parser=o.path, help="Probing tasks, a file or a folder (split, label, sentence between tabs)."),
    ] = None,
    minimal_pairs: Annotated[
        Path | None, typer.Option(parser=o.path, help="Minimal pairs, a file or a folder (columns good and bad).")
    ] = None,
    kind: Annotated[
        str,
        typer.Option(
            "--probe", help="ridge, logistic or mlp; the first, as a search has it, chooses its strength by itself."
        ),
    ] = "ridge",
    train_examples: Annotated[int, typer.Option(min=20, help="Training sentences of each task.")] = 2000,
    test_examples: Annotated[int, typer.Option(min=6, help="Test sentences of each task.")] = 1000,
    pairs: Annotated[int | None, typer.Option(min=2, help="Pairs of each paradigm; none: all.")] = None,
    json: o.Json = False,
) -> None:
    """Measure what a checkpoint knows of its language: probes at every layer, minimal pairs."""
    from autolr.report.probes import probe_tables
    from autolr.workflows.probe import probe_checkpoint
    from autolr.workflows.resolve import resolve

    if kind not in KINDS:
        raise UsageError(f"there is no probe {kind!r}; {nearest(kind, KINDS)}")
    if tasks is None and minimal_pairs is None:
        raise UsageError("give --tasks, --minimal-pairs or both")
    sizes = {"probe_train": train_examples, "probe_test": test_examples}
    spec = resolve({**given, **sizes, "budget": "1x-flops"}, typed=True).model_copy(update={"model": directory})
    chosen: dict[str, Literal["ridge", "logistic", "mlp"]] = {"ridge": "ridge", "logistic": "logistic", "mlp": "mlp"}
    with progress() as listener:
        probing = probe_checkpoint(spec, tasks, minimal_pairs, chosen[kind], pairs, listener)
    if json:
        print_json(probing.to_json())
    else:
        for part in probe_tables(probing):
            out.print(part, highlight=False, markup=False)
