"""The space ``per-layer``: a method and a rank for each layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from autolr.forms.low_rank import NAME as LOW_RANK
from autolr.forms.low_rank import low_rank
from autolr.optimization.sampler.encoding import Params, Point
from autolr.types import Candidate, Choice, Unit


@dataclass(frozen=True)
class PerLayerSpace:
    """A method and a rank for each layer.

    Attributes:
        units: by name.
        methods: in the study's order.
        multiple: ranks are multiples of it.
        start: candidates to begin with, by origin.
    """

    units: Mapping[str, Unit]
    methods: Sequence[str]
    multiple: int
    start: Mapping[str, Candidate]

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the parameters by name."""
        found: dict[str, BaseDistribution] = {}
        for name, unit in self.units.items():
            if len(self.methods) > 1:
                found[f"method/{name}"] = CategoricalDistribution(list(self.methods))
            found[f"rank/{name}"] = IntDistribution(0, self._top(unit), step=self.multiple)
        return found

    def decode(self, params: Point) -> Candidate:
        """Read the choices off; a rank at or above break-even is dense."""
        choices = {name: self.choice(name, params) for name in self.units}
        return Candidate.of({name: choice for name, choice in choices.items() if choice is not None})

    def choice(self, name: str, params: Point) -> Choice | None:
        """Return what is done to one unit; None: it stays dense."""
        rank = int(params[f"rank/{name}"])
        dense = rank >= self.units[name].break_even
        return None if dense else low_rank(params.get(f"method/{name}", self.methods[0]), rank)

    def seeds(self, seed: int, trials: int) -> dict[str, Params]:
        """Return the starting candidates that this space can express (it has ranks alone)."""
        found = {}
        for origin, candidate in self.start.items():
            choices = candidate.as_dict()
            if any(choice.form != LOW_RANK for choice in choices.values()):
                continue
            params: Params = {}
            for name, unit in self.units.items():
                choice = choices.get(name)
                if len(self.methods) > 1:
                    params[f"method/{name}"] = choice.method if choice else self.methods[0]
                params[f"rank/{name}"] = choice["rank"] if choice else self._top(unit)
            found[origin] = params
        return found

    def _top(self, unit: Unit) -> int:
        return -(-unit.break_even // self.multiple) * self.multiple
