"""Options of commands, generated from the fields of the specification, and those that only a terminal needs."""

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, get_args

import typer
from typer.models import OptionInfo

from autolr.errors import UsageError
from autolr.spec.options import PANELS, SpecOption, given_path, options_of
from autolr.spec.study import StudySpec

Given = dict[str, object]
"""Option -> value; None where it was not given and the specification has no plain default."""


def path(text: str) -> Path:
    """Read a path; an empty one, as a shell variable that is not set, would be the working directory."""
    try:
        return given_path(text, "the path")
    except UsageError as error:
        raise typer.BadParameter(str(error)) from error


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.", rich_help_panel="Output")]
Profile = Annotated[
    Path | None,
    typer.Option(
        parser=path,
        help="YAML file with batch_size, seq_len, lengths, dtype, device, threads; takes their place.",
        rich_help_panel="What costs are stated for",
    ),
]
Study = Annotated[Path | None, typer.Option(parser=path, help="The study's folder; none: studies/<model>-<budget>.")]
StudyArgument = Annotated[Path, typer.Argument(parser=path, metavar="STUDY", help="The study's folder.")]

Command = Callable[..., None]


def takes(
    *names: str, says: Mapping[str, str] = MappingProxyType({}), given: bool = True
) -> Callable[[Command], Command]:
    """Give a command options of the specification; it receives them as a mapping, its first parameter.

    Args:
        names: options, a field that holds some (``run``, ``search.space``), or parameters of the command itself, in
            the order in which they are shown; panels keep their order, and parameters that are not named come last.
        says: option -> what its help says in this command, where that is something else; it is then shown in the first
            panel.
        given: whether an option has the field's default where it is not given; else None.
    """

    def decorate(command: Command) -> Command:
        own = dict(inspect.signature(command).parameters)
        receiver = next(iter(own))
        del own[receiver]
        parameters: list[inspect.Parameter] = []
        generated: set[str] = set()
        for name in names:
            if name in own:
                parameters.append(own.pop(name))
                continue
            options = _named(name)
            generated |= options.keys()
            parameters += [_parameter(one, says.get(one.name), given) for one in options.values()]
        parameters += own.values()
        parameters.sort(key=_place)

        @functools.wraps(command)
        def wrapped(**values: Any) -> None:
            told: Given = {name: values.pop(name) for name in generated}
            command(told, **values)

        as_keyword = inspect.Parameter.KEYWORD_ONLY
        wrapped.__signature__ = inspect.Signature([one.replace(kind=as_keyword) for one in parameters])  # type: ignore[attr-defined]
        return wrapped

    return decorate


def _named(name: str) -> dict[str, SpecOption]:
    """Return the option of this name, or those that a field holds."""
    options = options_of(StudySpec)
    if name in options:
        return {name: options[name]}
    keys = tuple(name.split("."))
    held = {option.name: option for option in options.values() if option.path[: len(keys)] == keys}
    if not held:
        raise LookupError(f"the specification has no option {name}")
    return held


def _parameter(option: SpecOption, text: str | None, given: bool) -> inspect.Parameter:
    """Return a command's parameter for an option; what it means is told by the specification alone."""
    plain = option.option.read is None and not option.many
    kind: Any = option.kind if plain else str
    kind = list[kind] if option.many and option.option.read is None else kind
    default = option.default if plain and given and not option.option.settled else None
    if option.required and given:
        default = inspect.Parameter.empty
    elif default is None:
        kind = kind | None
    flags = [option.flag]
    if option.kind is bool and option.option.negated:
        flags = [f"{option.flag}/--no-{option.flag.removeprefix('--')}"]
    info = typer.Option(
        *flags,
        help=text or option.option.help,
        min=option.least if plain and option.kind in (int, float) else None,
        rich_help_panel=(option.option.panel or None) if text is None else None,
    )
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
    )


def _place(parameter: inspect.Parameter) -> int:
    """Return the rank of a parameter's panel; arguments come before all."""
    [info] = [entry for entry in get_args(parameter.annotation)[1:] if hasattr(entry, "rich_help_panel")]
    panel = info.rich_help_panel or ""
    return -1 if not isinstance(info, OptionInfo) else PANELS.index(panel) if panel in PANELS else len(PANELS)
