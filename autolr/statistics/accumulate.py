"""Running sums of the units' statistics, from recorded calls and their gradients, batch by batch.

Sums are taken per batch in float32 and added up in float64; Gram matrices are taken about the first batch's mean, so
that a covariance far smaller than the mean keeps its digits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from autolr.errors import AutolrError
from autolr.model.record_calls import Call, Reads, by_token, live_positions
from autolr.types import LayerStats, Unit

_STRIP = 256
_PER_EXAMPLE = ("fisher_in", "mask_gram")


@dataclass
class Sums:
    """Running sums of one matrix, float64; ``mean`` and ``in_gram`` of the inputs less ``pivot``.

    With a ``weight``, W (out, in), the gradients by masks of its inputs are summed up too.
    """

    unit: Unit
    weight: Tensor | None = None
    n_tokens: int = 0
    n_examples: int = 0
    pivot: Tensor | None = None
    terms: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, value: Float[Tensor, "..."]) -> None:
        """Add one batch's sum to a term."""
        if name not in self.terms:
            self.terms[name] = value.double()
            return
        # In strips: adding float32 to float64 makes a float64 copy of what is added.
        for start in range(0, len(value), _STRIP):
            self.terms[name][start : start + _STRIP].add_(value[start : start + _STRIP])

    def finish(self) -> LayerStats:
        """Return the statistics, made of the sums' own memory.

        Raises:
            AutolrError: the unit was never reached, or something is not finite.
        """
        terms, pivot = self.terms, self.pivot
        if not self.n_tokens or pivot is None:
            raise AutolrError(f"{self.unit.name} was never reached by the calibration data; exclude it")
        for name, value in terms.items():
            if not torch.isfinite(torch.stack(value.aminmax())).all():
                raise AutolrError(f"the calibration statistics of {self.unit.name} ({name}) are not finite")
        for name, value in terms.items():
            value.div_(self.n_examples if name in _PER_EXAMPLE else self.n_tokens)
        offset, terms["mean"] = terms["mean"], pivot.double() + terms["mean"]
        terms["in_gram"].addr_(offset, offset, alpha=-1.0).addr_(terms["mean"], terms["mean"])
        return LayerStats(self.n_tokens, self.n_examples, **terms)


def unit_bytes(unit: Unit, gradients: bool, masks: bool = False) -> int:
    """Return the memory of a unit's sums, which are its Gram matrices.

    Example:
        >>> unit_bytes(Unit("a", "a", 0, 1, 30, 10), gradients=True)
        8000
    """
    inputs = unit.in_features if unit.of == "embedding" else unit.in_features**2 * (1 + masks)
    return 8 * (inputs + (unit.out_features**2 if gradients else 0))


def add_batch(
    calls: Sequence[Call],
    gradients: Sequence[Sequence[Tensor | None]],
    mask: Tensor,
    reads: Mapping[str, Reads],
    sums: Mapping[str, Sums],
) -> None:
    """Add what one batch says of the units that were called.

    Args:
        calls: of the units' modules.
        gradients: for each cotangent the gradient of each call's output; empty for moments only.
        mask: (batch, positions) of the real tokens.
        reads: unit name -> where its output is read.
        sums: unit name -> what is added to.
    """
    of_unit: dict[str, list[int]] = {}
    for index, call in enumerate(calls):
        of_unit.setdefault(call.unit.name, []).append(index)
    alike: dict[tuple[Any, ...], list[str]] = {}
    for name, indices in of_unit.items():
        key = (tuple(id(calls[index].x) for index in indices), reads[name], id(sums[name].pivot))
        alike.setdefault(key, []).append(name)
    with torch.no_grad():
        for names in alike.values():  # query, key and value read the same input: one Gram serves the three
            fed = [calls[index] for index in of_unit[names[0]]]
            inputs = _inputs(fed, mask, reads[names[0]], sums[names[0]].pivot)
            for name in names:
                total = sums[name]
                total.pivot = inputs.pivot
                total.n_tokens += int(inputs.live.sum())
                total.n_examples += len(mask)
                for term, value in inputs.moments.items():
                    total.add(term, value)
                if gradients:
                    own = [[(calls[i], of_class[i]) for i in of_unit[name]] for of_class in gradients]
                    _add_gradients(total, inputs, [_outputs(of_class, mask) for of_class in own])


@dataclass
class _Inputs:
    """What a unit reads in one batch, float32; a unit that is called several times reads its calls one after another.

    Attributes:
        x: (batch, positions, in), zero where not live.
        live: (batch, positions).
        pivot: (in,), what the moments are taken about.
        moments: sums over the live positions.
    """

    x: Tensor
    live: Tensor
    pivot: Tensor
    moments: dict[str, Tensor]


def _inputs(calls: Sequence[Call], mask: Tensor, reads: Reads, pivot: Tensor | None) -> _Inputs:
    each = [by_token(call.x.detach(), mask).float() for call in calls]
    whole = mask.any(1, keepdim=True)  # one position for a layer that runs once a sequence, not once a token
    live = torch.cat([live_positions(mask if x.shape[1] == mask.shape[1] else whole, reads) for x in each], 1)
    x = torch.cat(each, 1) if len(each) > 1 else each[0]
    everywhere = bool(live.all())  # then nothing is copied
    tokens = x.flatten(0, 1) if everywhere else x[live]
    pivot = tokens.mean(0) if pivot is None else pivot
    return _Inputs(x if everywhere else x * live[..., None], live, pivot, _moments(tokens, pivot))


def _add_gradients(total: Sums, inputs: _Inputs, g: Sequence[Float[Tensor, "batch positions out"]]) -> None:
    flat = torch.cat([of_class[inputs.live] for of_class in g])
    total.add("out_gram", flat.mT @ flat)
    # Σ_out (Σ_t g_to x_ti)² = Σ_t x_ti (K x)_ti with K = g gᵀ over the positions of one example; x is zero where it is
    # not live.
    kernel = torch.stack([of_class @ of_class.mT for of_class in g]).sum(0)
    total.add("fisher_in", (inputs.x * (kernel @ inputs.x)).sum((0, 1)))
    if total.weight is not None:
        weight = total.weight.float()
        of_masks = torch.cat([(inputs.x * (of_class @ weight)).sum(1) for of_class in g])
        total.add("mask_gram", of_masks.mT @ of_masks)


def _moments(tokens: Float[Tensor, "tokens in"], pivot: Float[Tensor, " in"]) -> dict[str, Tensor]:
    centred = tokens - pivot
    return {"mean": centred.sum(0), "mean_abs": tokens.abs().sum(0), "in_gram": centred.mT @ centred}


def _outputs(calls: Sequence[tuple[Call, Tensor | None]], mask: Tensor) -> Float[Tensor, "batch positions out"]:
    """Return the gradients of a unit's outputs at every position; a unit that the logits do not read has none."""
    each = [by_token(torch.zeros_like(c.y) if grad is None else grad, mask).float() for c, grad in calls]
    return torch.cat(each, 1)
