"""The table of recoveries.

How to add one: write ``compute`` and ``apply`` as :class:`autolr.recovery.base.Recovery` says, run
:func:`autolr.recovery.conformance.check` on the record, and name it in the entry-point group ``autolr.recoveries``::

    [project.entry-points."autolr.recoveries"]
    mine = "mypackage.mymodule:RECOVERY"

A specification asks for it by ``search.recovery: mine``.
"""

from collections.abc import Iterable

from autolr.methods import BANK_FOLDERS
from autolr.recovery.base import Recovery
from autolr.registry import Registry


def _built_in() -> Iterable[Recovery]:
    from autolr.recovery.mask_tuning import MASK_TUNING
    from autolr.recovery.refit import REFIT

    return (REFIT, MASK_TUNING)


RECOVERIES = Registry("recovery", Recovery, _built_in, reserved=BANK_FOLDERS)
"""Every recovery by name: the built-in ones, and those of installed packages."""
