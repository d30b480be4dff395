"""One pattern for everything that people may add: a frozen record, a table of the built-in ones, an entry-point group.

A package adds a row by naming its record in an entry point::

    [project.entry-points."autolr.methods"]
    mymethod = "mypackage.mymodule:METHOD"
"""

from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from autolr.errors import AutolrError, UsageError, nearest


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

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Colour:
        ...     name: str
        >>> colours = Registry("colour", Colour, lambda: [Colour("red"), Colour("blue")])
        >>> colours.names(), colours.get("red")
        (('red', 'blue'), Colour(name='red'))
    """

    def __init__(self, noun: str, kind: type[Any], built_in: Callable[[], Iterable[R]]) -> None:
        self.noun = noun
        self.kind = kind
        self.group = f"autolr.{_plural(noun)}"
        self._built_in = built_in
        self._rows: dict[str, R] | None = None
        self._added: dict[str, R] = {}

    def all(self) -> dict[str, R]:
        """Return every record by name, the built-in ones first.

        Raises:
            AutolrError: an installed package registers something else, or takes a name that is in use.
        """
        if self._rows is None:
            rows = {record.name: record for record in self._built_in()}
            for point in entry_points(group=self.group):
                record = point.load()
                if not isinstance(record, self.kind):
                    raise AutolrError(
                        f"entry point {point.name} = {point.value} of {self.group} must be a "
                        f"{self.kind.__module__}.{self.kind.__qualname__}, got {record!r}"
                    )
                if record.name in rows:
                    raise AutolrError(
                        f"entry point {point.value} registers the {self.noun} name {record.name!r}, which is in use"
                    )
                rows[record.name] = record
            self._rows = rows
        return {**self._rows, **self._added}

    def add(self, record: R) -> None:
        """Add a record in this process alone, as a notebook does; one that was added so before is replaced.

        Raises:
            AutolrError: a built-in record or one of an installed package has the name.
        """
        if self._rows is None:
            self.all()
        if record.name in (self._rows or {}):
            raise AutolrError(f"the {self.noun} name {record.name!r} is in use; choose another")
        self._added[record.name] = record

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
            UsageError: the name is unknown; the message has the nearest one.
        """
        rows = self.all()
        if name not in rows:
            raise UsageError(f"unknown {self.noun} {name!r}; {nearest(name, rows)}")
        return rows[name]

    def __iter__(self) -> Iterator[R]:
        return iter(self.all().values())

    def __contains__(self, name: object) -> bool:
        return name in self.all()

    def forget(self) -> None:
        """Read the entry points again at the next question: for tests, and after a package was installed."""
        self._rows = None


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


def _plural(noun: str) -> str:
    return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
