"""What a field of a specification says of itself as an option: its help, its panel, how text becomes its value.

A field is described where it is declared, by an :class:`Option` in its annotation; the command line, the Python API and
whoever else asks a person for settings are generated from :func:`options_of`.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from autolr.errors import UsageError, nearest
from autolr.spec.plain import shown

Panel = Literal["", "Data", "Probes", "Search", "Where it runs", "What costs are stated for", "Output"]
"""Under which title an option is shown; the empty one has what most people need and comes first."""
PANELS: tuple[Panel, ...] = get_args(Panel)

Reader = Callable[[str, str], Any]
"""``(text, how the option is called) -> plain value``."""


@dataclass(frozen=True)
class Option:
    """How a field is offered to a person.

    Attributes:
        help: one sentence; begins with a capital letter, ends with a full stop.
        panel: its title.
        name: how it is called where not as its field; options that repeat are in the singular.
        read: how one text becomes the value where that is no text, number or switch.
        place: says where contents lie: an existing path is stored as absolute, so that a study resumes from anywhere.
        repeats: several values are taken though the field has one: some of them are another field's.
        negated: whether a switch has a ``--no-`` form.
        settled: where it is not given, other options decide, such as the space.
    """

    help: str
    panel: Panel = ""
    name: str | None = None
    read: Reader | None = None
    place: bool = False
    repeats: bool = False
    negated: bool = True
    settled: bool = False


@dataclass(frozen=True)
class SpecOption:
    """An option that a field of a specification is given by.

    Attributes:
        path: the field's keys, such as ``("run", "batch_size")``.
        name: of the option with underscores, such as ``batch_size``; no two are called alike.
        option: what the field says of itself.
        kind: str, int, float or bool: of a value, or of each where there are many.
        many: several values are taken.
        least: the smallest value allowed, where there is one that is.
        required: there is no default.
        default: the field's; None where none is given or it is required.
    """

    path: tuple[str, ...]
    name: str
    option: Option
    kind: type
    many: bool
    least: int | float | None
    required: bool
    default: Any

    @property
    def flag(self) -> str:
        """The option as it is typed, such as ``--batch-size``."""
        return f"--{self.name.replace('_', '-')}"


@cache
def options_of(record: type[BaseModel]) -> dict[str, SpecOption]:
    """Return the options of a specification by name, those of inner records where their field stands.

    Example:
        >>> from autolr.spec.study import StudySpec
        >>> one = options_of(StudySpec)["batch_size"]
        >>> one.path, one.kind, one.least, one.default, one.flag
        (('run', 'batch_size'), <class 'int'>, 1, 8, '--batch-size')
    """
    options: dict[str, SpecOption] = {}
    for name, field in record.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            for option in options_of(inner).values():
                assert option.name not in options, option.name
                options[option.name] = _under(name, option)
            continue
        described = [entry for entry in field.metadata if isinstance(entry, Option)]
        if described:
            made = _option(name, field, described[0])
            assert made.name not in options, made.name
            options[made.name] = made
    return options


def find_option(record: type[BaseModel], name: str) -> SpecOption:
    """Return the option of a name, or of a field's name.

    Raises:
        UsageError: there is none; names the nearest.

    Example:
        >>> from autolr.spec.study import StudySpec
        >>> find_option(StudySpec, "methods") is find_option(StudySpec, "method")
        True
    """
    options = options_of(record)
    if name in options:
        return options[name]
    by_field = {option.path[-1]: option for option in options.values()}
    if name in by_field:
        return by_field[name]
    raise UsageError(f"there is no option {name!r}; {nearest(name, options)}")


def flag_of(record: type[BaseModel], place: Sequence[int | str]) -> str:
    """Return the option that a field of the specification is given by, as it is typed.

    Example:
        >>> from autolr.spec.study import StudySpec
        >>> flag_of(StudySpec, ["run", "scoring_batch_size"]), flag_of(StudySpec, ["budgets", 0])
        ('--scoring-batch-size', '--budget')
    """
    return f"--{name_of(record, place).replace('_', '-')}"


def name_of(record: type[BaseModel], place: Sequence[int | str]) -> str:
    """Return the name of the option that a field of the specification is given by.

    Example:
        >>> from autolr.spec.study import StudySpec
        >>> name_of(StudySpec, ["crew", "timeout"])
        'worker_timeout'
    """
    path = tuple(step for step in place if isinstance(step, str))
    names = [option.name for option in options_of(record).values() if option.path == path]
    return names[0] if names else path[-1]


def given_path(given: object, name: str) -> Path:
    """Return a path that a person gave.

    Raises:
        UsageError: it is no path, or empty, as a shell variable that is not set: that would be the working directory.

    Example:
        >>> given_path("studies/mine", "study").name
        'mine'
    """
    if not isinstance(given, str | os.PathLike):
        raise UsageError(f"{name} must be a path (got {shown(given)})")
    if not os.fspath(given):
        raise UsageError(f"{name} is empty; name a path (. is the working directory)")
    return Path(given)


def duration(text: str, name: str) -> float:
    """Return seconds.

    Raises:
        UsageError: the text is not a duration.

    Example:
        >>> duration("2m", "--time-limit"), duration("90", "--time-limit")
        (120.0, 90.0)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"{name} {text!r} must be a duration above zero such as 90s, 30m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def names(text: str, name: str) -> list[str]:
    """Return the names of a list such as ``yes, no``.

    Raises:
        UsageError: there is none.

    Example:
        >>> names("yes, no", "--words")
        ['yes', 'no']
    """
    if not text.strip():
        raise UsageError(f"{name} is empty; it must be names with commas between them")
    return [part.strip() for part in text.split(",")]


def whole_numbers(text: str, name: str) -> list[int]:
    """Return the numbers of a list such as ``32,20``.

    Raises:
        UsageError: it is not a list of whole numbers above zero.

    Example:
        >>> whole_numbers("32, 20", "--lengths")
        [32, 20]
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"{name} {text!r} must be whole numbers above zero, such as 32,20,12")
    return [int(part) for part in parts]


def _option(name: str, field: FieldInfo, option: Option) -> SpecOption:
    kind, many, metadata = _kind(field.annotation)
    least = next((entry.ge for entry in [*field.metadata, *metadata] if hasattr(entry, "ge")), None)
    required = field.is_required()
    default = None if required else field.default
    return SpecOption((name,), option.name or name, option, kind, many or option.repeats, least, required, default)


def _under(key: str, option: SpecOption) -> SpecOption:
    return SpecOption(
        (key, *option.path),
        option.name,
        option.option,
        option.kind,
        option.many,
        option.least,
        option.required,
        option.default,
    )


def _kind(annotation: Any) -> tuple[type, bool, list[Any]]:
    """Return the class of a value, whether there are many, and what the annotation says besides."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        kind, many, metadata = _kind(inner[0])
        return kind, many, [*metadata, *inner[1:]]
    if origin in (Union, UnionType):
        [wanted] = [part for part in inner if part is not NoneType]
        return _kind(wanted)
    if origin is Literal:
        return type(inner[0]), False, []
    if origin is tuple:
        return _kind(inner[0])[0], True, []
    assert isinstance(annotation, type)
    return annotation, False, []
