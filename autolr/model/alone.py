"""Whether an answer depends on its batch: a few texts are asked alone and beside a longer one before others are.

Padding is where it goes wrong: positions that shift, a head that reads at the padding, a convolution that reaches into
it. Each is silent, and every figure after it is of another model than the one that is served text by text.
"""

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autolr.errors import UsageError
from autolr.model.memory import available_bytes

LOOKED_AT = 256
"""Examples among which a short, a middling and a long one are chosen."""
Ask = Callable[[nn.Module], tuple[Float[Tensor, "texts values"], Float[Tensor, "texts values"]]]
"""A model -> its answers to some texts, each asked alone, and to the same texts in one batch."""
_ROUNDING = 1e-3
"""Share of the largest answer by which rounding in float32 may move another."""


def spread(n: int) -> list[int]:
    """Return the first, the middle and the last of n places, once each.

    Example:
        >>> spread(9), spread(2), spread(1)
        ([0, 4, 8], [0, 1], [0])
    """
    return sorted({0, n // 2, n - 1})


def check_same(what: str, model: nn.Module, ask: Ask) -> None:
    """Refuse a model whose answers to some texts alone are not those it gives in a batch.

    How far rounding in half precision moves an answer depends on what it is the difference of; so where answers differ,
    a copy of the model in float32 is asked, which answers as far as there is memory for one.

    Args:
        what: was asked, for the message.
        model: that is asked.
        ask: asks it.

    Raises:
        UsageError: they differ by more than rounding; says how far.
    """
    alone, together = ask(model)
    if not _same(alone, together) and next(model.parameters()).dtype in (torch.float16, torch.bfloat16):
        if not _fits_in_float32(model):
            return
        alone, together = ask(copy.deepcopy(model).float())
    if _same(alone, together):
        return
    gap = (alone - together).abs()
    text, value = divmod(int(gap.flatten().argmax()), gap.shape[1])
    raise UsageError(
        f"{what}: this {type(model).__name__} answers a text otherwise alone ({float(alone[text, value]):.4g}) than in "
        f"a batch with a longer one ({float(together[text, value]):.4g}), so scores would depend on the batches; "
        f"--scoring-batch-size 1 asks about one text at a time"
    )


def _same(alone: Tensor, together: Tensor) -> bool:
    return bool(((alone - together).abs() <= _ROUNDING * float(alone.abs().max())).all())


def _fits_in_float32(model: nn.Module) -> bool:
    """Tell whether half of the free memory takes a copy of the model; that of a GPU is not asked."""
    if any(parameter.is_meta for parameter in model.parameters()):
        return False  # spread over memory and disk
    free = available_bytes()
    return free is None or 4 * sum(parameter.numel() for parameter in model.parameters()) < free / 2
