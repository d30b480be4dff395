"""What all calls of the API have in common: who is told of progress, which options there are, what is put back."""

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import Parameter, signature
from typing import Any, TypeVar

from autolr.errors import UsageError, nearest
from autolr.progress import Printed, Progress, Silent
from autolr.scores import TaskKind
from autolr.scores.tables import add_task
from autolr.spec.options import options_of
from autolr.spec.plain import shown
from autolr.spec.study import StudySpec
from autolr.workflows.undisturbed import undisturbed

Listener = Progress | bool | None
"""Who is told of progress: True prints it to stderr, False or None is nobody."""
Texts = str | Sequence[str]
"""One text or several."""
F = TypeVar("F", bound=Callable[..., Any])


@contextmanager
def working(progress: Listener) -> Iterator[Progress]:
    """Have a listener while a block works, and the process as it was afterwards.

    Raises:
        UsageError: nobody can be told so.
    """
    listener = (Printed() if progress else Silent()) if progress is None or isinstance(progress, bool) else progress
    if not isinstance(listener, Progress):
        raise UsageError(
            f"progress must be True, False, or an object with start, update, note and check (got {shown(progress)})"
        )
    with undisturbed():
        yield listener


def task_name(task: str | TaskKind) -> str:
    """Return the name of a task; one that is an object becomes known in this process.

    Raises:
        UsageError: it is neither a name nor a task.
        AutolrError: its name, or that of a score of its, is another's.
    """
    if isinstance(task, str):
        return task
    if not isinstance(task, TaskKind):
        raise UsageError(f"task must be a name, or what autolr.own_task returns (got {shown(task)})")
    return add_task(task).name


def texts(given: object, name: str) -> tuple[str, ...]:
    """Return one text or several as several.

    Raises:
        UsageError: they are no texts.
    """
    several = given if isinstance(given, (list, tuple)) else (given,)
    if not all(isinstance(text, str) for text in several):
        raise UsageError(f"{name} must be one text or several (got {shown(given)})")
    return tuple(several)


def whole_number(given: object, name: str) -> int:
    """Return a whole number, also one of NumPy's.

    Raises:
        UsageError: it is none; True and False are none.
    """
    try:
        if not isinstance(given, bool):
            return operator.index(given)  # type: ignore[arg-type]
    except TypeError:
        pass  # said below
    raise UsageError(f"{name} must be a whole number (got {shown(given)})")


def check_options(given: Sequence[str], read: Sequence[str], function: str) -> None:
    """Refuse options that a function does not read.

    Raises:
        UsageError: naming the first, and those that are read.
    """
    by_field = {option.path[-1]: option.name for option in options_of(StudySpec).values()}
    for name in given:
        if by_field.get(name, name) not in read:
            raise UsageError(f"{function} has no option {name!r}; {nearest(name, read)}")


def with_options(function: F) -> F:
    """Show a function's ``**options`` in its signature and its documentation: those of the specification, once each."""
    shown = signature(function)
    own = [parameter for parameter in shown.parameters.values() if parameter.kind is not Parameter.VAR_KEYWORD]
    taken = {parameter.name for parameter in own}
    options = [option for option in options_of(StudySpec).values() if option.name not in taken]
    own += [Parameter(option.name, Parameter.KEYWORD_ONLY, default=option.default) for option in options]
    function.__signature__ = shown.replace(parameters=own)  # type: ignore[attr-defined]
    lines = [f"        {option.name}: {option.option.help}" for option in options]
    function.__doc__ = "\n".join([f"{(function.__doc__ or '').rstrip()}", "", "    Options:", *lines, ""])
    return function
