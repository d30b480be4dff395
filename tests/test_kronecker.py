"""Sums of Kronecker products: the nearest ones, the layer that runs them, their prices, and a study with them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given as any_of
from hypothesis import settings
from hypothesis import strategies as st
from nli_fixture import write_inputs
from test_neurons import batch_of, check_price, covariance_of, made
from tiny import Source, sized
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner

from autolr.bank import Bank
from autolr.checkpoint.load import load_checkpoint
from autolr.checkpoint.runtime.layers import KroneckerLinear, kronecker_products
from autolr.cli.main import app
from autolr.cost import time_layers
from autolr.cost.count import measure_costs
from autolr.cost.latency_model import LayerTimes
from autolr.errors import FactorizationError
from autolr.forms import FORMS
from autolr.forms.base import Given
from autolr.forms.kronecker import FORM, kronecker
from autolr.forms.swap import compressed
from autolr.methods import van_loan_kfac
from autolr.methods.conformance import example_stats
from autolr.methods.kfac import OUT_SHRINKAGE
from autolr.methods.kronecker_shapes import most_terms, rearranged, shapes, term_products, term_weights
from autolr.methods.shrinkage import well_conditioned
from autolr.methods.van_loan import METHOD
from autolr.methods.van_loan_kfac import nearest_product
from autolr.methods.weighted_svd import shrink
from autolr.model.units import find_units
from autolr.pareto import non_dominated
from autolr.recovery.refit import refit
from autolr.results.bench import Timing
from autolr.statistics.calibrate import calibrate
from autolr.types import Candidate, Conditions, Unit

NO_SHAPES = [(5, 7), (13, 11), (1, 9), (9, 1), (1, 1), (2, 2)]


def random_weight(out_features: int, in_features: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(out_features, in_features, generator=torch.Generator().manual_seed(seed))


def parts(weight: torch.Tensor, mean: torch.Tensor | None = None) -> Given:
    unit = Unit("layer", "layer", 0, 1, *weight.shape)
    return Given(unit, "van-loan", METHOD.decompose(weight.double(), None), weight, mean)


def distance(weight: torch.Tensor, layer: KroneckerLinear) -> float:
    return float((weight.double() - layer.dense_weight()).square().sum().detach())


@pytest.mark.parametrize("shape", [(3, 2), (2, 4), (6, 1), (1, 4), (6, 4), (1, 1)])
@pytest.mark.parametrize("terms", [1, 3])
def test_a_layer_multiplies_by_the_sum_of_its_products_in_the_cheaper_order(shape, terms):
    rows, columns = shape
    layer = KroneckerLinear(8, 12, terms, rows, columns)
    a = torch.randn(terms, rows, columns)
    b = torch.randn(terms, 12 // rows, 8 // columns)
    layer.fill_(a, b)
    layer.bias.data.normal_()
    weight = sum(torch.kron(left, right) for left, right in zip(a, b, strict=True))
    assert all(map(torch.equal, layer.factors(), (a, b)))
    torch.testing.assert_close(layer.dense_weight().float(), weight)
    for size in ((8,), (5, 8), (2, 3, 8), (0, 8)):
        x = torch.randn(size)
        torch.testing.assert_close(layer(x), x @ weight.mT + layer.bias, atol=1e-4, rtol=1e-4)
    with FlopCounterMode(display=False) as counter:
        layer(torch.randn(2, 5, 8))
    assert counter.get_total_flops() == 2 * 10 * terms * min(kronecker_products(8, 12, rows, columns))


@pytest.mark.parametrize("size", [(24, 40), (40, 24), (16, 16)])
def test_all_terms_give_the_dense_matrix(size):
    weight = random_weight(*size)
    given = parts(weight)
    assert given.decomposition
    for part in given.decomposition:
        layer = FORM.build(given, kronecker("van-loan", part.decomposition.max_rank, part.rows, part.columns), weight)
        assert distance(weight, layer) < 1e-9 * float(weight.square().sum())


def test_a_matrix_that_is_a_product_needs_one_term():
    weight = torch.kron(random_weight(3, 4, 1), random_weight(8, 10, 2))
    table = rearranged(weight, 3, 4)
    assert torch.linalg.matrix_rank(table) == 1
    assert torch.equal(table[5], (weight[8:16, 10:20]).flatten())


@pytest.mark.parametrize("size", [(24, 40), (40, 24), (16, 16)])
def test_in_the_metric_of_the_loss_each_sum_errs_as_it_says_and_none_of_its_shape_errs_less(size):
    """``‖L (W − M) R‖²`` with Kronecker products L and R of the shape; the nearest without a metric is not below it."""
    weight = random_weight(*size).double()
    stats = example_stats(weight, 400, 0)
    plain = {(part.rows, part.columns): part.decomposition for part in METHOD.decompose(weight, None)}
    outputs = shrink(stats.out_gram, OUT_SHRINKAGE)
    inputs = well_conditioned(stats.in_covariance, stats.n_tokens)
    for part in van_loan_kfac.decompose(weight, stats):
        rows, columns = part.rows, part.columns
        H, C = (torch.kron(*nearest_product(gram, n)) for gram, n in ((outputs, rows), (inputs, columns)))
        scale = part.decomposition.tail_energy(0)
        for terms in (0, 1, 2, part.decomposition.max_rank):
            errors = []
            for decomposition in (part.decomposition, plain[rows, columns]):
                left, right = decomposition.truncate(terms)
                gap = rearranged(weight, rows, columns) - left @ right
                gap = gap.reshape(rows, columns, size[0] // rows, -1).transpose(1, 2).reshape(size)
                errors.append(float(torch.trace(H @ gap @ C @ gap.mT)))
            assert errors[0] == pytest.approx(part.decomposition.tail_energy(terms), abs=1e-6 * scale)
            assert errors[0] <= errors[1] + 1e-6 * scale


def test_the_nearest_product_is_exact_where_one_factor_is_a_number_and_no_other_is_nearer():
    gram = covariance_of(12, 12, torch.Generator().manual_seed(0))
    for size in (1, 12):
        torch.testing.assert_close(torch.kron(*nearest_product(gram, size)), gram, rtol=1e-4, atol=1e-4)
    for size in (2, 3, 4):
        table = rearranged(gram, size, size)
        least = float(torch.linalg.svdvals(table)[1:].square().sum())
        gap = torch.kron(*nearest_product(gram, size)) - gram
        assert float(gap.square().sum()) == pytest.approx(least, rel=1e-2)
    assert torch.equal(torch.kron(*nearest_product(torch.zeros(6, 6), 2)), torch.eye(6).double())


@any_of(st.integers(1, 24), st.integers(1, 24), st.integers(1, 4), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_options_of_any_size_are_cheaper_than_dense_and_unbeaten_and_err_as_they_say(out, wide, multiple, seed):
    weight = random_weight(out, wide, seed)
    given = parts(weight)
    choices, errors = FORM.options(given, multiple)
    if not choices:
        assert not shapes(out, wide)
        return
    prices = [(FORM.weights(given.unit, c), sum(FORM.products(given.unit, c).values())) for c in choices]
    assert all(weights <= products < out * wide for weights, products in prices)
    assert non_dominated(np.column_stack([errors, prices])).all()
    for choice, error in zip(choices, errors, strict=True):
        told = distance(weight, FORM.build(given, choice, weight))
        assert told == pytest.approx(float(error), abs=1e-5 * float(weight.square().sum()))


@pytest.mark.parametrize("size", [(24, 40), (16, 16)])
def test_in_each_shape_the_error_never_grows_with_the_terms(size):
    weight = random_weight(*size)
    given = parts(weight)
    for part in given.decomposition:
        errors = [
            distance(weight, FORM.build(given, kronecker("van-loan", terms, part.rows, part.columns), weight))
            for terms in range(1, most_terms(size, part.rows, part.columns) + 1)
        ]
        assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("size", [(384, 384), (1536, 384), (384, 1536), (30, 42)])
def test_offered_shapes_are_useful_and_none_is_low_rank(size):
    found = shapes(*size)
    assert 4 <= len(found) <= 8
    assert not {(size[0], 1), (1, size[1])} & set(found)
    for rows, columns in found:
        assert size[0] % rows == size[1] % columns == 0
        terms = most_terms(size, rows, columns)
        assert terms * term_weights(*size, rows, columns) <= terms * term_products(*size, rows, columns)
        assert terms * term_products(*size, rows, columns) < size[0] * size[1]


@pytest.mark.parametrize("size", NO_SHAPES)
def test_sizes_of_too_few_divisors_have_no_options_and_are_not_timed(size):
    given = parts(random_weight(*size))
    choices, errors = FORM.options(given, 8)
    assert (given.decomposition, list(choices), len(errors), list(FORM.timed(given.unit))) == ((), [], 0, [])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_layers_in_half_precision_equal_those_in_float32(dtype):
    weight = random_weight(24, 40) * 1e-3  # so small that unbalanced factors would be lost in float16
    given = parts(weight, torch.randn(40).double())
    choices, _ = FORM.options(given, 1)
    x = torch.randn(3, 5, 40)
    for choice in choices:
        exact, rounded = (FORM.build(given, choice, torch.empty(0, dtype=like)) for like in (torch.float32, dtype))
        found = rounded(x.to(dtype))
        assert found.dtype == dtype
        gap = (found.float() - exact(x)).norm() / exact(x).norm()
        assert gap < 8 * torch.finfo(dtype).eps, choice
        with torch.autocast("cpu", dtype):
            assert exact(x).dtype == dtype


def calibrated(model: nn.Module, length: int = 24) -> Source:
    units = {unit.name: unit for unit in find_units(model).units}
    batch = batch_of(model, length)
    return Source(model, units, {u.name: stats for u, stats in calibrate(model, list(units.values()), [batch])})


def candidate_of(source: Source) -> Candidate:
    """Every unit that has a shape at two terms of its first one."""
    found = {name: shapes(unit.out_features, unit.in_features) for name, unit in source.units.items()}
    return Candidate.of({name: kronecker("van-loan", 2, *offered[0]) for name, offered in found.items() if offered})


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2"])
def test_prices_are_those_of_the_built_model(name):
    model = made(name)
    source = calibrated(model, 6)
    source.batch = batch_of(model, 6)
    costs = measure_costs(model, tuple(source.units.values()), 2, 6)
    candidate = candidate_of(source)
    assert len(candidate.choices) > 4
    assert costs.cost(candidate).flops < costs.dense.flops
    check_price(model, source, costs, candidate)


def test_the_refit_leaves_them_alone_and_fits_the_others():
    model = made("bert")
    source = calibrated(model)
    chosen = candidate_of(source).as_dict()
    others = [name for name in chosen if name.endswith("output.dense")]
    mixed = Candidate.of({**chosen, **{name: sized("kfac", 3) for name in others}})
    batches = [{**batch_of(model, 24), "input_ids": batch_of(model, 24)["input_ids"].roll(k, 1)} for k in range(8)]
    corrections = refit(model, mixed, source, batches)
    assert corrections
    assert corrections.keys() <= set(others)
    assert refit(model, Candidate.of(chosen), source, batches) == {}
    with compressed(model, Candidate.of(chosen), source):
        assert model(**batches[0]).logits.isfinite().all()


def bank_of(directory, model, methods, units=None):
    units = units or find_units(model).units[:2]
    bank = Bank(directory, model, units, "key")
    bank.build(methods, lambda missing: calibrate(model, missing, [batch_of(model)]))
    return bank


def test_what_is_stored_comes_back_from_disk(tmp_path):
    model = made("bert")
    bank_of(tmp_path, model, [METHOD])
    again = Bank(tmp_path, model, find_units(model).units[:2], "other calibration")
    assert again.present([METHOD]) is False  # the statistics are others
    for unit in again.units:
        stored = {(part.rows, part.columns): part.decomposition for part in again.decomposition(unit.name, "van-loan")}
        fresh = METHOD.decompose(model.get_submodule(unit.name).weight.detach().double(), None)
        assert stored.keys() == {(part.rows, part.columns) for part in fresh}
        for part in fresh:
            kept, terms = stored[part.rows, part.columns], most_terms((32, 32), part.rows, part.columns)
            assert kept.max_rank == terms
            assert torch.equal(kept.left, part.decomposition.left[:, :terms].float())
            assert torch.equal(kept.singular_values, part.decomposition.singular_values)


def test_nothing_to_store_comes_back_as_nothing(tmp_path):
    model = nn.ModuleDict({"layer": nn.Linear(7, 5)})
    unit = Unit("layer", "layer", 0, 1, 5, 7)
    bank = Bank(tmp_path, model, [unit], "key")
    bank.build([METHOD], lambda _: [(unit, example_stats(torch.zeros(5, 7), 20, 0))])
    assert bank.decomposition("layer", "van-loan") == ()
    assert Bank(tmp_path, model, [unit], "key").complete([METHOD])


def changed(**fields):
    def decompose(weight, stats):
        first, *rest = METHOD.decompose(weight, stats)
        return (replace(first, **fields), *rest)

    return decompose


@pytest.mark.parametrize(
    ("decompose", "complaint"),
    [
        (lambda *_: None, "must return a tuple of autolr.types.Rearranged, got NoneType"),
        (changed(rows=5), "A of 5 x .* do not divide a weight of 32 x 32"),
        (changed(rows=32, columns=2), "A of 32 x 2: factors and singular values must be of shapes"),
        (lambda weight, stats: METHOD.decompose(weight + 1, stats), "must give the weight at full rank"),
    ],
)
def test_what_is_no_decomposition_of_the_weight_is_told(tmp_path, decompose, complaint):
    with pytest.raises(FactorizationError, match=complaint):
        bank_of(tmp_path, made("bert"), [replace(METHOD, decompose=decompose)])


def test_where_time_is_products_the_times_of_all_options_are_predicted_and_stored(monkeypatch):
    """Each run takes a fixed time and one for each FLOP that is counted."""

    def compare(runs, **_):
        times = {}
        for name, run in runs.items():
            with FlopCounterMode(display=False) as counter:
                run()
            times[name] = 1e-3 + 1e-6 * counter.get_total_flops()
        return {name: Timing(1, 1, 1, time, time, time, 12, True) for name, time in times.items()}

    monkeypatch.setattr(time_layers, "compare", compare)
    model = made("bert")
    [unit, *_] = units = [unit for unit in find_units(model).units if unit.out_features == 48]
    forms = [FORMS.get(name) for name in ("low-rank", "kronecker")]
    rows = dict.fromkeys((unit.name for unit in units), 8)
    shapes = time_layers.shapes_of(model, units, forms, rows)
    [times] = time_layers.time_layers(model, shapes, Conditions(1, 8, "float32"), lambda: None, {}).values()
    again = LayerTimes.from_json(json.loads(json.dumps(times.to_json())))
    copies = len(units)
    for choice in FORM.options(parts(random_weight(unit.out_features, unit.in_features)), 1)[0]:
        told = 1e-3 / copies + 2e-6 * 8 * sum(FORM.products(unit, choice).values())
        assert again.at(unit, choice) == times.at(unit, choice) == pytest.approx(told, rel=1e-3)


def test_a_study_goes_from_search_to_a_checkpoint_that_gives_the_same_answers(tmp_path):
    """One layer of each block is a Kronecker product, so that it becomes one."""
    options = write_inputs(tmp_path / "inputs")
    dense = AutoModelForSequenceClassification.from_pretrained(options["--model"])
    for block in dense.bert.encoder.layer:
        weight = block.attention.output.dense.weight
        rows, columns = shapes(*weight.shape)[-1]  # that of the highest rank, so that low rank does not serve
        wide = weight.shape[0] // rows, weight.shape[1] // columns
        weight.data.copy_(torch.kron(random_weight(rows, columns), 0.1 * random_weight(*wide)))
    dense.save_pretrained(options["--model"])
    data = [word for pair in options.items() for word in pair]
    study, out = tmp_path / "study", tmp_path / "model"
    asked = ["--form", "kronecker", "--form", "low-rank", "--method", "kfac", "--multiple", "1", "--trials", "4"]

    def run(*words: object) -> str:
        done = CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)
        assert done.exit_code == 0, done.stderr
        return done.stdout

    run("search", *data, *asked, "--budget", "0.6x-flops", "--search-examples", "40", "--study", study)
    members = json.loads(run("front", study, "--json"))["members"]
    [trial, *_] = [m["trial"] for m in members if "kronecker" in {c.get("form") for c in m["candidate"].values()}]
    said = json.loads(run("export", study, "--trial", trial, "--out", out, "--json"))
    assert said["max_logit_difference"] == 0.0
    layers = json.loads((out / "config.json").read_text())["quantization_config"]["layers"].values()
    assert "kronecker" in {layer["kind"] for layer in layers}
    assert "rows of A" in (out / "README.md").read_text()
    assert "kronecker" in run("sensitivity", study, "--json")
    assert load_checkpoint(out).eval()(**batch_of(nn.Module(), 5)).logits.isfinite().all()


def test_its_method_is_asked_for_by_the_form():
    done = CliRunner().invoke(app, ["search", "--budget", "0.5x-flops", "--method", "van-loan"])
    assert done.exit_code == 2
    assert "van-loan comes with its form; ask for that by --form kronecker" in " ".join(done.stderr.split())
