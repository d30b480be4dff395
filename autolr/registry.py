"""One pattern for everything that people may add: a frozen record, a table of the built-in ones, an entry-point group.

A package adds a row by naming its record in an entry point::

    [project.entry-points."autolr.methods"]
    mymethod = "mypackage.mymodule:METHOD"
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from autolr.errors import AutolrError, UsageError, nearest

LONGEST_NAME = 60
_NAME = re.compile(r"[a-z][a-z0-9_-]*")


@runtime_checkable
class Record(Protocol):
    """What a table holds: a record with a name."""

    @property
    def name(self) -> str:
        """How it is named on the command line and in files."""
        ...


R = TypeVar("R", bound=Record)


class Registry(Generic[R]):
    """A table of records by name: the built-in ones, and those that installed packages register.

    Entry points are loaded at the first question, and once.

    Args:
        noun: what a record is called in messages, such as "method".
        kind: the class of the records.
        built_in: returns the built-in records; a function, so that a table does not load what nobody asks for.
        reserved: folders of the bank that no record may be called like, where its files lie in one of its name.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Colour:
        ...     name: str
        >>> colours = Registry("colour", Colour, lambda: [Colour("red"), Colour("blue")])
        >>> colours.names(), colours.get("red")
        (('red', 'blue'), Colour(name='red'))
    """

    def __init__(
        self, noun: str, kind: type[Any], built_in: Callable[[], Iterable[R]], reserved: Collection[str] = ()
    ) -> None:
        self.noun = noun
        self.kind = kind
        self.group = f"autolr.{_plural(noun)}"
        self._built_in = built_in
        self._reserved = frozenset(reserved)
        self._rows: dict[str, R] | None = None
        self._added: dict[str, R] = {}

    def all(self) -> dict[str, R]:
        """Return every record by name, the built-in ones first.

        Raises:
            AutolrError: what an installed package registers cannot be imported, is something else, or has a name that
                is no name or is in use; the message names the package and the entry point.
        """
        if self._rows is None:
            rows: dict[str, R] = {}
            for record in self._built_in():
                self._take(rows, record, f"autolr's own table of {_plural(self.noun)}")
            for point in entry_points(group=self.group):
                self._take(rows, self._record(point), _described(point))
            self._rows = rows
        return {**self._rows, **self._added}

    def _take(self, rows: dict[str, R], record: R, whose: str) -> None:
        """Put a record among others that are not of this process alone."""
        self._check_name(record, whose)
        name = record.name
        if name in rows:
            raise AutolrError(f"{whose} registers the {self.noun} name {name!r}, which is in use; choose another name")
        if self._added.get(name, record) != record:
            raise AutolrError(
                f"{whose} registers the {self.noun} name {name!r}, under which this process has added another; remove "
                f"that one first, and add it under another name"
            )
        rows[name] = record

    def _check_name(self, record: R, whose: str) -> None:
        name = getattr(record, "name", None)
        if not is_name(name):
            raise UsageError(
                f"{whose}: the name of a {self.noun} must be of a-z, 0-9, - and _, begin with a letter and have at "
                f"most {LONGEST_NAME} characters, got {name!r}; give it another"
            )
        if name in self._reserved:
            raise UsageError(
                f"{whose}: the name of a {self.noun} must not be {name!r}, for the bank has a folder of that "
                f"name; give it another"
            )

    def _check_kind(self, record: object, whose: str) -> None:
        if not isinstance(record, self.kind):
            raise UsageError(f"{whose} must be a {self.kind.__module__}.{self.kind.__qualname__}, got {record!r}")

    def _record(self, point: EntryPoint) -> R:
        """Return what an entry point names."""
        try:
            record: R = point.load()
        except (Exception, SystemExit) as error:  # a package's own code may do anything: whose it was is to be told
            raise AutolrError(
                f"{_described(point)} cannot be loaded: {type(error).__name__}: {error}; mend or uninstall the package"
            ) from error
        self._check_kind(record, _described(point))
        return record

    def add(self, record: R) -> R | None:
        """Add a record in this process alone, as a notebook does; one that was added so before is replaced.

        Returns:
            The record that was replaced; None where there was none.

        Raises:
            UsageError: it is no such record, or its name is no name.
            AutolrError: a built-in record or one of an installed package has the name.
        """
        self._check_kind(record, f"what is added to the table of {_plural(self.noun)}")
        self._check_name(record, "what is added")
        if self._rows is None:
            self.all()
        if record.name in (self._rows or {}):
            raise AutolrError(f"the {self.noun} name {record.name!r} is in use; choose another")
        replaced = self._added.get(record.name)
        self._added[record.name] = record
        return replaced

    def added(self, name: str) -> R | None:
        """Return the record of a name that was added in this process; None where there is none."""
        return self._added.get(name)

    def remove(self, name: str) -> None:
        """Take away a record that was added in this process; nothing happens where there is none."""
        self._added.pop(name, None)

    def names(self) -> tuple[str, ...]:
        """Return the names, the built-in ones first."""
        return tuple(self.all())

    def get(self, name: str) -> R:
        """Return the record of a name.

        Raises:
            UsageError: the name is unknown, then the message has the nearest one; or it is no text.
        """
        rows = self.all()
        if not isinstance(name, str):
            raise UsageError(f"a {self.noun} is given by its name (got {name!r:.200}); known: {', '.join(rows)}")
        if name not in rows:
            raise UsageError(f"unknown {self.noun} {name!r}; {nearest(name, rows)}")
        return rows[name]

    def __iter__(self) -> Iterator[R]:
        return iter(self.all().values())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.all()

    def forget(self) -> None:
        """Read the entry points again at the next question: for tests, and after a package was installed."""
        self._rows = None


def is_name(name: object) -> bool:
    """Tell whether this may be the name of a record: it is a word of the command line, a key and a folder.

    Example:
        >>> is_name("low-rank"), is_name("../low"), is_name("Low"), is_name(3)
        (True, False, False, False)
    """
    return isinstance(name, str) and len(name) <= LONGEST_NAME and _NAME.fullmatch(name) is not None


def placed_function(place: Callable[..., Any] | str) -> Callable[..., Any]:
    """Return a function that is given itself or by its place, ``package.module:function``.

    Example:
        >>> placed_function("math:sqrt")(9.0)
        3.0
    """
    if not isinstance(place, str):
        return place
    module, _, name = place.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


def _described(point: EntryPoint) -> str:
    """Return an entry point with its group and package, as messages begin."""
    package = f"package {point.dist.name} {point.dist.version}" if point.dist else "an installed package"
    return f"{package}: the entry point {point.name} = {point.value} of {point.group}"


def _plural(noun: str) -> str:
    return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
