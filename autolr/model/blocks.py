"""How a model calls one of its blocks: taken from a pass, and made again on other hidden states."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import Cache


class Stop(Exception):
    """Raised by a hook: the rest of the pass is not needed."""


@contextmanager
def stopping() -> Iterator[None]:
    """Run a pass that ends where a hook raises :class:`Stop`."""
    with suppress(Stop):
        yield


@dataclass(frozen=True)
class BlockCall:
    """How the model calls a block on one batch, apart from the hidden states.

    Example:
        >>> import torch
        >>> hidden, call = BlockCall.of((torch.zeros(1, 2, 3), None), {"use_cache": True})
        >>> hidden.shape, call.args, call.kwargs
        (torch.Size([1, 2, 3]), (None,), {'use_cache': True})
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, "BlockCall"]:
        """Return the hidden states that a block is called with, and the rest of the call."""
        rest = {key: _without_cache(value) for key, value in kwargs.items() if key != "hidden_states"}
        if args:
            return args[0], cls(tuple(map(_without_cache, args[1:])), rest)
        return kwargs["hidden_states"], cls((), {**rest, "hidden_states": None})

    def run(self, block: Callable[..., Any], hidden: Tensor) -> Tensor:
        """Return what the block, or its forward alone, makes of hidden states."""
        if "hidden_states" in self.kwargs:
            output = block(*self.args, **{**self.kwargs, "hidden_states": hidden})
        else:
            output = block(hidden, *self.args, **self.kwargs)
        tensor: Tensor = output[0] if isinstance(output, tuple) else output
        return tensor


def _without_cache(value: Any) -> Any:
    """Return an argument as it is, but no cache of keys and values: a block is called many times on the same batch."""
    return None if isinstance(value, Cache) else value
