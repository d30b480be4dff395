"""autolr: search which low-rank method and which rank compress each layer of a transformer best.

The names below are the Python API; they are loaded when they are first used. See :mod:`autolr.api`.
"""

from typing import TYPE_CHECKING

from autolr.checkpoint.hook import install as _install

if TYPE_CHECKING:
    from autolr.api import Study, bench, compare, estimate, evaluate, load, own_task, probe, search, trim

__version__ = "0.1.0"
__all__ = ["Study", "bench", "compare", "estimate", "evaluate", "load", "own_task", "probe", "search", "trim"]

_install()


def __getattr__(name: str) -> object:
    if name in __all__:
        from autolr import api

        return getattr(api, name)
    raise AttributeError(f"module 'autolr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
