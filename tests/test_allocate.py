"""The knapsack against enumeration of every combination, on small random menus and on the solver's weak spots."""

import ctypes
import importlib
import itertools
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny import sized

from autolr.allocation.dynamic_program import solve
from autolr.allocation.hull import could_be_better, relax
from autolr.allocation.knapsack import Menu, allocate
from autolr.errors import BudgetError
from autolr.types import Candidate

allocate_module = importlib.import_module("autolr.allocation.knapsack")
QUANTITIES = ("flops", "params")
SLOW_SOLVER = settings(max_examples=60)


def menu_of(name, options):
    """A menu from (loss, cost of each quantity) of its compressed options; dense comes first."""
    table = np.array([(0.0, 0.0, 0.0), *options])
    choices = (None, *(sized("any", rank) for rank in range(len(options))))
    return Menu.of_unit(name, choices, table[:, 0], {q: table[:, 1 + k] for k, q in enumerate(QUANTITIES)})


losses = st.one_of(st.integers(0, 30).map(float), st.floats(1e-6, 1e3))
costs = st.integers(-40, 8).map(float)  # a low-rank layer may also cost more than the dense one
options_of_units = st.lists(st.lists(st.tuples(losses, costs, costs), min_size=0, max_size=4), min_size=1, max_size=4)


def menus_of(units):
    return [menu_of(f"unit{k}", options) for k, options in enumerate(units)]


def combinations(menus):
    """Every combination with its loss and costs, by plain sums."""
    for picked in itertools.product(*(range(len(menu.choices)) for menu in menus)):
        pairs = list(zip(menus, picked, strict=True))
        yield picked, sum(m.loss[k] for m, k in pairs), {q: sum(m.cost[q][k] for m, k in pairs) for q in QUANTITIES}


def least_loss(menus, limits):
    """The optimum by enumeration; None if nothing is within the limits."""
    inside = [loss for _, loss, cost in combinations(menus) if all(cost[q] <= limits[q] for q in limits)]
    return min(inside, default=None)


def costs_of(menus, candidate):
    chosen = candidate.as_dict()
    index = [menu.choices.index(chosen.get(menu.name)) for menu in menus]
    return {q: sum(menu.cost[q][k] for menu, k in zip(menus, index, strict=True)) for q in QUANTITIES}, sum(
        menu.loss[k] for menu, k in zip(menus, index, strict=True)
    )


def check(menus, limits, gap=0.0, tolerance=3e-4):
    """The answer is the enumerated optimum, within every limit, above its bound; or both find nothing."""
    best = least_loss(menus, limits)
    if best is None:
        with pytest.raises(BudgetError):
            allocate(menus, limits, gap)
        return
    found = allocate(menus, limits, gap)
    cost, loss = costs_of(menus, found.candidate)
    assert all(cost[q] <= limits[q] for q in limits)
    assert found.loss == pytest.approx(loss)
    assert found.loss <= best * (1 + gap + tolerance) + 1e-300
    assert found.bound <= found.loss
    assert found.bound <= best * (1 + 1e-12) + 1e-15
    assert found.bound >= found.loss * (1 - gap - tolerance) - 1e-12


@SLOW_SOLVER
@given(units=options_of_units, limit=st.integers(-120, 10))
def test_one_budget_is_solved_to_the_optimum_of_enumeration(units, limit):
    menus = menus_of(units)
    check(menus, {"flops": float(limit)})


@SLOW_SOLVER
@given(units=options_of_units, flops=st.integers(-80, 10), params=st.integers(-80, 10))
def test_several_budgets_at_once_are_solved_to_the_optimum_of_enumeration(units, flops, params):
    menus = menus_of(units)
    check(menus, {"flops": float(flops), "params": float(params)})


@SLOW_SOLVER
@given(units=options_of_units, share=st.floats(0, 1, exclude_max=True))
def test_a_budget_that_a_combination_meets_exactly_is_met(units, share):
    """The limit is the cost of one combination, to the last unit, or one unit below."""
    menus = menus_of(units)
    every = list(combinations(menus))
    _, _, cost = every[int(share * len(every))]
    check(menus, cost)
    check(menus, {q: value - 1 for q, value in cost.items()})
    check(menus, {q: value - 1e-9 for q, value in cost.items()})


@SLOW_SOLVER
@given(units=options_of_units, limit=st.integers(-120, 0))
@example(units=[[(1.0, -2.0, 0.0)], [(10.0, -1.0, 0.0)], [(1e-6, -1.0, 0.0)]], limit=-2)  # a bound 1e-6 too high
def test_the_default_gap_is_kept(units, limit):
    menus = menus_of(units)
    check(menus, {"flops": float(limit)}, gap=1e-3)


@given(units=options_of_units, limits=st.fixed_dictionaries({q: st.integers(0, 5).map(float) for q in QUANTITIES}))
def test_without_anything_to_save_the_model_stays_dense_or_as_good(units, limits):
    """At a budget of 1x the loss is zero, and with strictly positive losses the candidate is empty."""
    menus = menus_of(units)
    assert allocate(menus, limits).loss == 0.0
    positive = [replace(m, loss=np.where(np.arange(len(m.loss)) > 0, m.loss + 1.0, 0.0)) for m in menus]
    assert allocate(positive, limits).candidate == Candidate()
    assert allocate(positive, {}).candidate == Candidate()


def enormous(seed, n_units=5, n_options=5):
    """Tiny losses beside an enormous one, as rank 0 of a layer everything hangs on is."""
    rng = np.random.default_rng(seed)
    for unit in range(n_units):
        loss = np.sort(rng.random(n_options)) * 1e-6
        loss[-1] = 1e3
        cost = -np.sort(rng.integers(1, 1000, n_options)).astype(float)
        yield menu_of(f"unit{unit}", np.column_stack([loss, cost, cost]))


@pytest.mark.parametrize("seed", range(20))
def test_small_losses_beside_enormous_ones_are_still_minimised(seed):
    """The solver's absolute gap, measured in the largest loss, would accept anything here."""
    check(list(enormous(seed)), {"flops": -700.0}, gap=1e-3)


def test_what_cancels_in_the_bound_leaves_out_no_better_pick():
    """Sums with the large losses of two units round off more than the third loses, which alone decides."""
    tiny = [1.1253035381126685e-07, 7.987632696512255e-07, 2.5233769710782793e-07, 2.5061540435933415e-07]
    saved = [-320.0, -384.0, -960.0, -832.0]
    menus = [
        menu_of("large", [(87.76742004514355, -960.0, 0.0)]),
        menu_of("middle", [(0.07494295626538838, -896.0, 0.0)]),
        menu_of("tiny", [(loss, cost, 0.0) for loss, cost in zip(tiny, saved, strict=True)]),
    ]
    assert allocate(menus, {"flops": -320.0}).loss == tiny[0]


@pytest.mark.parametrize("seed", range(20))
def test_a_limit_is_kept_to_the_last_flop(seed):
    """Costs of ten digits without a common unit: the solver's own tolerance is thousands of FLOPs."""
    rng = np.random.default_rng(seed)
    menus = []
    for unit in range(4):
        cost = -rng.integers(1, 10**10, 4).astype(float)
        menus.append(menu_of(f"unit{unit}", np.column_stack([rng.random(4), cost, cost])))
    all_costs = sorted(cost["flops"] for _, _, cost in combinations(menus))
    for limit in (all_costs[100] - 1, all_costs[300] - 1, all_costs[300] - 0.25):
        found = allocate(menus, {"flops": limit})
        assert costs_of(menus, found.candidate)[0]["flops"] <= limit
        assert found.bound <= least_loss(menus, {"flops": limit}) * (1 + 1e-12)


def test_layers_of_a_real_model_are_solved_in_whole_ranks_at_exactly_the_budget():
    """Half of the FLOPs of 12 equal layers, reached exactly by half of the ranks."""
    ranks = np.arange(0, 192, 8)
    cost = -2.0 * 1024 * (384 * 384 - ranks * 768)
    loss = np.exp(-ranks / 40)
    menus = [
        Menu.of_unit(f"{k}", (None, *(sized("svd", int(r)) for r in ranks)), np.r_[0, loss], {"flops": np.r_[0, cost]})
        for k in range(12)
    ]
    found = allocate(menus, {"flops": 12 * cost[12]})
    assert {choice["rank"] for choice in found.candidate.as_dict().values()} == {96}
    assert found.loss == pytest.approx(12 * loss[12])


def test_more_than_can_be_saved_names_the_quantity_and_both_numbers():
    menus = [menu_of("a", [(1.0, -10.0, -3.0)]), menu_of("b", [(1.0, -5.0, -4.0)])]
    with pytest.raises(BudgetError, match="params can be cut by 7 at most, the budget needs 8"):
        allocate(menus, {"flops": -1.0, "params": -8.0})


def test_budgets_that_exclude_each_other_are_an_error():
    menus = [menu_of("a", [(1.0, -10.0, 0.0), (1.0, 0.0, -10.0)])]
    with pytest.raises(BudgetError, match="no candidate meets all the budgets at once"):
        allocate(menus, {"flops": -5.0, "params": -5.0})


@given(
    options=st.lists(st.tuples(losses, costs, costs), max_size=8),
    quantities=st.sampled_from([("flops",), ("params",), QUANTITIES, ()]),
    limits=st.fixed_dictionaries({q: st.integers(-40, 8) for q in QUANTITIES}),
)
def test_pruning_keeps_a_best_option_under_every_limit_and_nothing_beaten(options, quantities, limits):
    menu = menu_of("a", options)
    pruned = menu.pruned(quantities)
    rows = [(menu.loss[k], *(menu.cost[q][k] for q in quantities)) for k in range(len(menu.choices))]
    kept = [menu.choices.index(choice) for choice in pruned.choices]
    assert kept == sorted(kept)
    for position, k in enumerate(kept):
        assert pruned.loss[position] == menu.loss[k]
        assert all(pruned.cost[q][position] == menu.cost[q][k] for q in QUANTITIES)
    # every option is beaten or equalled by a kept one, and no kept one by another kept one
    for row in rows:
        assert any(all(a <= b for a, b in zip(rows[k], row, strict=True)) for k in kept)
    for one, other in itertools.permutations(kept, 2):
        assert not all(a <= b for a, b in zip(rows[one], rows[other], strict=True))
    inside = {q: limits[q] for q in quantities}
    assert least_loss([pruned], inside) == least_loss([menu], inside)


def test_scaling_a_menu_scales_its_losses_alone():
    menu = menu_of("a", [(2.0, -1.0, -3.0)])
    scaled = menu.scaled(0.5)
    assert scaled.loss.tolist() == [0.0, 1.0]
    assert scaled.choices == menu.choices
    assert scaled.cost is menu.cost


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n_menus=st.integers(1, 4), share=st.floats(0.0, 1.0))
def test_the_hulls_pick_meets_the_limit_and_their_bound_holds(seed: int, n_menus: int, share: float) -> None:
    """Against the enumeration of every pick: the bound is below the best loss, the pick within the limit."""
    random = np.random.default_rng(seed)
    costs, losses = [], []
    for _ in range(n_menus):
        size = int(random.integers(1, 7))
        costs.append(np.sort(random.choice(100, size, replace=False)).astype(float) - 100)
        losses.append(np.sort(random.random(size))[::-1].copy())
    low, high = sum(c[0] for c in costs), sum(c[-1] for c in costs)
    limit = low + share * (high - low)
    picked, bound, _ = relax(costs, losses, limit)
    best = min(
        sum(loss[k] for loss, k in zip(losses, pick, strict=True))
        for pick in itertools.product(*(range(len(c)) for c in costs))
        if sum(c[k] for c, k in zip(costs, pick, strict=True)) <= limit + 1e-9
    )
    assert sum(c[k] for c, k in zip(costs, picked, strict=True)) <= limit + 1e-9
    found = sum(loss[k] for loss, k in zip(losses, picked, strict=True))
    assert bound <= best + 1e-9
    assert best - 1e-9 <= found


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n_menus=st.integers(1, 4), share=st.floats(0.0, 1.0))
def test_no_option_of_a_better_pick_is_left_out(seed: int, n_menus: int, share: float) -> None:
    """Against the enumeration of every pick: all options of the best one are kept, unless the known pick is as good."""
    random = np.random.default_rng(seed)
    costs, losses = [], []
    for _ in range(n_menus):
        size = int(random.integers(1, 7))
        costs.append(np.sort(random.choice(100, size, replace=False)).astype(float) - 100)
        losses.append(np.sort(random.random(size))[::-1].copy())
    low, high = sum(c[0] for c in costs), sum(c[-1] for c in costs)
    limit = np.floor(low + share * (high - low))
    picked, bound, worth = relax(costs, losses, limit)
    found = sum(loss[k] for loss, k in zip(losses, picked, strict=True))
    kept = [could_be_better(c, loss, worth, found - bound) for c, loss in zip(costs, losses, strict=True)]
    within = [
        pick
        for pick in itertools.product(*(range(len(c)) for c in costs))
        if sum(c[k] for c, k in zip(costs, pick, strict=True)) <= limit
    ]
    best = min(within, key=lambda pick: sum(loss[k] for loss, k in zip(losses, pick, strict=True)))
    as_good = sum(loss[k] for loss, k in zip(losses, best, strict=True)) >= found - 1e-9
    assert as_good or all(mask[k] for mask, k in zip(kept, best, strict=True))


def test_on_menus_of_real_size_the_hulls_come_within_half_a_percent() -> None:
    """36 smooth menus of 50 options: the pick is within 0.5 % of its own proven bound."""
    random = np.random.default_rng(0)
    costs = [np.arange(-50.0, 1.0) * random.integers(2, 6) for _ in range(36)]
    losses = [np.exp(-np.arange(51) / random.uniform(5, 20)) * random.uniform(0.1, 10) for _ in range(36)]
    picked, bound, _ = relax(costs, losses, 0.8 * sum(c[0] for c in costs))
    found = sum(loss[k] for loss, k in zip(losses, picked, strict=True))
    assert bound <= found <= 1.005 * bound


def test_what_the_solver_prints_does_not_reach_stdout(capfd, monkeypatch) -> None:
    """A line that C code prints, buffered as C does it, goes to stderr; what comes before and after does not."""
    solve = allocate_module.milp

    def chatty(*args, **kwargs):
        ctypes.CDLL(None).puts(b"a debug line of the solver")
        return solve(*args, **kwargs)

    monkeypatch.setattr(allocate_module, "milp", chatty)
    sys.stdout.write("before\n")
    allocate([menu_of("a", [(1.0, -2.0, -2.0)])], {"flops": -1.0, "params": -1.0})
    sys.stdout.write("after\n")
    seen = capfd.readouterr()
    assert seen.out == "before\nafter\n"
    assert "a debug line of the solver" in seen.err


def test_stdout_is_put_back_after_solvers_in_overlapping_threads(capfd) -> None:
    before = os.fstat(1)
    first, second = allocate_module._stdout_to_stderr(), allocate_module._stdout_to_stderr()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert os.path.samestat(os.fstat(1), os.fstat(2))
    second.__exit__(None, None, None)
    assert os.path.samestat(os.fstat(1), before)


@settings(max_examples=200)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(-40, 8), st.floats(0, 10)), min_size=1, max_size=4), min_size=1, max_size=4
    ),
    st.integers(1, 7),
    st.integers(-120, 20),
)
def test_dynamic_programming_finds_the_least_loss(options, unit, limit):
    """Against every combination; costs have a common divisor, and a limit that it does not divide."""
    costs = [np.array([float(unit * cost) for cost, _ in menu]) for menu in options]
    losses = [np.array([loss for _, loss in menu]) for menu in options]
    inside = [
        sum(loss[k] for loss, k in zip(losses, picked, strict=True))
        for picked in itertools.product(*(range(len(menu)) for menu in options))
        if sum(cost[k] for cost, k in zip(costs, picked, strict=True)) <= limit
    ]
    picked = solve(costs, losses, float(limit))
    if not inside:
        assert picked is None
        return
    assert picked is not None
    assert sum(cost[k] for cost, k in zip(costs, picked, strict=True)) <= limit
    assert sum(loss[k] for loss, k in zip(losses, picked, strict=True)) == pytest.approx(min(inside), abs=1e-9)


def test_dynamic_programming_leaves_what_is_not_whole_or_too_large_to_others():
    assert solve([np.array([-1.5, 0.0])], [np.array([1.0, 0.0])], -1.0) is None
    large = [np.array([-1e9 - 1, 0.0]), np.array([-1e9 - 8, 0.0])]
    assert solve(large, [np.array([1.0, 0.0])] * 2, -5.0) is None
