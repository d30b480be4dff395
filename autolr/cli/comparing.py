"""``autolr compare``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from autolr.cli import options as o
from autolr.cli.terminal import out, print_json, progress, reported, say


@reported
def compare(
    file: Annotated[
        Path, typer.Argument(parser=o.path, help="YAML with budgets and entries; docs/comparing.md names all keys.")
    ],
    to: Annotated[
        Path,
        typer.Option("--out", parser=o.path, help="Folder of the studies and the summary; it can be gone on with."),
    ],
    plot: Annotated[
        Path | None,
        typer.Option(parser=o.path, help=escape("Also draw a plot, .svg or .png (needs autolr[plots]).")),
    ] = None,
    json: o.Json = False,
) -> None:
    """Compare spaces, methods and samplers at equal budgets, evaluations and seeds: one table."""
    from autolr.report.comparison import comparison_lines, comparison_table, plot_comparison
    from autolr.workflows.compare import compare as run
    from autolr.workflows.compare import read_comparison

    comparison = read_comparison(file)
    with progress(resumable=True) as listener:
        summary = run(comparison, to, listener)
    if plot is not None:
        plot_comparison(summary, plot)
    if json:
        print_json(summary.to_json())
    else:
        out.print(comparison_table(summary))
        for line in comparison_lines(summary):
            say(out, line)
        out.print(f"written: {to / 'comparison.json'}", highlight=False, markup=False, soft_wrap=True)
