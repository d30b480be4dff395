"""The errors a caller can act on; each carries the exit code of the command line.

Codes: 1 error, 2 usage (bad input, found before anything is computed), 3 the budget is not reachable,
4 stopped by a limit or a signal and resumable. 0 means that the budget was met.
"""

import difflib
import shlex
from collections.abc import Iterable


class AutolrError(Exception):
    """Base of every error autolr raises on purpose: says what must hold, what was seen and what to do."""

    exit_code = 1


class UsageError(AutolrError):
    """Bad input: an option, a file, a model or a study that cannot be used as given."""

    exit_code = 2


class BudgetError(AutolrError):
    """No candidate can meet the budget, or none of the finished trials does."""

    exit_code = 3


class Stopped(AutolrError):
    """The work was stopped by a limit or a signal; what is finished is on disk and the study can be resumed."""

    exit_code = 4


class FactorizationError(AutolrError):
    """A decomposition failed or is not finite; the message names the layer and the method."""


def command(*words: object) -> str:
    """Return an autolr command to type, its words quoted where a shell would take them apart.

    Example:
        >>> command("resume", "my studies/one", "--trials", 60)
        "autolr resume 'my studies/one' --trials 60"
    """
    return shlex.join(["autolr", *map(str, words)])


def similar(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean …?)" where a known name is close to a mistyped one, else nothing.

    Example:
        >>> similar("drome", ["svd", "drone"]), similar("x", ["svd"])
        (' (did you mean drone?)', '')
    """
    hint = nearest(name, known)
    return f" ({hint})" if hint.startswith("did you mean") else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint naming the known names closest to a mistyped one, or all of them when none is close.

    Example:
        >>> nearest("drome", ["svd", "drone", "afm"])
        'did you mean drone?'
        >>> nearest("x", ["svd", "afm"])
        'known: afm, svd'
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    shown = names if len(names) <= 12 else [*names[:12], f"and {len(names) - 12} more"]
    return f"known: {', '.join(shown)}"
