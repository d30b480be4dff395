"""The search: parameters to candidates, proposals, trials and who runs them.

The package can be called: ``autolr.search(...)`` is :func:`autolr.api.search`.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """A package whose name is also a function of the Python API."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return import_module("autolr.api").search(*args, **options)


sys.modules[__name__].__class__ = _Callable
