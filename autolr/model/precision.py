"""Weights of two bytes that are float32 while they are at work, and only then."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

HALVES = (torch.bfloat16, torch.float16)


@contextmanager
def in_float32(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Run a block of code with these modules' own parameters and buffers in float32; their own tensors are back later.

    Submodules are not changed; give them, too. Tensors that are float32 (or float64) already are not copied.
    """
    with ExitStack() as stack:
        for module in modules:
            for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
                if tensor.dtype in HALVES:
                    stack.callback(setattr, tensor, "data", tensor.data)
                    tensor.data = tensor.data.float()
        yield


@contextmanager
def looked_up_in_float32(tables: Iterable[nn.Module]) -> Iterator[None]:
    """Give what embeddings look up as float32: the tables, which may be large, stay as they are."""
    with ExitStack() as stack:
        for table in tables:
            stack.callback(table.register_forward_hook(_as_float32).remove)
        yield


def _as_float32(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
    return output.float() if output.dtype in HALVES else output
