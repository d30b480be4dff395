"""The space ``importance``: multipliers on the error curves, decoded through the knapsack."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import exp, sqrt

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution
from scipy.stats import norm, qmc

from autolr.allocation.knapsack import Menu
from autolr.allocation.modes import allocate_modes, exclusive
from autolr.optimization.sampler.encoding import Encoding, Params, Point
from autolr.spec.spaces import Bounds, ImportanceConfig
from autolr.types import Candidate, Unit

NEAR_SHARE = 0.15
"""Share of a study's trials that begin near the knapsack's solutions: a model fitted to points all over the space finds
the good region 20 trials later (measured at 0.2x on a real encoder)."""
NEAR_SPREAD = 0.15
"""Standard deviation of these points from the solutions, as a share of each parameter's range."""


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
        deep = len({unit.block for unit in self.units.values() if unit.of != "embedding"}) > 1
        wanted: list[tuple[str, Bounds | None]] = [(f"module/{name}", c.module) for name in self._modules()[1:]]
        wanted += [(f"form/{name}", c.module) for name in self._forms]
        wanted += [("depth/slope", c.slope), ("depth/bend", c.bend)] if deep else []
        wanted += [(f"method/{method}", c.method) for method in self.methods[1:]]
        wanted += [("level", c.level)]
        return {
            name: FloatDistribution(bounds.low, bounds.high, log=name.startswith(("module/", "form/", "method/")))
            for name, bounds in wanted
            if bounds is not None
        }

    def decode(self, params: Point) -> Candidate:
        """Solve the knapsack under these multipliers; ``level`` is raised if less than all is not reachable.

        Raises:
            BudgetError: the budgets themselves are not reachable.
        """
        allowed = dict(self.limits)
        menus = [self._weighted(menu, params) for menu in self.menus]
        joined = exclusive(menus, self.units, [self.primary])
        floor = sum(float(menu.cost[self.primary].min()) for menu in joined)
        budget = self.limits[self.primary] + self.base[self.primary]
        wanted = params.get("level", 1.0) * budget - self.base[self.primary]
        allowed[self.primary] = max(wanted, min(floor, self.limits[self.primary]))
        return allocate_modes(menus, self.units, allowed).candidate

    def seeds(self, seed: int, trials: int) -> dict[str, Params]:
        """Return the knapsack's own solutions and points near them.

        ``knapsack 0`` takes the first method's curves as they are and multiplies the others' by the middle of what the
        space allows: the lowest of several measured curves is more often one measured too low. ``knapsack 1``
        multiplies them by the least. ``knapsack 2`` is the first at the lowest level. The points near them differ in
        all but the level.

        Args:
            seed: of the points near the solutions.
            trials: of the study; ``NEAR_SHARE`` of them are spent on points near the solutions.
        """
        c, space = self.config, self.distributions()
        encoding = Encoding(space)
        plain = {name: 0.0 if name.startswith("depth/") else 1.0 for name in space}
        top = {"level": c.level.high} if c.level else {}
        neutral = encoding.decode(encoding.snap(encoding.encode([plain | top]))[0])  # a space may leave it out
        starts = [neutral]
        if c.method is not None and len(self.methods) > 1:
            others = [f"method/{method}" for method in self.methods[1:]]
            middle = sqrt(c.method.low * c.method.high)
            starts = [neutral | dict.fromkeys(others, factor) for factor in (middle, c.method.low)]
            neutral = starts[0]
        lowest = [neutral | {"level": c.level.low}] if c.level else []
        found = {f"knapsack {index}": params for index, params in enumerate([*starts, *lowest])}
        count = int(NEAR_SHARE * trials) if space else 0
        for index, params in enumerate(_neighbours(space, starts, count, seed)):
            found[f"near {index % len(starts)}.{index // len(starts)}"] = params | top
        return found

    def _modules(self) -> list[str]:
        return list(dict.fromkeys(parent_module(unit) for unit in self.units.values() if unit.of == "matrix"))

    @cached_property
    def _forms(self) -> list[str]:
        """The forms of units of several matrices, and of tables."""
        others = (menu for menu in self.menus if self.units[menu.name].of != "matrix")
        return list(dict.fromkeys(choice.form for menu in others for choice in menu.choices if choice))

    def _weighted(self, menu: Menu, params: Point) -> Menu:
        unit = self.units[menu.name]
        by_form = np.array([1.0, *(params.get(f"form/{form}", 1.0) for form in self._forms)])
        by_method = np.array([1.0, *(params.get(f"method/{method}", 1.0) for method in self.methods)])
        forms, methods = self._places[menu.name]
        factor = multiplier(unit, params) * (by_form[forms] if unit.of != "matrix" else 1.0)
        return replace(menu, loss=menu.loss * factor * by_method[methods])

    @cached_property
    def _places(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Unit -> (options,) the numbers of each option's form and of its method, from 1; 0: it has no multiplier.

        Of units of several matrices and of tables it is the form that has one, of single matrices the method.
        """
        forms = {form: index for index, form in enumerate(self._forms, start=1)}
        methods = {method: index for index, method in enumerate(self.methods, start=1)}
        return {
            menu.name: (
                np.array([forms.get(choice.form, 0) if choice else 0 for choice in menu.choices]),
                np.array([methods.get(choice.method, 0) if choice else 0 for choice in menu.choices]),
            )
            for menu in self.menus
        }


def multiplier(unit: Unit, params: Point) -> float:
    """Return what parameters of an importance space multiply all of a unit's curves by, whatever form and method.

    Example:
        >>> multiplier(Unit("h.0.attn.q", "attn.q", 0, 1, 8, 8), {"module/attn": 1.5, "depth/bend": 0.0})
        1.5
    """
    if unit.of == "embedding":  # it lies before all depth
        return 1.0
    place = 2 * unit.depth - 1
    trend = params.get("depth/slope", 0.0) * place + params.get("depth/bend", 0.0) * (1 - 2 * abs(place))
    module = 1.0 if unit.matrices else params.get(f"module/{parent_module(unit)}", 1.0)
    return float(module * exp(trend))


def parent_module(unit: Unit) -> str:
    """Return the part of a block that a unit belongs to: its role without the last name.

    Example:
        >>> parent_module(Unit("h.0.attn.c_proj", "attn.c_proj", 0, 1, 8, 8))
        'attn'
    """
    return unit.role.rpartition(".")[0] or unit.role


def _neighbours(space: Mapping[str, BaseDistribution], starts: Sequence[Point], count: int, seed: int) -> list[Params]:
    """Return points at a normal distance from the starts in turn, ``NEAR_SPREAD`` of each range."""
    encoding = Encoding(space)
    engine = qmc.Sobol(len(encoding), rng=np.random.default_rng(seed))
    uniform = engine.random_base2(max(count - 1, 0).bit_length())[:count]  # in powers of two, as SciPy wants it
    steps = norm.ppf(uniform.clip(0.01, 0.99))
    points = encoding.encode([starts[index % len(starts)] for index in range(count)])
    return [encoding.decode(point) for point in encoding.snap(points + NEAR_SPREAD * steps)]
