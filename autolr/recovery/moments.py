"""Second moments of a group of layers: of what they are fed now, and with what they are to answer.

Products are taken per batch in float32 and added up in float64. Layers that are fed the same tensor share them: where a
group's answers are wider than what it is fed, moments with the dense model's inputs are taken, ``Σ x* xᵀ``, and those
with an answer ``y = W x* + b`` follow: ``W Σ x* xᵀ + b Σ xᵀ``.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from autolr.recovery.observed import INPUT, Targets
from autolr.recovery.regression import LayerMoments, Refitted, computed_beside, places, reads_some

_STRIP = 128
"""Columns of a Gram matrix that are computed at once; of each strip only what is not known by symmetry."""


class Moments:
    """Σ x, Σ x xᵀ, and of each target t: Σ t, Σ t xᵀ, over tokens; float64.

    Example:
        >>> moments = Moments()
        >>> moments.add(torch.tensor([[1.0, 0.0], [3.0, 2.0]]), {"up": torch.tensor([[1.0], [2.0]])})
        >>> moments.n_tokens, moments.gram.tolist(), moments.cross["up"].tolist()
        (2, [[10.0, 6.0], [6.0, 4.0]], [[7.0, 4.0]])
    """

    def __init__(self) -> None:
        self.n_tokens = 0
        self.gram: Any = 0
        self.total: Any = 0
        self.cross: dict[str, Any] = {}
        self.totals: dict[str, Any] = {}

    def add(self, x: Float[Tensor, "tokens in"], targets: Targets) -> None:
        """Add up some tokens, float32.

        Args:
            x: what the layers are fed.
            targets: what is seen of them in the dense model, (tokens, features) each.
        """
        self.n_tokens += len(x)
        gram = gram_of(x)
        self.gram = self.gram + gram.double()
        self.total = self.total + x.sum(0).double()
        for name, target in targets.items():
            cross = gram if target is x else target.mT @ x
            self.cross[name] = self.cross.get(name, 0) + cross.double()
            self.totals[name] = self.totals.get(name, 0) + target.sum(0).double()

    def of(
        self, name: str, layer: Refitted, weight: Float[Tensor, "full_out full_in"], bias: Float[Tensor, " out"] | None
    ) -> LayerMoments:
        """Return the moments of one layer of the group, for what is to be fitted of it.

        Args:
            name: of the layer in the group.
            layer: the compressed one.
            weight: of the dense one.
            bias: likewise.
        """
        seen = INPUT if INPUT in self.cross else name
        cross, totals = self.cross[seen], self.totals[seen]
        index = None if reads_some(layer) else places(layer)
        if seen == INPUT:
            if index is not None:
                weight, bias = weight[index], None if bias is None else bias[index]
            cross, totals = weight.double() @ cross, weight.double() @ totals
            if bias is not None:
                cross = cross + torch.outer(bias.double(), self.total)
                totals = totals + self.n_tokens * bias.double()
        elif index is not None:
            cross, totals = cross[index], totals[index]
        beside = computed_beside(layer)
        if beside is not None:
            cross, totals = cross - beside @ self.gram, totals - beside @ self.total
        n = self.n_tokens
        return LayerMoments(n, self.gram / n, cross / n, self.total / n, totals / n)


def gram_of(x: Float[Tensor, "tokens n"]) -> Float[Tensor, "n n"]:
    """Return ``xᵀ x``, computed in strips from the diagonal to the right, the rest mirrored.

    Example:
        >>> x = torch.arange(800.0).reshape(2, 400)
        >>> torch.allclose(gram_of(x), x.mT @ x)
        True
    """
    n = x.shape[1]
    gram = x.new_empty(n, n)
    for start in range(0, n, _STRIP):
        stop = min(start + _STRIP, n)
        torch.mm(x[:, start:stop].mT, x[:, start:], out=gram[start:stop, start:])
        gram[stop:, start:stop] = gram[start:stop, stop:].mT
    return gram
