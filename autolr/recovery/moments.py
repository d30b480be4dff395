"""Second moments of a group of layers: of what they are fed now, and with what they are to answer.

Products are taken per batch in float32 and added up in float64. Layers that are fed the same tensor share them: where a
group's answers are wider than what it is fed, moments with the dense model's inputs x* are taken, and those
with an answer ``y = W x* + b`` follow: ``Cov(y, x) = W Cov(x*, x)``. All are taken about the first batch's means, so
that a covariance far smaller than the mean keeps its digits.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from autolr.recovery.kept import Kept
from autolr.recovery.observed import INPUT, Targets
from autolr.recovery.regression import LayerMoments, Refitted, computed_beside

_FED = "."
"""Name, among the targets, of what a group is fed in the compressed model; no layer's."""
_STRIP = 128
"""Columns of a Gram matrix that are computed at once; of each strip only what is not known by symmetry."""


class Moments:
    """Second moments, over tokens, of what a group is fed, x, and of x with each target.

    Example:
        >>> moments = Moments()
        >>> moments.add(torch.tensor([[1.0, 0.0], [3.0, 2.0]]), {"up": torch.tensor([[1.0], [2.0]])})
        >>> moments.covariance.tolist(), moments.cross("up").tolist(), moments.mean("up").tolist()
        ([[1.0, 1.0], [1.0, 1.0]], [[0.5, 0.5]], [1.5])
    """

    def __init__(self) -> None:
        self.n_tokens = 0
        self._pivots: dict[str, Tensor] = {}
        self._sums: dict[str, Any] = {}
        self._products: dict[str, Any] = {}

    def add(self, x: Float[Tensor, "tokens in"], targets: Targets) -> None:
        """Add up some tokens, float32.

        Args:
            x: what the layers are fed.
            targets: what is seen of them in the dense model, (tokens, features) each.
        """
        self.n_tokens += len(x)
        centred = self._centred(_FED, x)
        self._products[_FED] = self._products.get(_FED, 0) + gram_of(centred).double()
        for name, target in targets.items():
            product = self._centred(name, target).mT @ centred
            self._products[name] = self._products.get(name, 0) + product.double()

    def _centred(self, name: str, x: Float[Tensor, "tokens n"]) -> Float[Tensor, "tokens n"]:
        """Return some tokens less what their mean is in the first batch, and add up what is left."""
        x = x - self._pivots.setdefault(name, x.mean(0))
        self._sums[name] = self._sums.get(name, 0) + x.sum(0).double()
        return x

    @property
    def covariance(self) -> Float[Tensor, "in in"]:
        """``Cov(x)``."""
        return self.cross(_FED)

    @property
    def fed_mean(self) -> Float[Tensor, " in"]:
        """``E[x]``."""
        return self.mean(_FED)

    def cross(self, name: str) -> Float[Tensor, "features in"]:
        """Return ``Cov(t, x)`` of a target."""
        n = self.n_tokens
        cross: Tensor = self._products[name] / n - torch.outer(self._sums[name] / n, self._sums[_FED] / n)
        return cross

    def mean(self, name: str) -> Float[Tensor, " features"]:
        """Return ``E[t]`` of a target."""
        mean: Tensor = self._pivots[name].double() + self._sums[name] / self.n_tokens
        return mean

    def of(
        self,
        name: str,
        layer: Refitted,
        weight: Float[Tensor, "full_out full_in"],
        bias: Float[Tensor, " out"] | None,
        kept: Kept,
    ) -> LayerMoments:
        """Return the moments of one layer of the group, for what is to be fitted of it.

        Args:
            name: of the layer in the group.
            layer: the compressed one.
            weight: of the dense one.
            bias: likewise.
            kept: what the layer has of the dense one's inputs and outputs.
        """
        if INPUT in self._sums:
            weight = kept.outputs(weight.double())
            cross, offset = weight @ self.cross(INPUT), weight @ self.mean(INPUT)
            if bias is not None:
                offset = offset + kept.outputs(bias.double())
        else:
            cross, offset = kept.outputs(self.cross(name)), kept.outputs(self.mean(name))
        covariance, mean, beside = (
            kept.fed(kept.fed(self.covariance).mT),
            kept.fed(self.mean(_FED)),
            computed_beside(layer),
        )
        cross = kept.fed(cross)
        if beside is not None:
            cross, offset = cross - beside @ covariance, offset - beside @ mean
        return LayerMoments(self.n_tokens, covariance, cross, mean, offset)


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
