"""The ``autolr`` program: its commands."""

import typer

from autolr.cli import (
    checkpoints,
    comparing,
    doctor,
    explaining,
    probing,
    results,
    searching,
    serving,
    timing,
    trimming,
)

app = typer.Typer(
    name="autolr",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    help="Search, layer by layer, which low-rank method and rank compress a transformer best under a budget.",
    epilog="Exit codes: 0 budget met, 1 error, 2 bad input, 3 budget or floor not reached, 4 stopped and resumable.",
)
for command in (
    searching.search,
    searching.resume,
    searching.estimate,
    results.status,
    results.front,
    results.select,
    explaining.sensitivity,
    checkpoints.export,
    checkpoints.evaluate,
    probing.probe,
    timing.bench,
    comparing.compare,
    trimming.trim,
    serving.dashboard,
    doctor.doctor,
):
    name = {"evaluate": "eval"}.get(command.__name__, command.__name__)
    app.command(name)(command)


def main() -> None:
    """Run the program."""
    app()
