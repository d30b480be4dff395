"""Closed-form methods: weight + statistics -> decomposition. ``methods()`` is the table, one file a method.

How to add a method: write one pure function ``decompose(weight, stats) -> Decomposition`` (float64, U-form from
:func:`autolr.methods.weighted_svd.weighted_svd` if the method is an instance of it), wrap it in a
:class:`autolr.types.Method` and either add it to ``BUILT_IN`` here, or, from another package, name it in the entry
point group ``autolr.methods``::

    [project.entry-points."autolr.methods"]
    mymethod = "mypackage.mymodule:METHOD"

Then run :func:`autolr.methods.conformance.check` on it: it states every law a method must obey.
"""

from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points

from autolr.errors import AutolrError, UsageError, nearest
from autolr.methods import afm, asvd, drone, fwsvd, kfac, losparse, svd
from autolr.types import Method

BUILT_IN: dict[str, Method] = {
    module.METHOD.name: module.METHOD for module in (svd, fwsvd, asvd, drone, afm, kfac, losparse)
}
ENTRY_POINTS = "autolr.methods"


@cache
def methods() -> dict[str, Method]:
    """Return every method by name: the built-in ones and those that installed packages register.

    Raises:
        AutolrError: an installed package registers something that is not a method, or takes a name that is in use.

    Example:
        >>> sorted(methods())[:3]
        ['afm', 'asvd', 'drone']
    """
    table = dict(BUILT_IN)
    for point in entry_points(group=ENTRY_POINTS):
        method = point.load()
        if not isinstance(method, Method):
            raise AutolrError(
                f"entry point {point.name} = {point.value} must be an autolr.types.Method, got {method!r}"
            )
        if method.name in table:
            raise AutolrError(f"entry point {point.value} registers the method name {method.name!r}, which is in use")
        table[method.name] = method
    return table


def get_methods(names: Iterable[str]) -> tuple[Method, ...]:
    """Return the named methods in the order given.

    Raises:
        UsageError: a name is unknown; the message has the nearest known one.
    """
    table = methods()
    found = []
    for name in names:
        if name not in table:
            raise UsageError(f"unknown method {name!r}; {nearest(name, table)}")
        found.append(table[name])
    return tuple(found)
