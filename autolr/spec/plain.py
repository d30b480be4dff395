"""Plain values, from options or YAML, checked strictly against a record; what is wrong is said readably."""

import json
import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from autolr.errors import UsageError, nearest

SHOWN = 200
"""Characters of a value that a message repeats: a file of a few lines may stand for millions of values."""
_LISTED = 20
"""Items of each list or mapping in a message, before it is cut."""


class Strict(BaseModel):
    """Base of everything read from YAML: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def flatten(plain: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return nested mappings as (dotted name, value) pairs.

    Example:
        >>> flatten({"a": {"b": 1}, "c": [2]})
        [('a.b', 1), ('c', [2])]
    """
    pairs: list[tuple[str, Any]] = []
    for key, value in plain.items():
        if isinstance(value, Mapping):
            pairs.extend(flatten(value, f"{prefix}{key}."))
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


class _Shown(reprlib.Repr):
    """Writes a value as ``repr`` does, without writing all of a large one first."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = _LISTED
        self.maxstring = self.maxlong = self.maxother = SHOWN


def shown(value: object) -> str:
    """Return a value for a message, at most ``SHOWN`` characters of it.

    Example:
        >>> shown("a text"), len(shown(["x" * 150, "y" * 150]))
        ("'a text'", 200)
    """
    text = _Shown().repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


Named = Callable[[Sequence[int | str]], str]
"""Gives a field's name by its keys."""


def parse_plain(
    adapter: Any, plain: Any, origin: str, record: type[BaseModel] | None = None, named: Named | None = None
) -> Any:
    """Validate plain values strictly.

    Args:
        adapter: pydantic's, of the type wanted.
        plain: nested mappings, collected from options or read from YAML (where it may turn out to be anything).
        origin: what they came from, for the message; empty where the names of the fields say that.
        record: the type wanted, where it is one; an unknown key is then answered with the nearest of its keys.
        named: names a field in the message; None: by its keys with dots between them.

    Raises:
        UsageError: a value is malformed; the message names the field, the value seen and what is allowed.
    """
    try:
        # Lists in YAML stand for tuples here; strict mode would refuse them in Python mode.
        return adapter.validate_json(json.dumps(plain, default=_plain))
    except ValidationError as error:
        raise UsageError(f"{origin}: {readable(error, record, named)}".removeprefix(": ")) from error
    except (TypeError, ValueError) as error:  # YAML knows dates and sets, JSON does not
        where, seen = _unfit(plain, named or _dotted) or ("", str(error))
        text = f"only numbers, texts, lists and mappings are allowed (got {seen})"
        raise UsageError(": ".join(part for part in (origin, where, text) if part)) from error


def _plain(value: object) -> object:
    """Return a number of NumPy's, or a data type of torch's, as a plain value.

    Raises:
        TypeError: it is something else.
    """
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    if (type(value).__module__, type(value).__name__) == ("torch", "dtype"):
        return str(value).removeprefix("torch.")
    raise TypeError(f"a {type(value).__name__} is no plain value")


def _unfit(plain: Any, named: Named, place: tuple[int | str, ...] = ()) -> tuple[str, str] | None:
    """Return the name and the form of the first value that JSON does not know; None where there is none to name."""
    items: Any = ()
    if isinstance(plain, Mapping):
        items = plain.items()
    elif isinstance(plain, (list, tuple)):
        items = enumerate(plain)
    for key, value in items:
        try:
            json.dumps({key: value}, default=_plain)
        except TypeError:
            return _unfit(value, named, (*place, key if isinstance(key, int) else str(key)))
        except ValueError:  # it contains itself, as an alias in YAML may
            return None
    return (named(place), shown(plain)) if place else None


class _UniqueKeys(yaml.SafeLoader):
    """Reads plain values only, and refuses a key that is given twice: YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"given twice: {', '.join(twice)}", node.start_mark)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def read_yaml(path: Path) -> Any:
    """Read a YAML file safely.

    Raises:
        UsageError: the file is missing, is not YAML or gives a key twice.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)  # noqa: S506  a safe loader
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {error}") from error


def readable(error: ValidationError, record: type[BaseModel] | None = None, named: Named | None = None) -> str:
    """Return pydantic's findings in one line: field, what must hold, the value seen; of unknown keys the nearest.

    Args:
        error: pydantic's.
        record: the type wanted, where it is one.
        named: gives a field's name by its keys; None: the keys with dots between them.
    """
    named = named or _dotted
    parts, findings = [], error.errors()
    for finding in findings:
        if finding["type"] == "too_short" and _holds_another(finding["loc"], findings):
            continue  # pydantic counts only the items that are valid themselves
        *place, key = finding["loc"] or ("the specification",)
        if finding["type"] == "extra_forbidden":
            parts.append(_unknown_key(str(key), place, record))
        elif finding["type"] == "missing":
            parts.append(f"{named([*place, key])} is not given")
        elif finding["type"] == "value_error" and not finding["loc"]:  # the record's own check, which names the keys
            parts.append(finding["msg"].removeprefix("Value error, "))
        else:
            seen = "" if key == "storage" else f" (got {shown(finding['input'])})"  # it may hold a password
            parts.append(f"{named([*place, key])}: {_rule(finding['msg'])}{seen}")
    return "; ".join(parts)


def _rule(message: str) -> str:
    return message.removeprefix("Value error, ").replace("Input should be", "must be")


def _holds_another(place: tuple[int | str, ...], findings: Sequence[Any]) -> bool:
    return any(len(one["loc"]) > len(place) and one["loc"][: len(place)] == place for one in findings)


def _unknown_key(key: str, place: Sequence[int | str], record: type[BaseModel] | None) -> str:
    keys = _keys_at(record, place)
    hint = f"; {nearest(key, keys)}" if keys else ""
    return f"unknown key {key!r} {f'in {_dotted(place)}' if place else 'at the top level'}{hint}"


def _keys_at(record: type[BaseModel] | None, place: Sequence[int | str]) -> list[str]:
    """Return the keys a record may have at a place of its nested form; none where that cannot be told."""
    for step in place:
        if isinstance(step, str) and record is not None:
            field = record.model_fields.get(step)
            inner = [] if field is None else [kind for kind in _kinds(field.annotation) if issubclass(kind, BaseModel)]
            record = inner[0] if len(inner) == 1 else None
    return [] if record is None else list(record.model_fields)


def _kinds(annotation: Any) -> list[type]:
    """Return the classes that an annotation such as ``tuple[Entry, ...]`` is made of."""
    inner = get_args(annotation)
    return [kind for part in inner for kind in _kinds(part)] if inner else [annotation] * isinstance(annotation, type)


def _dotted(place: Sequence[int | str]) -> str:
    """Return a place as a path.

    Example:
        >>> _dotted(["entries", 1, "name"])
        'entries[1].name'
    """
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    return path.removeprefix(".")
