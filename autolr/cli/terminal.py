"""What the terminal shows: progress with the time left on stderr, results on stdout, errors as one readable message."""

import functools
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from safetensors import SafetensorError

from autolr.errors import AutolrError, Stopped

P = ParamSpec("P")
R = TypeVar("R")

PIPED_WIDTH = 160
"""Columns of a table that goes to a file or a pipe, where nothing must be cut off."""

out = Console(width=None if sys.stdout is not None and sys.stdout.isatty() else PIPED_WIDTH)
err = Console(stderr=True)


RESUMABLE = ("search", "resume", "compare")
"""Commands that go on where they were stopped."""


def reported(command: Callable[P, R]) -> Callable[P, R]:
    """Turn the errors a caller can act on into a message on stderr and their exit code."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except AutolrError as error:
            head = "stopped" if isinstance(error, Stopped) else "error"
            err.print(f"[bold red]{head}:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
            raise typer.Exit(error.exit_code) from error
        except (OSError, SafetensorError) as error:
            place = kwargs.get("to") or kwargs.get("study")
            where = f" (writing to {place})" if place is not None and str(place) not in str(error) else ""
            err.print(
                f"[bold red]error:[/] {escape(f'{error}{where}')}; {_remedy(command.__name__)}",
                soft_wrap=True,
                highlight=False,
            )
            raise typer.Exit(1) from error

    return wrapped


def _remedy(command: str) -> str:
    if command in RESUMABLE:
        return "what is finished is on disk; mend this and give the command once more"
    return "mend this and give the command once more"


def say(console: Console, text: str, head: str = "") -> None:
    """Print sentences: broken between words on a terminal, one line where a program may read them.

    Args:
        console: that they go to.
        text: of the sentences, without markup.
        head: with markup, before them.
    """
    console.print(f"{head}{escape(text)}", highlight=False, soft_wrap=not console.is_terminal)


def print_json(content: Any) -> None:
    """Write a result to stdout as JSON, nothing else."""
    typer.echo(json.dumps(content, indent=1))


LOGGED_SHARE, LOGGED_SECONDS = 0.1, 10.0
"""Off a terminal a long phase says where it is after each such share of it, and not before so many seconds."""


class TerminalProgress:
    """Progress bars on a terminal, lines elsewhere; stops at the first SIGINT or SIGTERM."""

    def __init__(self, bars: Progress, resumable: bool = False) -> None:
        self._bars = bars
        self._left = "everything finished is on disk" if resumable else "there is no result; run the command again"
        self._task: TaskID | None = None
        self._stop: str | None = None
        self._phase, self._said, self._began = "", 0.0, 0.0
        self._noted: set[str] = set()

    def start(self, phase: str) -> None:
        """Begin a phase of work."""
        self._finish()
        self._phase, self._said, self._began = phase, 0.0, time.monotonic()
        if self._bars.live.console.is_terminal:
            self._task = self._bars.add_task(escape(phase), total=1.0)
        else:
            err.print(f"{phase} ...", highlight=False, markup=False, soft_wrap=True)

    def update(self, share: float) -> None:
        """Report the share done of the current phase."""
        if self._task is not None:
            self._bars.update(self._task, completed=share)
            return
        taken = time.monotonic() - self._began
        if share >= self._said + LOGGED_SHARE and share < 1 and taken > LOGGED_SECONDS:
            self._said = share
            left = taken * (1 - share) / share
            err.print(f"{self._phase}: {share:.0%}, about {left:.0f} s left", highlight=False, markup=False)

    def note(self, text: str) -> None:
        """Say something a user should read, once: the studies of a comparison have much in common."""
        if text in self._noted:
            return
        self._noted.add(text)
        say(self._bars.console, text, "[yellow]note:[/] ")

    def check(self) -> None:
        """Raise once a signal has come."""
        if self._stop is not None:
            raise Stopped(f"{self._stop} received; {self._left}")

    def stop(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal: the first ends the work cleanly, the second at once."""
        self._stop = signal.Signals(number).name
        signal.signal(number, signal.SIG_DFL)
        self._bars.console.print(f"{self._stop}: finishing; once more to stop at once", highlight=False)

    def _finish(self) -> None:
        if self._task is not None:
            self._bars.update(self._task, completed=1.0)
            self._task = None


@contextmanager
def progress(resumable: bool = False) -> Iterator[TerminalProgress]:
    """Show progress while a block runs, with SIGINT and SIGTERM ending the work cleanly.

    Args:
        resumable: whether the work goes on where it was stopped.
    """
    from autolr.workflows.undisturbed import quiet_libraries

    quiet_libraries()
    columns = (
        TextColumn("{task.description}", table_column=Column(ratio=1, overflow="ellipsis", no_wrap=True)),
        BarColumn(bar_width=12),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=err, expand=True) as bars:
        listener = TerminalProgress(bars, resumable)
        before = {number: signal.signal(number, listener.stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield listener
            listener._finish()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
