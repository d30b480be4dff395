"""One block of one candidate, refitted group by group."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from autolr.checkpoint.runtime.layers import CompressedLinear
from autolr.cost.forward import shared_copy
from autolr.errors import AutolrError
from autolr.forms import FORMS
from autolr.forms.swap import DecompositionSource, build, given
from autolr.model.units import unit_bias, unit_weight
from autolr.recovery.hidden_states import HiddenStates
from autolr.recovery.kept import Kept
from autolr.recovery.moments import Moments
from autolr.recovery.observed import MOST_KEPT, DenseBlock, fed, live_tokens
from autolr.recovery.output_metric import output_metric
from autolr.recovery.regression import Correction, LayerMoments, Refitted, correct
from autolr.types import Choice, LayerStats, Unit

_STATISTICS = 2
"""Layers whose statistics are at hand: a matrix's own, and those of the one that reads its neurons."""


class AnswerMemory:
    """Lets the parts of a block run once on each batch, however often the block is run.

    What a part answers may change only while it is not reached: passes end before the first layer that is not refitted.

    Attributes:
        batch: number of the batch that the block is run on.
    """

    def __init__(self) -> None:
        self.batch = 0
        self._answers: dict[int, dict[str, tuple[Any, list[int]]]] = {}
        self._served: list[Any] = []

    def serve(self, name: str, module: Any) -> None:
        """Have a part answer from memory what it has answered once; an answer that was written into is made again."""
        forward: Callable[..., Any] = module.forward

        def answer(*args: Any, **kwargs: Any) -> Any:
            answers = self._answers.setdefault(self.batch, {})
            known, versions = answers.get(name, (None, []))
            if known is None or _versions(known) != versions:
                known = forward(*args, **kwargs)
                for inner in [other for other in answers if other.startswith(f"{name}.")]:
                    del answers[inner]  # it will not be asked any more
                answers[name] = known, _versions(known)
            return known

        module.forward = answer
        self._served.append(module)

    def forget(self) -> None:
        """Let go of all answers and parts, which would be freed late: each part and what serves it hold one another."""
        self._answers.clear()
        while self._served:
            del self._served.pop().forward


def _versions(answer: Any) -> list[int]:
    """Return how often the tensors of an answer were written into."""
    parts = answer if isinstance(answer, tuple) else (answer,)
    return [part._version for part in parts if isinstance(part, Tensor)]


@dataclass
class SmallBlock:
    """A block of the compressed model beside the dense one.

    Attributes:
        model: the dense model.
        source: of decompositions and statistics.
        dense: the dense block, fed what it is fed in the dense model.
        prefix: how the names of its modules begin in the model.
        choices: what the candidate makes of units in it, by name.
    """

    model: nn.Module
    source: DecompositionSource
    dense: DenseBlock
    prefix: str
    choices: Mapping[str, Choice]
    layers: dict[str, CompressedLinear] = field(init=False)
    kept: dict[str, Kept] = field(init=False)
    block: nn.Module = field(init=False)
    memory: AnswerMemory = field(init=False, default_factory=AnswerMemory)

    def __post_init__(self) -> None:
        self.block = shared_copy(self.dense.block)
        self.layers, self.kept = {}, {}
        for name, choice in self.choices.items():
            turns = FORMS.get(choice.form).turns(given(self.model, self.source, name, choice.method))
            for module, layer in build(self.model, self.source, name, choice).items():
                inner = module.removeprefix(self.prefix)
                self.layers[module] = layer.train(self.block.get_submodule(inner).training)
                self.block.set_submodule(inner, self.layers[module])
                self.kept[module] = Kept.of(layer, turns.get(module))
        if self.dense.answer_bytes() <= MOST_KEPT:
            for inner in self.dense.parts:
                self.memory.serve(inner, self.block.get_submodule(inner))

    def refit(self, states: HiddenStates, tick: Callable[[float], None]) -> dict[str, Correction]:
        """Refit the layers, and return what was changed by unit.

        Args:
            states: what the block is fed in the compressed model.
            tick: told the share of the work done, in [0, 1]; may raise to stop.

        Raises:
            AutolrError: a refitted layer is not finite.
        """
        stats = lru_cache(maxsize=_STATISTICS)(self.source.stats)
        found: dict[str, Correction] = {}
        for place in range(len(self.dense.groups)):
            for unit, layer, moments in self._moments(place, states):
                correction = self._solved(unit, layer, moments, stats)
                if correction is not None:
                    correct(layer, correction)
                    found[unit.name] = correction
            tick((place + 1) / len(self.dense.groups))
        return found

    def _moments(self, place: int, states: HiddenStates) -> list[tuple[Unit, Refitted, LayerMoments]]:
        """Return the layers of a group that have a part to refit, with their moments."""
        group = self.dense.groups[place]
        layers = {inner: self.block.get_submodule(inner) for inner in group.units}
        layers = {inner: layer for inner, layer in layers.items() if isinstance(layer, Refitted)}
        if not layers:
            return []
        total, first = Moments(), next(iter(layers))
        for number, (call, mask) in enumerate(zip(self.dense.calls, self.dense.masks, strict=True)):
            self.memory.batch = number
            x = live_tokens(fed(self.block, first, call, states[number]), mask, group.reads)
            total.add(x, self.dense.targets(number, place))
        found = []
        for inner, layer in layers.items():
            unit = group.units[inner]
            assert isinstance(layer, Refitted)
            weight, bias = unit_weight(self.model, unit), unit_bias(self.model, unit)
            moments = total.of(inner, layer, weight, bias, self.kept[unit.name])
            found.append((unit, layer, moments))
        return found

    def _solved(
        self, unit: Unit, layer: Refitted, moments: LayerMoments, stats: Callable[[str], LayerStats | None]
    ) -> Correction | None:
        group = next((whole for name in self.choices if unit in (whole := self.source.unit(name)).matrices), None)
        metric = output_metric(self.model, stats, unit, group, self.layers)
        weight = unit_weight(self.model, unit)
        correction = moments.solve(layer, weight, stats(unit.name), metric, self.kept[unit.name])
        if correction is None:
            return None
        if not all(torch.isfinite(part).all() for part in vars(correction).values() if part is not None):
            raise AutolrError(f"the refit of {unit.name} is not finite")
        return correction

    def run(self, states: HiddenStates) -> None:
        """Put what the block makes of them in the place of hidden states."""
        for number, call in enumerate(self.dense.calls):
            self.memory.batch = number
            states[number] = call.run(self.block, states[number])
