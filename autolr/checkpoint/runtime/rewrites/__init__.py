"""Exact changes to a model that make it faster and leave what it computes as it is.

A rewrite gives some modules another class: a mixin before their own, so that parameters and their names stay.

These files depend on torch alone: a copy of them travels with every checkpoint.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from autolr.checkpoint.runtime.rewrites.first_position import FirstPositionBlock, first_position_blocks
from autolr.checkpoint.runtime.rewrites.fused_activation import FusedActivation, fusable_modules

_MIXINS: dict[str, tuple[type[nn.Module], Callable[[nn.Module], list[nn.Module]]]] = {
    FirstPositionBlock.rewrite: (FirstPositionBlock, first_position_blocks),
    FusedActivation.rewrite: (FusedActivation, fusable_modules),
}
REWRITES = tuple(_MIXINS)
_classes: dict[tuple[str, type[nn.Module]], type[nn.Module]] = {}


def apply(model: nn.Module, name: str) -> bool:
    """Rewrite a model in place; its parameters and their names stay.

    Args:
        model: a model that may already be rewritten.
        name: one of ``REWRITES``.

    Returns:
        Whether the model has what the rewrite changes; if not it stays as it is.

    Raises:
        ValueError: there is no rewrite of that name.
    """
    if name not in REWRITES:
        raise ValueError(f"unknown rewrite {name!r}; known are {', '.join(REWRITES)}")
    mixin, fitting = _MIXINS[name]
    modules = fitting(model)
    for module in modules:
        if not isinstance(module, mixin):
            module.__class__ = _mixed(name, type(module))
    return bool(modules)


def _mixed(name: str, cls: type[nn.Module]) -> type[nn.Module]:
    """Return a class with the mixin before it; of the same name, which device maps go by, and one that pickles."""

    def __reduce__(self: nn.Module) -> tuple[Any, ...]:  # noqa: N807
        return _rebuilt, (name, cls), self.__dict__

    if (name, cls) not in _classes:
        members = {"__reduce__": __reduce__, "__module__": cls.__module__}
        _classes[name, cls] = type(cls.__name__, (_MIXINS[name][0], cls), members)
    return _classes[name, cls]


def _rebuilt(name: str, cls: type[nn.Module]) -> nn.Module:
    mixed = _mixed(name, cls)
    return mixed.__new__(mixed)


def undo(model: nn.Module, names: tuple[str, ...] = REWRITES) -> None:
    """Give every module that these rewrites changed its own class back."""
    for module in model.modules():
        if getattr(module, "rewrite", None) in names:
            module.__class__ = type(module).__mro__[2]


@contextmanager
def without(model: nn.Module, name: str) -> Iterator[None]:
    """Run a block of code in which a model does not have a rewrite."""
    had = name in applied(model)
    undo(model, (name,))
    try:
        yield
    finally:
        if had:
            apply(model, name)


def applied(model: nn.Module) -> list[str]:
    """Return the names of the rewrites that a model has."""
    found = {getattr(module, "rewrite", None) for module in model.modules()}
    return [name for name in REWRITES if name in found]
