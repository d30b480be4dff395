"""The command line: thin typer commands over the library. Results go to stdout, progress and errors to stderr."""

from autolr.cli.main import app, main

__all__ = ["app", "main"]
