"""The space ``grouped``: a share of the weights and a method for each group of layers, scaled to the budget."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from autolr.errors import BudgetError
from autolr.forms.low_rank import low_rank
from autolr.optimization.sampler.encoding import Params, Point
from autolr.optimization.spaces.importance import parent_module
from autolr.spec.spaces import GroupedConfig
from autolr.types import Candidate, Unit

Fits = Callable[[Candidate], bool]
_STEPS = 30  # of bisection: to far below one rank


@dataclass(frozen=True)
class GroupedSpace:
    """Shares of groups.

    Attributes:
        config: what forms a group, and the range of shares.
        units: by name.
        methods: in the study's order.
        multiple: ranks are multiples of it, rounded down.
        fits: whether a candidate meets the budgets.
    """

    config: GroupedConfig
    units: Mapping[str, Unit]
    methods: Sequence[str]
    multiple: int
    fits: Fits

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the parameters by name; the first group's share is what the others are relative to."""
        groups, share = self._groups(), self.config.share
        found: dict[str, BaseDistribution] = {}
        if share is not None:
            found |= {f"share/{name}": FloatDistribution(share.low, share.high, log=True) for name in groups[1:]}
        if len(self.methods) > 1:
            several = [f"method/{name}" for name in groups] if self.config.choose == "each" else ["method"]
            found |= {name: CategoricalDistribution(list(self.methods)) for name in several}
        return found

    def decode(self, params: Point) -> Candidate:
        """Scale the shares as far up as the budgets allow.

        Raises:
            BudgetError: not even rank 0 everywhere meets them.
        """
        group = {name: self._group(unit) for name, unit in self.units.items()}
        shares = {name: params.get(f"share/{group[name]}", 1.0) for name in self.units}
        first = self.methods[0]
        methods = {name: params.get(f"method/{group[name]}", params.get("method", first)) for name in self.units}

        def at(scale: float) -> Candidate:
            kept = {name: scale * share for name, share in shares.items()}
            return from_shares(self.units, kept, methods, self.multiple)

        return largest_that_fits(at, 1.0 / min(shares.values()), self.fits)

    def seeds(self, seed: int, trials: int) -> dict[str, Params]:
        """Return the same share everywhere, by each method."""
        space = self.distributions()
        plain = {name: 1.0 for name in space if name.startswith("share/")}
        chosen = [name for name in space if name.startswith("method")]
        return {f"same share, {method}": plain | dict.fromkeys(chosen, method) for method in self.methods}

    def _groups(self) -> list[str]:
        return list(dict.fromkeys(self._group(unit) for unit in self.units.values()))

    def _group(self, unit: Unit) -> str:
        name = {"model": "all", "module": parent_module(unit), "role": unit.role}[self.config.by]
        if self.config.bands == 1:
            return name
        return f"{name}@{min(int(unit.depth * self.config.bands), self.config.bands - 1)}"


def uniform_candidate(units: Mapping[str, Unit], method: str, multiple: int, fits: Fits) -> Candidate:
    """Return the candidate that cuts every unit to the same share of its weights and just meets the budgets.

    Raises:
        BudgetError: not even rank 0 everywhere meets them.
    """
    space = GroupedSpace(GroupedConfig(kind="grouped", by="model"), units, [method], multiple, fits)
    return space.decode({})


def from_shares(
    units: Mapping[str, Unit], shares: Mapping[str, float], methods: Mapping[str, str], multiple: int
) -> Candidate:
    """Return the candidate that keeps these shares of the layers' weights; at 1 and above a layer stays dense.

    Args:
        units: by name.
        shares: unit name -> share of its weights, ≥ 0.
        methods: unit name -> method.
        multiple: ranks are multiples of it, rounded down.
    """
    choices = {}
    for name, unit in units.items():
        rank = int(shares[name] * unit.out_features * unit.in_features / (unit.out_features + unit.in_features))
        rank -= rank % multiple
        if shares[name] < 1 and rank < unit.break_even:
            choices[name] = low_rank(methods[name], rank)
    return Candidate.of(choices)


def largest_that_fits(at: Callable[[float], Candidate], top: float, fits: Fits) -> Candidate:
    """Return the candidate at the largest scale in [0, top] that fits; larger scales cost more.

    Raises:
        BudgetError: not even scale 0 fits.
    """
    if not fits(at(0.0)):
        raise BudgetError("the budgets cannot be met, not even at rank 0 everywhere")
    low, high = 0.0, top
    if fits(at(high)):
        return at(high)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(at(middle)) else (low, middle)
    return at(low)
