"""Registers the plug-in with transformers without importing transformers.

Importing ``transformers.quantizers.auto`` takes over a second, and whoever imports autolr may never load a model.
So the plug-in is registered at once where that module is already imported; otherwise a finder waits on
``sys.meta_path`` for that one module and registers the plug-in when somebody, usually ``from_pretrained``, imports
it. Either way the order of the imports does not matter.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
from types import ModuleType
from typing import Any

_AWAITED = "transformers.quantizers.auto"


class _RegisteringLoader(importlib.abc.Loader):
    """Loads the awaited module with its own loader, then registers the plug-in."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module must not remember this loader: inspect and pickling ask a module's loader for its source.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _register()


class _AwaitingFinder(importlib.abc.MetaPathFinder):
    """Leaves every module but the awaited one to the other finders."""

    def find_spec(
        self,
        fullname: str,
        path: Any,  # a package's __path__: for a namespace package that is no Sequence, whatever typeshed says
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _AWAITED:
            return None
        # The others are asked in place. Taking this finder off the list for the time would let an import that runs
        # in another thread skip one of them.
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _RegisteringLoader(spec.loader)
                return spec
        return None


def install() -> None:
    """Register the plug-in now if transformers' table of quantizers is imported, otherwise as soon as it is."""
    if _AWAITED in sys.modules:
        _register()
    elif not any(isinstance(finder, _AwaitingFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AwaitingFinder())


def _register() -> None:
    plugin = importlib.import_module("autolr.checkpoint.plugin")
    # Where importing the plug-in is what imports transformers, it is incomplete here and registers itself at its end.
    if hasattr(plugin, "register"):
        plugin.register()
