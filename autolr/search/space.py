"""Search spaces: which parameters a sampler proposes, and how they decode to a candidate.

A space is a YAML file: one of the presets in ``search_spaces/`` by name, or the user's own by path.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from math import exp
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field, TypeAdapter, ValidationError, model_validator
from scipy.stats import norm, qmc

from autolr.allocate import Menu, allocate
from autolr.config import Strict, read_yaml, readable
from autolr.errors import UsageError, nearest
from autolr.search.encoding import Encoding
from autolr.types import Candidate, Choice, Unit

NEAR_SHARE = 0.15
"""Share of a study's trials that begin near the knapsack's solutions: a model fitted to points all over the space finds
the good region 20 trials later (measured at 0.2x on a real encoder)."""
NEAR_SPREAD = 0.15
"""Standard deviation of these points from the solutions, as a share of each parameter's range."""


class Bounds(Strict):
    """The range of a parameter."""

    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> "Bounds":
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        return self


class Factor(Bounds):
    """The range of a multiplier, searched on a logarithmic scale."""

    low: Annotated[float, Field(gt=0)]


class ImportanceConfig(Strict):
    """``search_spaces/importance.yaml``."""

    kind: Literal["importance"]
    module: Factor
    slope: Bounds
    bend: Bounds
    method: Factor
    level: Factor

    @model_validator(mode="after")
    def _within_the_budget(self) -> "ImportanceConfig":
        if self.level.high > 1:
            raise ValueError(f"level is a share of the budget and must not exceed 1, got high: {self.level.high}")
        return self


class PerLayerConfig(Strict):
    """``search_spaces/per-layer.yaml``."""

    kind: Literal["per-layer"]


SpaceConfig = Annotated[ImportanceConfig | PerLayerConfig, Field(discriminator="kind")]


@runtime_checkable
class Space(Protocol):
    """What the driver asks of a space."""

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the parameters by name."""
        ...

    def decode(self, params: Mapping[str, Any]) -> Candidate:
        """Return the candidate that parameter values stand for."""
        ...

    def seeds(self, seed: int, trials: int) -> dict[str, dict[str, Any]]:
        """Return parameter values worth evaluating first in a study of so many trials, by where they come from."""
        ...


@dataclass(frozen=True)
class ImportanceSpace:
    """Multipliers on the error curves, decoded through the knapsack.

    Attributes:
        config: the ranges.
        menus: every unit's options with their predicted losses.
        units: by name.
        methods: in the study's order.
        limits: quantity -> the largest change that compression must bring (negative: what must be saved).
        base: quantity -> the amount without compression.
        primary: the quantity that ``level`` scales.
    """

    config: ImportanceConfig
    menus: Sequence[Menu]
    units: Mapping[str, Unit]
    methods: Sequence[str]
    limits: Mapping[str, float]
    base: Mapping[str, float]
    primary: str

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the parameters by name."""
        c = self.config
        found: dict[str, BaseDistribution] = {
            f"module/{name}": FloatDistribution(c.module.low, c.module.high, log=True) for name in self._modules()[1:]
        }
        if len({unit.block for unit in self.units.values()}) > 1:
            found["depth/slope"] = FloatDistribution(c.slope.low, c.slope.high)
            found["depth/bend"] = FloatDistribution(c.bend.low, c.bend.high)
        for method in self.methods[1:]:
            found[f"method/{method}"] = FloatDistribution(c.method.low, c.method.high, log=True)
        found["level"] = FloatDistribution(c.level.low, c.level.high)
        return found

    def decode(self, params: Mapping[str, Any]) -> Candidate:
        """Solve the knapsack under these multipliers; ``level`` is raised if less than all is not reachable.

        Raises:
            BudgetError: the budgets themselves are not reachable.
        """
        menus = [self._weighted(menu, params) for menu in self.menus]
        allowed = dict(self.limits)
        floor = sum(float(menu.cost[self.primary].min()) for menu in menus)
        budget = self.limits[self.primary] + self.base[self.primary]
        wanted = params.get("level", 1.0) * budget - self.base[self.primary]
        allowed[self.primary] = max(wanted, min(floor, self.limits[self.primary]))
        return allocate(menus, allowed).candidate

    def seeds(self, seed: int, trials: int) -> dict[str, dict[str, Any]]:
        """Return the knapsack's own solutions and points near them.

        ``knapsack 0`` takes the curves as they are. ``knapsack 1`` trusts the first method's most and multiplies the
        others by the most the space allows: an option that wins because its curve was measured too low is the usual
        mistake. ``knapsack 2`` is the first at the lowest level. The points near them differ in all but the level.

        Args:
            seed: of the points near the solutions.
            trials: of the study; ``NEAR_SHARE`` of them are spent on points near the solutions.
        """
        c, space = self.config, self.distributions()
        top = c.level.high
        encoding = Encoding(space)
        plain = {name: 0.0 if name.startswith("depth/") else 1.0 for name in space} | {"level": top}
        neutral = encoding.decode(encoding.snap(encoding.encode([plain]))[0])  # a space may leave the neutral point out
        wary = neutral | {f"method/{method}": c.method.high for method in self.methods[1:]}
        starts = [neutral, wary] if len(self.methods) > 1 else [neutral]
        found = {
            f"knapsack {index}": params for index, params in enumerate([*starts, neutral | {"level": c.level.low}])
        }
        for index, params in enumerate(_neighbours(space, starts, int(NEAR_SHARE * trials), seed)):
            found[f"near {index % len(starts)}.{index // len(starts)}"] = params | {"level": top}
        return found

    def _modules(self) -> list[str]:
        return list(dict.fromkeys(parent_module(unit) for unit in self.units.values()))

    def _weighted(self, menu: Menu, params: Mapping[str, Any]) -> Menu:
        unit = self.units[menu.unit]
        place = 2 * unit.depth - 1
        trend = params.get("depth/slope", 0.0) * place + params.get("depth/bend", 0.0) * (1 - 2 * abs(place))
        factor = params.get(f"module/{parent_module(unit)}", 1.0) * exp(trend)
        by_method = [1.0 if choice is None else params.get(f"method/{choice.method}", 1.0) for choice in menu.choices]
        return Menu(menu.unit, menu.choices, menu.loss * factor * by_method, menu.cost)


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

    def decode(self, params: Mapping[str, Any]) -> Candidate:
        """Read the choices off; a rank at or above break-even is dense."""
        choices = {}
        for name, unit in self.units.items():
            rank = int(params[f"rank/{name}"])
            if rank < unit.break_even:
                choices[name] = Choice(params.get(f"method/{name}", self.methods[0]), rank)
        return Candidate.of(choices)

    def seeds(self, seed: int, trials: int) -> dict[str, dict[str, Any]]:
        """Return the starting candidates that this space can express (it has no kept rows)."""
        found = {}
        for origin, candidate in self.start.items():
            choices = candidate.as_dict()
            if any(choice.rows for choice in choices.values()):
                continue
            params: dict[str, Any] = {}
            for name, unit in self.units.items():
                choice = choices.get(name)
                if len(self.methods) > 1:
                    params[f"method/{name}"] = choice.method if choice else self.methods[0]
                params[f"rank/{name}"] = choice.rank if choice else self._top(unit)
            found[origin] = params
        return found

    def _top(self, unit: Unit) -> int:
        return -(-unit.break_even // self.multiple) * self.multiple


def parent_module(unit: Unit) -> str:
    """Return the part of a block that a unit belongs to: its role without the last name.

    Example:
        >>> parent_module(Unit("h.0.attn.c_proj", "attn.c_proj", 0, 1, 8, 8))
        'attn'
    """
    return unit.role.rpartition(".")[0] or unit.role


def _neighbours(
    space: Mapping[str, BaseDistribution], starts: Sequence[Mapping[str, Any]], count: int, seed: int
) -> list[dict[str, Any]]:
    """Return points at a normal distance from the starts in turn, ``NEAR_SPREAD`` of each range."""
    encoding = Encoding(space)
    engine = qmc.Sobol(len(encoding), rng=np.random.default_rng(seed))
    uniform = engine.random_base2(max(count - 1, 0).bit_length())[:count]  # in powers of two, as SciPy wants it
    steps = norm.ppf(uniform.clip(0.01, 0.99))
    points = encoding.encode([starts[index % len(starts)] for index in range(count)])
    return [encoding.decode(point) for point in encoding.snap(points + NEAR_SPREAD * steps)]


def presets() -> dict[str, Path]:
    """Return the shipped spaces by name."""
    shipped = Path(str(files("autolr"))) / "search_spaces"
    # In a checkout the folder lies beside the package; a wheel carries it inside.
    folder = shipped if shipped.is_dir() else Path(str(files("autolr"))).parent / "search_spaces"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_space_config(name_or_path: str) -> ImportanceConfig | PerLayerConfig:
    """Read a space.

    Args:
        name_or_path: a preset's name, or the path of a YAML file.

    Raises:
        UsageError: there is no such preset or file, or its content is not a space.

    Example:
        >>> load_space_config("per-layer").kind
        'per-layer'
    """
    known = presets()
    path = known.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        raise UsageError(f"unknown search space {name_or_path!r}; {nearest(name_or_path, known)}, or give a YAML file")
    plain = read_yaml(path)
    try:
        adapter: TypeAdapter[ImportanceConfig | PerLayerConfig] = TypeAdapter(SpaceConfig)
        return adapter.validate_python(plain)
    except ValidationError as error:
        raise UsageError(f"search space {path}: {readable(error)}") from error
