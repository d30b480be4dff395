"""What a layer's output is added to, found by what runs after it."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autolr.model.blocks import BlockCall, Stop, stopping


@dataclass(frozen=True)
class Seen:
    """One call of a layer in its block.

    Attributes:
        fed: what it is fed, (batch, positions, in).
        output: what it gives, (batch, positions, out).
        beside: what that is added to, of the same shape; zeros where the next layer is fed the output itself.
    """

    fed: Tensor
    output: Tensor
    beside: Tensor


def see_output(block: nn.Module, name: str, call: BlockCall, hidden: Tensor) -> Seen:
    """Run a block and return what one of its layers is fed, gives, and what that is added to.

    The sum is what the next layer is fed that computes anything (a norm, in most models), or what the block gives.

    Args:
        block: in evaluation mode.
        name: of the layer in the block.
        call: of the block.
        hidden: its hidden states.
    """
    layer = block.get_submodule(name)
    own = set(layer.modules())
    fed: list[Tensor] = []
    outputs: list[Tensor] = []
    sums: list[Tensor] = []

    def after(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        fed.append(args[0])
        outputs.append(output)

    def before(_module: nn.Module, args: tuple[Any, ...]) -> None:
        if outputs and not sums and args and isinstance(args[0], Tensor):
            sums.append(args[0])
            raise Stop

    with ExitStack() as hooks:
        hooks.callback(layer.register_forward_hook(after).remove)
        for module in block.modules():
            if module not in own and not isinstance(module, nn.Dropout | nn.Identity) and not [*module.children()]:
                hooks.callback(module.register_forward_pre_hook(before).remove)
        with stopping():
            sums.append(call.run(block, hidden))
    total, output = sums[0], outputs[0]
    beside = total - output if total.shape == output.shape else torch.zeros_like(output)
    return Seen(fed[0], output, beside)
