"""Biases folded into weights, for a dense export of architectures whose linear layers have none.

Symbols:
    x (in,): a layer's input; b (out,): its bias; G = E[x xᵀ] over the calibration data.

``v = G⁻¹ E[x]`` minimises ``E[(1 − vᵀx)²]``, so ``b vᵀ x`` stands for ``b`` as well as a linear map of x can; what is
left of b has the mean square ``‖b‖² (1 − E[x]ᵀ v)``. In a low-rank layer that is one rank more.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autolr.checkpoint.runtime.layers import LowRankLinear
from autolr.errors import UsageError

_RIDGE = 1e-6
"""Added to G's diagonal, as a share of its mean: directions that the inputs hardly have stay out of v."""


def nearest_to_one(mean: Float[Tensor, " in"], gram: Float[Tensor, "in in"]) -> Float[Tensor, " in"]:
    """Return v, float64: the linear map of the inputs that is nearest to the constant 1.

    Args:
        mean: E[x], (in,).
        gram: G, (in, in).

    Example:
        >>> x = torch.tensor([[2.0, 2.0], [2.0, -3.0]])
        >>> nearest_to_one(x.mean(0), x.mT @ x / 2).abs().round(decimals=3).tolist()
        [0.5, 0.0]
    """
    regular = gram.double().clone()
    regular.diagonal().add_((_RIDGE * regular.diagonal().mean()).clamp(min=torch.finfo(torch.float64).tiny))
    v: Tensor = torch.linalg.solve(regular, mean.double())
    return v


@torch.no_grad()
def fold_biases(model: nn.Module, constants: Mapping[str, Float[Tensor, " in"]]) -> None:
    """Replace low-rank layers by ones without bias and a rank more that give nearly the same.

    Args:
        model: changed.
        constants: dotted name of a layer -> its v.

    Raises:
        UsageError: one of them is not a low-rank layer.
    """
    for name, v in constants.items():
        layer = model.get_submodule(name)
        if not isinstance(layer, LowRankLinear):
            raise UsageError(f"the bias of {name}, a {type(layer).__name__}, cannot be folded into its factors")
        like = layer.outer_weight
        sizes = {**layer.sizes(), "rank": layer.rank + 1}
        folded = type(layer)(**sizes, device=like.device, dtype=like.dtype)
        state = {name: tensor for name, tensor in layer.state_dict().items() if name != "constant"}
        state["left.weight"] = torch.cat([like, layer.bias[:, None]], 1)
        state["right.weight"] = torch.cat([layer.inner_weight, v.to(like)[None]], 0)
        state["left.bias"] = torch.zeros_like(layer.bias)
        folded.load_state_dict(state)
        model.set_submodule(name, folded.train(layer.training))
