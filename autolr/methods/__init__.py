"""Closed-form methods: weight + statistics -> decomposition. ``METHODS`` is the table, one file a method.

How to add a method: write one pure function ``decompose(weight, stats) -> Decomposition`` (float64, U-form from
:func:`autolr.methods.weighted_svd.weighted_svd` if the method is an instance of it), wrap it in a
:class:`autolr.types.Method` and either add its module here, or, from another package, name it in the entry-point group
``autolr.methods``::

    [project.entry-points."autolr.methods"]
    mymethod = "mypackage.mymodule:METHOD"

Then run :func:`autolr.methods.conformance.check` on it: it states every law a method must obey.
"""

from collections.abc import Iterable

from autolr.errors import UsageError
from autolr.methods import (
    afm,
    asvd,
    drone,
    fisher,
    fisher_heads,
    fwsvd,
    groupreduce,
    kfac,
    losparse,
    obs,
    obs_heads,
    obs_ov,
    svd,
    svd_qk,
    van_loan,
    van_loan_kfac,
)
from autolr.registry import Registry
from autolr.types import Method

_OF = {
    "neurons": "neurons and comes with the form that removes them",
    "embedding": "tables of token vectors and comes with --form embedding",
    "heads": "heads of attention and comes with --form heads",
    "value-output": "value and output of attention and comes with --form ov-pair",
    "query-key": "query and key of attention and comes with --form qk-pair",
}
"""What methods are for that no study names, and which form brings them."""
BANK_FOLDERS = ("statistics", "scales", "alone", "dense")
"""What the bank's folder holds beside a folder for each method and each recovery."""
METHODS: Registry[Method] = Registry(
    "method",
    Method,
    lambda: (
        module.METHOD
        for module in (
            svd,
            fwsvd,
            asvd,
            drone,
            afm,
            kfac,
            losparse,
            obs,
            obs_heads,
            obs_ov,
            svd_qk,
            groupreduce,
            van_loan,
            van_loan_kfac,
            fisher,
            fisher_heads,
        )
    ),
    reserved=BANK_FOLDERS,
)
"""Every method: the built-in ones and those of installed packages."""


def get_methods(names: Iterable[str]) -> tuple[Method, ...]:
    """Return the named methods in the order given.

    Raises:
        UsageError: a name is unknown; the message has the nearest one.
    """
    return tuple(METHODS.get(name) for name in names)


def matrix_methods(names: Iterable[str]) -> tuple[Method, ...]:
    """Return the named methods for single matrices in the order given.

    Raises:
        UsageError: a name is unknown, or the method comes with a form.
    """
    methods = get_methods(names)
    for method in methods:
        if method.rearranges:
            raise UsageError(f"--method {method.name} comes with its form; ask for that by --form kronecker")
        if method.of != "matrix":
            raise UsageError(f"--method {method.name} is for {_OF[method.of]}")
    return methods
