"""``fused-activation``: the activation between two feed-forward layers, computed by the product before it.

Apart they are three passes over the widest tensor of a block: the bias is written, the product added, the activation
read and written. oneDNN does all three in one, on the CPU in float32. Where it does not apply the module computes as
before: with gradients, on other devices and dtypes, under autocast, while compiling, under dispatch modes such as the
FLOP counter, and for layers that carry hooks or adapters.
"""

from collections.abc import Callable
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

_EPILOGUES: dict[tuple[str, str], Callable[[Tensor], Tensor]] = {
    ("gelu", "none"): functional.gelu,
    ("gelu", "tanh"): lambda x: functional.gelu(x, approximate="tanh"),
    ("relu", ""): functional.relu,
    ("swish", ""): functional.silu,
}
_PRODUCT: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_dispatch_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)  # absent: never fuse
_known: WeakKeyDictionary[nn.Module, tuple[str, str] | None] = WeakKeyDictionary()


class FusedActivation(nn.Module):
    """Mixed into a BERT-type intermediate layer: ``activation(dense(x))`` in one product."""

    rewrite: ClassVar[str] = "fused-activation"
    dense: nn.Module
    intermediate_act_fn: nn.Module

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the activated output, (..., out_features).

        Args:
            hidden_states: (..., in_features).
        """
        dense: Any = self.dense
        kind = None if _hooked(dense) else getattr(dense, "kind", None)
        low_rank = kind in ("low-rank", "selected-low-rank") and dense.rank > 0
        last = dense.left if low_rank else dense.linear if kind == "selected" else dense
        trained = torch.is_grad_enabled() and any(p.requires_grad for p in (hidden_states, *dense.parameters()))
        if trained or not _fits(last, hidden_states):
            output: Tensor = self.intermediate_act_fn(dense(hidden_states))
            return output
        name, algorithm = epilogue(self.intermediate_act_fn) or ("none", "")
        inner = dense.right(hidden_states) if low_rank else hidden_states
        fused: Tensor = _PRODUCT(inner, last.weight, last.bias, name, [], algorithm)
        return fused


def fusable_modules(model: nn.Module) -> list[nn.Module]:
    """Return the modules that are a linear layer and a known activation after it."""
    return [
        module
        for module in model.modules()
        if hasattr(module, "dense")
        and isinstance(activation := getattr(module, "intermediate_act_fn", None), nn.Module)
        and _PRODUCT is not None
        and epilogue(activation) is not None
    ]


def epilogue(activation: nn.Module) -> tuple[str, str] | None:
    """Return oneDNN's name and algorithm for an activation, known by its values; None if it has none.

    transformers has many modules for one function, so their names say little.

    Example:
        >>> epilogue(nn.GELU()), epilogue(nn.ReLU()), epilogue(nn.Hardtanh())
        (('gelu', 'none'), ('relu', ''), None)
    """
    if activation not in _known:
        _known[activation] = None if any(True for _ in activation.parameters()) else _by_values(activation)
    return _known[activation]


def _by_values(activation: nn.Module) -> tuple[str, str] | None:
    x = torch.linspace(-8, 8, 257, device="cpu", dtype=torch.float64)
    with torch.no_grad():
        y = activation(x)
    return next((name for name, known in _EPILOGUES.items() if torch.allclose(known(x), y, rtol=0, atol=1e-9)), None)


def _fits(layer: Any, x: Tensor) -> bool:
    return (
        type(layer) is nn.Linear
        and not _hooked(layer)
        and x.dtype is torch.float32
        and layer.weight.dtype is torch.float32
        and layer.weight.device.type == "cpu"
        and min(layer.weight.shape) > 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not _dispatch_modes()
    )


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
