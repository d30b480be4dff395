"""Error curves: their shape from the spectrum, their height from one measurement, their price from the cost table."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import MATRIX_METHODS, batches, build, sequences, sized

from autolr.allocation.error_curves import build_menus, error_curves, measure_scales
from autolr.bank import Bank
from autolr.cost import measure_costs
from autolr.forms import FORMS
from autolr.forms.base import REFERENCE_SHARE
from autolr.forms.low_rank import rank_grid
from autolr.forms.low_rank_rows import SHARES
from autolr.forms.swap import build as build_layer
from autolr.forms.swap import compressed
from autolr.methods import METHODS, get_methods
from autolr.model.units import find_units, unit_weight
from autolr.statistics.calibrate import calibrate
from autolr.tasks.class_scorer import ClassScorer
from autolr.types import QUANTITIES, Candidate, Unit

NAMES = MATRIX_METHODS
DATA = batches(sequences(24), 8)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A model and a bank with every method of every unit."""
    model = build("bert")
    units = find_units(model).units
    bank = Bank(tmp_path_factory.mktemp("bank"), model, units, "key")
    bank.build(get_methods(NAMES), lambda missing: calibrate(model, missing, DATA))
    return model, bank


@pytest.fixture(scope="module")
def scorer(bert):
    for batch in DATA:
        batch["labels"] = torch.zeros(len(batch["input_ids"]), dtype=torch.int64)
    return ClassScorer.of(bert[0], DATA)


def curves_of(bank, names=NAMES, multiple=2):
    methods = get_methods(names)
    return [curve for unit in bank.units for method in methods for curve in error_curves(bank, unit, method, multiple)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("multiple", [1, 3])
def test_curves_never_rise_with_rank_and_kept_rows_only_lower_them(bert, name, multiple):
    """At every number of kept rows the error falls with rank; at every rank it falls with the rows."""
    bank = bert[1]
    for curve in curves_of(bank, [name], multiple):
        unit = bank.unit(curve.unit)
        pairs = zip(curve.choices, curve.error, strict=True)
        table = {(choice["rank"], choice.get("rows")): error for choice, error in pairs}
        assert len(table) == len(curve.choices)
        assert (curve.error >= 0).all()
        assert {rank for rank, rows in table if rows == 0} == set(range(0, unit.break_even, multiple))
        slack = 1e-6 * curve.error.max()
        for rows in {rows for _, rows in table}:
            errors = [table[key] for key in sorted(table) if key[1] == rows]
            assert (np.diff(errors) <= slack).all()
        for rank in {rank for rank, _ in table}:
            errors = [table[key] for key in sorted(table) if key[0] == rank]
            assert (np.diff(errors) <= slack).all()
        assert any(rows for _, rows in table) == METHODS.get(name).keeps_rows


@pytest.mark.parametrize("name", ["svd", "afm", "drone", "kfac", "losparse"])
def test_errors_are_half_the_weighted_error_of_the_factors_an_example(bert, name):
    """½ · tokens an example · ‖L (W − M) R‖² of the matrix the compressed layer multiplies by, kept rows and all."""
    model, bank = bert
    for unit in bank.units[:6]:
        stats, weight = bank.stats(unit.name), unit_weight(model, unit)
        (curve,) = error_curves(bank, unit, METHODS.get(name), 2)
        gram = stats.out_gram
        shrunk = 0.98 * gram + 0.02 * gram.trace() / len(gram) * torch.eye(len(gram), dtype=torch.float64)
        left = {"kfac": shrunk, "losparse": torch.diag(shrunk.diagonal())}.get(name, torch.eye(len(gram)).double())
        right = {"svd": torch.eye(unit.in_features).double(), "drone": stats.in_gram}.get(name, stats.in_covariance)
        tokens = 1.0 if name == "svd" else stats.tokens_per_example
        for choice, error in zip(curve.choices, curve.error, strict=True):
            gap = weight.double() - build_layer(model, bank, unit.name, choice)[unit.name].dense_weight()
            explicit = 0.5 * tokens * float((left @ gap @ right @ gap.mT).trace())
            assert error == pytest.approx(explicit, rel=1e-4, abs=1e-5 * float(curve.error.max()))


def test_options_with_rows_stay_cheaper_than_the_dense_layer(bert):
    """Rank and rows together stay below the break-even cost; the shares are those of the table."""
    bank = bert[1]
    seen = set()
    for curve in curves_of(bank, ["losparse"], 1):
        unit = bank.unit(curve.unit)
        for choice in curve.choices:
            seen.add((unit.out_features, choice.get("rows")))
            kept = choice["rank"] * (unit.out_features + unit.in_features) + choice.get("rows") * unit.in_features
            assert kept < unit.out_features * unit.in_features
    assert {rows for size, rows in seen if size == 24} == {0, *(max(1, round(24 * share)) for share in SHARES)}


@pytest.mark.parametrize(("out_features", "in_features"), [(16, 24), (384, 384), (1536, 384), (50, 3)])
@pytest.mark.parametrize("multiple", [1, 8])
def test_the_rank_grid_is_every_multiple_that_saves(out_features, in_features, multiple):
    unit = Unit("a", "a", 0, 1, out_features, in_features)
    grid = list(rank_grid(unit, multiple))
    saving = [
        r
        for r in range(min(out_features, in_features))
        if r * (out_features + in_features) < out_features * in_features
    ]
    assert grid == [rank for rank in saving if rank % multiple == 0]


def test_the_reference_is_the_plain_option_nearest_a_third_of_break_even():
    unit = Unit("a", "a", 0, 1, 96, 96)
    choices, form = [sized("m", rank) for rank in (0, 8, 16, 24)], FORMS.get("low-rank")
    assert REFERENCE_SHARE * unit.break_even == 16
    assert form.reference(unit, choices, np.array([5.0, 4.0, 3.0, 2.5])) == 2
    assert form.reference(unit, [sized("m", 0)], np.zeros(1)) == 0


def test_a_curve_of_several_forms_is_measured_at_the_form_that_its_scale_is_named_after(bert):
    """The rows' options lie among the ranks', by size, and share the measurement; alone they have their own."""
    bank = bert[1]
    unit, method = bank.units[0], METHODS.get("losparse")
    (both,) = error_curves(bank, unit, method, 2)
    (ranks,) = error_curves(bank, unit, method, 2, [FORMS.get("low-rank")])
    (rows,) = error_curves(bank, unit, method, 2, [FORMS.get("low-rank-rows")])
    assert set(both.choices) == {*ranks.choices, *rows.choices}
    assert [c["rank"] for c in both.choices] == sorted(c["rank"] for c in both.choices)
    assert both.choices[both.reference] == ranks.choices[ranks.reference]
    assert rows.choices[rows.reference].form == "low-rank-rows"
    assert both.key == ranks.key == rows.key == (unit.name, "losparse", "low-rank")


def test_a_scaled_curve_passes_through_its_measurement(bert, scorer):
    """The divergence of the model with this unit alone at the reference equals the scaled curve there."""
    model, bank = bert
    curves = curves_of(bank, ["kfac", "svd"])[:8]
    done = []
    scales = measure_scales(model, bank, curves, lambda m: scorer.score(m)["divergence"].value, done.append)
    assert done == list(range(1, 9))
    assert set(scales) == {curve.key for curve in curves}
    costs = measure_costs(model, bank.units, 8, 9)
    menus = {menu.name: menu for menu in build_menus(curves, scales, costs)}
    for curve in curves:
        choice = curve.choices[curve.reference]
        with compressed(model, Candidate.of({curve.unit: choice}), bank):
            measured = scorer.score(model)["divergence"].value
        assert measured > 0
        menu = menus[curve.unit]
        assert menu.loss[menu.choices.index(choice)] == pytest.approx(measured, rel=1e-6)


def test_a_curve_that_is_exact_at_its_reference_keeps_its_scale(bert):
    bank = bert[1]
    (curve,) = curves_of(bank, ["svd"])[:1]
    flat = replace(curve, error=np.zeros_like(curve.error))
    assert measure_scales(bert[0], bank, [flat], lambda _: 3.0) == {curve.key: 1.0}


def test_menus_have_dense_first_and_price_every_option(bert):
    """Dense costs nothing and loses nothing; every other option has the cost table's saving and its scaled error."""
    model, bank = bert
    curves = curves_of(bank, ["losparse", "svd"])
    costs = measure_costs(model, bank.units, 8, 9)
    scales = {curve.key: 2.5 for curve in curves if curve.method == "svd"}
    menus = build_menus(curves, scales, costs)
    assert [menu.name for menu in menus] == [unit.name for unit in bank.units]
    for menu in menus:
        of_unit = [curve for curve in curves if curve.unit == menu.name]
        assert menu.choices == (None, *(choice for curve in of_unit for choice in curve.choices))
        assert menu.loss[0] == 0.0
        assert menu.loss.tolist()[1:] == [
            error * (2.5 if curve.method == "svd" else 1.0) for curve in of_unit for error in curve.error
        ]
        assert set(menu.cost) == set(QUANTITIES)
        for quantity, cost in menu.cost.items():
            assert cost[0] == 0.0
            for choice, change in zip(menu.choices[1:], cost[1:], strict=True):
                alone = costs.cost(Candidate.of({menu.name: choice}))
                assert change == alone.get(quantity) - costs.dense.get(quantity)


def test_kfac_predicts_the_divergence_of_the_whole_model_within_a_factor(bert, scorer):
    """Unscaled kfac errors are in nats: one unit at a time, near full rank; by layer the factor varies a lot."""
    model, bank = bert
    ratios = []
    for curve in curves_of(bank, ["kfac"], 1):
        choice = curve.choices[-1]
        with compressed(model, Candidate.of({curve.unit: choice}), bank):
            ratios.append(scorer.score(model)["divergence"].value / curve.error[-1])
    assert 1 / 2 < np.median(ratios) < 2
    assert min(ratios) > 1 / 20
    assert max(ratios) < 20


def test_a_rank_deficient_weight_is_measured_at_a_rank_at_which_something_is_lost():
    unit = Unit("a", "a", 0, 1, 32, 32)
    choices, form = [sized("svd", rank) for rank in range(16)], FORMS.get("low-rank")
    error = np.array([4.0, 2.0, 1.0, *[1e-20] * 13])
    assert form.reference(unit, choices, error) == 1  # a third of its rank, 3
    assert form.reference(unit, choices, np.linspace(4, 1, 16)) == 5
