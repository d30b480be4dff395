"""What all calls of the API have in common: who is told of progress, which options there are, what is put back."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import Parameter, signature
from typing import Any, TypeVar

from autolr.progress import Printed, Progress, Silent
from autolr.scores import TaskKind
from autolr.scores.tables import add_task
from autolr.spec.options import options_of
from autolr.spec.study import StudySpec
from autolr.workflows.undisturbed import undisturbed

Listener = Progress | bool
"""Who is told of progress: True prints it to stderr, False is nobody."""
F = TypeVar("F", bound=Callable[..., Any])


@contextmanager
def working(progress: Listener) -> Iterator[Progress]:
    """Have a listener while a block works, and the process as it was afterwards."""
    with undisturbed():
        yield (Printed() if progress else Silent()) if isinstance(progress, bool) else progress


def task_name(task: str | TaskKind) -> str:
    """Return the name of a task; one that is an object becomes known in this process.

    Raises:
        AutolrError: its name, or that of a score of its, is another's.
    """
    return task if isinstance(task, str) else add_task(task).name


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
