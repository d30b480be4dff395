"""Units that exclude one another: the joined menus against enumeration of everything that can be chosen."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import sized

from autolr.allocation import modes
from autolr.allocation.knapsack import Menu, allocate
from autolr.allocation.modes import allocate_modes, apart, exclusive
from autolr.errors import BudgetError
from autolr.optimization.spaces.importance import ImportanceSpace
from autolr.records import Candidate, Choice, Unit
from autolr.spec.spaces import Factor, ImportanceConfig

QUANTITIES = ("flops", "params")
Q, K, V, OUT = (Unit(name, name, 0, 1, 8, 8) for name in "qkvo")
QK = Unit("qk", "qk", 0, 1, 8, 8, matrices=(Q, K))
OV = Unit("ov", "ov", 0, 1, 8, 8, matrices=(V, OUT))
HEADS = Unit("heads", "heads", 0, 1, 8, 8, matrices=(Q, K, V, OUT))
ELSEWHERE = Unit("up", "up", 0, 1, 8, 8)
UNITS = {unit.name: unit for unit in (Q, QK, K, ELSEWHERE, V, OUT, OV, HEADS)}

option = st.tuples(st.integers(1, 30).map(float), st.integers(-20, 4).map(float), st.integers(-20, 4).map(float))
tables = st.fixed_dictionaries({name: st.lists(option, max_size=2) for name in UNITS})


def menus_of(table: Mapping[str, Sequence[tuple[float, float, float]]]) -> list[Menu]:
    menus = []
    for name, options in table.items():
        rows = np.array([(0.0, 0.0, 0.0), *options])
        choices = [None, *(sized("any", rank) for rank in range(len(options)))]
        menus.append(Menu.of_unit(name, choices, rows[:, 0], {q: rows[:, 1 + k] for k, q in enumerate(QUANTITIES)}))
    return menus


def everything(menus: Sequence[Menu]) -> Iterator[tuple[float, dict[str, float], Candidate]]:
    """Every combination of options in which no module is changed twice, with its loss and costs."""
    for picked in itertools.product(*(range(len(menu.options)) for menu in menus)):
        pairs = list(zip(menus, picked, strict=True))
        candidate = Candidate.of(dict(pair for menu, k in pairs for pair in menu.options[k]))
        modules = [module for name, _ in candidate.choices for module in UNITS[name].modules]
        if len(modules) == len(set(modules)):
            costs = {q: sum(float(menu.cost[q][k]) for menu, k in pairs) for q in QUANTITIES}
            yield sum(float(menu.loss[k]) for menu, k in pairs), costs, candidate


@given(table=tables, flops=st.integers(-60, 0).map(float), both=st.booleans(), params=st.integers(-60, 0).map(float))
def test_the_best_of_all_modes_is_what_enumeration_finds(table, flops, both, params) -> None:
    menus = menus_of(table)
    limits = {"flops": flops} | ({"params": params} if both else {})
    inside = {
        candidate: loss
        for loss, costs, candidate in everything(menus)
        if all(costs[q] <= limit for q, limit in limits.items())
    }
    if not inside:
        with pytest.raises(BudgetError):
            allocate_modes(menus, UNITS, limits)
        return
    found = allocate_modes(menus, UNITS, limits, gap=0.0)
    assert all(found.cost[q] <= limit for q, limit in limits.items())
    assert inside[found.candidate] == pytest.approx(found.loss)
    assert found.loss <= min(inside.values()) * (1 + 1e-6)
    assert found.bound <= min(inside.values()) + 1e-6


def test_menus_of_units_that_share_nothing_stay_as_they_are() -> None:
    menus = menus_of({name: [(1.0, -2.0, -2.0)] for name in ("q", "up", "ov")})
    joined = exclusive(menus, UNITS, QUANTITIES)
    assert [id(menu) for menu in joined] == [id(menu) for menu in menus]


def test_an_item_holds_every_way_to_cover_its_modules_once() -> None:
    menus = menus_of({name: [(1.0, -1.0 - place, float(-place))] for place, name in enumerate(UNITS)})
    attention, other = exclusive(menus, UNITS, ["flops", "params"])
    offered = [{name for name, _ in option} for option in attention.options]
    modes = [("q", "k", "v", "o"), ("q", "k", "ov"), ("qk", "v", "o"), ("qk", "ov"), ("heads",)]
    allowed = [set(s) for mode in modes for n in range(5) for s in itertools.combinations(mode, n)]
    assert all(option in allowed for option in offered)
    assert {"heads"} in offered
    assert set() in offered
    assert {"q", "k", "v", "o"} in offered or {"qk", "ov"} in offered
    assert other.name == "up"


@given(edges=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)).filter(lambda pair: pair[0] != pair[1])))
def test_parts_are_what_exclusions_connect(edges) -> None:
    exclusions = [{b for a, b in [*edges, *((b, a) for a, b in edges)] if a == place} for place in range(7)]
    parts = apart(range(7), exclusions)
    assert sorted(place for part in parts for place in part) == list(range(7))
    part_of = {place: number for number, part in enumerate(parts) for place in part}
    assert all(part_of[a] == part_of[b] for a, b in edges)
    for part in parts:  # nothing smaller is closed
        reached = {part[0]}
        for _ in part:
            reached |= {other for place in reached for other in exclusions[place]}
        assert reached == set(part)


def test_each_form_of_a_pair_has_a_multiplier_of_its_own() -> None:
    up, down = (Unit(name, f"mlp.{name}", 0, 1, 8, 8) for name in ("up", "down"))
    pair = Unit("pair", "feed-forward", 0, 1, 8, 8, matrices=(up, down), of="neurons")
    cost = {"flops": np.array([0.0, -8.0, -8.0])}
    choices = [None, Choice.of("neurons", "obs", neurons=4), Choice.of("neurons-low-rank", "obs", neurons=6, make=1)]
    menus = [
        *(Menu.of_unit(name, [None], np.zeros(1), {"flops": np.zeros(1)}) for name in ("up", "down")),
        Menu.of_unit("pair", choices, np.array([0.0, 1.0, 1.2]), cost),
    ]
    units = {unit.name: unit for unit in (up, down, pair)}
    config = ImportanceConfig(kind="importance", module=Factor(low=0.6, high=1.7))
    space = ImportanceSpace(config, menus, units, ["kfac"], {"flops": -4.0}, {"flops": 100.0}, "flops")
    assert list(space.distributions()) == ["form/neurons", "form/neurons-low-rank"]
    for factors, form in (({}, "neurons"), ({"form/neurons": 1.5}, "neurons-low-rank")):
        assert [choice.form for _, choice in space.decode(factors).choices] == [form]


@pytest.mark.parametrize("budgets", [("flops",), QUANTITIES])
def test_long_menus_are_thinned_and_the_allocation_hardly_suffers(budgets, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    units = {"a": Unit("a", "a", 0, 1, 8, 8), "b": Unit("b", "b", 0, 1, 8, 8)}
    units["ab"] = Unit("ab", "ab", 0, 1, 8, 8, matrices=(units["a"], units["b"]))
    menus = []
    for name in ("a", "b"):
        loss = np.concatenate([[0.0], np.sort(rng.uniform(0, 1, 300) ** 3)])
        cost = -np.linspace(0, 100, 301)
        choices = [None, *(sized("any", rank) for rank in range(300, 0, -1))]
        menus.append(Menu.of_unit(name, choices, loss, {"flops": cost, "params": cost + rng.uniform(0, 1, 301)}))
    menus.append(Menu.of_unit("ab", [None], np.zeros(1), {quantity: np.zeros(1) for quantity in QUANTITIES}))
    assert len(modes.thinned(menus[0], budgets).options) <= modes.MOST_JOINED[len(budgets)]
    limits = dict.fromkeys(budgets, -90.0)
    thin = allocate_modes(menus, units, limits)
    monkeypatch.setattr(modes, "MOST_JOINED", {1: 1000, 2: 1000})
    exact = allocate(exclusive(menus, units, ["flops"]), {"flops": -90.0}, gap=0.0)
    assert exact.loss <= thin.loss * (1 + 1e-9)
    assert thin.loss <= exact.loss * (1.02 if len(budgets) == 1 else 1.3)
