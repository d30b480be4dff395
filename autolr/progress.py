"""How long work is announced, whoever listens: a terminal, a log, nobody."""

import sys
from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """A listener to long work."""

    def start(self, phase: str) -> None:
        """Begin a phase of work."""
        ...

    def update(self, share: float) -> None:
        """Report the share done of the current phase, in [0, 1]."""
        ...

    def note(self, text: str) -> None:
        """Say something a user should read."""
        ...

    def check(self) -> None:
        """Raise :class:`autolr.errors.Stopped` if the work should end here; called often."""
        ...


class Silent:
    """Announces nothing and never stops."""

    def start(self, phase: str) -> None:
        """Ignore."""

    def update(self, share: float) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""

    def check(self) -> None:
        """Go on."""


class Printed:
    """Prints phases and notes to stderr, a line each; never stops."""

    def start(self, phase: str) -> None:
        """Print that a phase begins."""
        sys.stderr.write(f"{phase} ...\n")

    def update(self, share: float) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Print."""
        sys.stderr.write(f"note: {text}\n")

    def check(self) -> None:
        """Go on."""
