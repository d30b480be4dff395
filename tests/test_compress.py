"""A candidate in place of the dense layers: what it computes, and that the dense model comes back whatever happens."""

import gc
import weakref

import pytest
import torch
from tiny import MATRIX_METHODS, Source, batches, build, given_of, sequences, sized
from torch import nn

from autolr.checkpoint.runtime.layers import LowRankLinear, LowRankRowsLinear
from autolr.errors import UsageError
from autolr.forms import FORMS
from autolr.forms.low_rank import make_factors, make_layer
from autolr.forms.low_rank_rows import make_row_factors
from autolr.forms.swap import compress_, compressed, restore_
from autolr.model.units import find_units, unit_bias, unit_weight
from autolr.statistics.calibrate import calibrate
from autolr.types import Candidate

BATCH = batches(sequences(6), 6)


def prepared(family):
    """A model and a source with statistics of every unit."""
    model = build(family)
    units = find_units(model).units
    stats = {unit.name: stats for unit, stats in calibrate(model, units, BATCH)}
    return model, Source(model, {unit.name: unit for unit in units}, stats)


@pytest.fixture(scope="module")
def bert():
    return prepared("bert")


def random_candidate(source, seed=0, method="losparse"):
    """Every unit at a random rank, from 0 to full, every other one with kept rows."""
    random = torch.Generator().manual_seed(seed)
    choices = {}
    for number, (name, unit) in enumerate(source.units.items()):
        full = min(unit.out_features, unit.in_features)
        rank = int(torch.randint(0, full + 1, (1,), generator=random))
        choices[name] = sized(method, rank, rows=3 * (number % 2) * (method == "losparse"))
    return Candidate.of(choices)


def snapshot(model):
    """Every module by identity, every parameter's and buffer's storage, every attribute that compression may touch."""
    return (
        [(name, id(module), module.training) for name, module in model.named_modules()],
        [(name, id(p), p.data_ptr(), p.requires_grad, p._version) for name, p in model.named_parameters()],
        [(name, id(b)) for name, b in model.named_buffers()],
    )


@torch.no_grad()
def logits(model):
    return model(**BATCH[0]).logits


@pytest.mark.parametrize("method", MATRIX_METHODS)
@pytest.mark.parametrize("rank", [0, 1, 5, 16])
def test_factors_are_slices_of_the_decomposition_and_the_shift_corrects_the_mean(bert, method, rank):
    """left·right is the truncation; left(right μ) + b + shift equals W μ + b: exact on the mean input."""
    model, source = bert
    name = "bert.encoder.layer.0.output.dense"
    weight, mean = unit_weight(model, source.unit(name)), source.mean(name)
    decomposition = source.decomposition(name, method)
    factors = make_factors(given_of(decomposition, weight, mean), rank)
    assert torch.equal(factors.left, decomposition.left[:, :rank])
    assert torch.equal(factors.right, decomposition.right[:rank])
    assert factors.left.is_contiguous()
    assert factors.right.is_contiguous()
    output = factors.left @ (factors.right @ mean) + factors.shift
    torch.testing.assert_close(output, weight.double() @ mean, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("rank", [0, 4, 16])
@pytest.mark.parametrize("rows", [1, 5, 16])
def test_kept_rows_are_those_with_the_largest_error_and_are_exact(bert, rank, rows):
    """The kept rows are dense, no other row is worse served, and the rest is the truncation."""
    model, source = bert
    name = "bert.encoder.layer.0.output.dense"
    unit = source.unit(name)
    weight, bias = unit_weight(model, unit), unit_bias(model, unit)
    decomposition = source.decomposition(name, "losparse")
    parts = given_of(decomposition, weight, source.mean(name), bias)
    factors, kept = make_row_factors(parts, rank, rows)
    assert len(set(kept.tolist())) == rows
    residuals = decomposition.row_residuals(rank)
    others = torch.ones(16, dtype=torch.bool)
    others[kept] = False
    if others.any():
        assert residuals[kept].min() >= residuals[others].max()
    assert not factors.left[kept].any()
    assert not factors.shift[kept].any()
    layer = FORMS.get("low-rank-rows").build(parts, sized("losparse", rank, rows), weight)
    assert torch.equal(layer.rows.weight, weight[kept])
    x = torch.randn(7, unit.in_features)
    dense, low = x @ weight.mT + bias, layer(x)
    torch.testing.assert_close(low[:, kept], dense[:, kept], atol=1e-5, rtol=1e-5)
    plain = FORMS.get("low-rank").build(parts, sized("losparse", rank), weight)
    torch.testing.assert_close(low[:, others], plain(x)[:, others], atol=1e-5, rtol=1e-5)
    if rank == 4 and rows == 5:
        assert (low - dense)[:, others].abs().max() > 1e-2


def test_without_a_mean_the_bias_stays_as_it_is(bert):
    model, source = bert
    name = "bert.encoder.layer.0.output.dense"
    weight = unit_weight(model, source.unit(name))
    factors = make_factors(given_of(source.decomposition(name, "svd"), weight), 3)
    assert not factors.shift.any()


def test_a_layer_without_a_bias_gets_the_shift_as_its_bias():
    model, source = prepared("llama")
    name = "model.layers.0.mlp.down_proj"
    weight = unit_weight(model, source.unit(name))
    factors = make_factors(given_of(source.decomposition(name, "afm"), weight, source.mean(name)), 4)
    layer = make_layer(factors, None, weight)
    torch.testing.assert_close(layer.bias, factors.shift.float())
    mean = source.mean(name).float()
    torch.testing.assert_close(layer(mean), model.get_submodule(name)(mean), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2", "llama", "albert", "opt"])
@pytest.mark.parametrize("method", ["svd", "kfac"])
def test_full_rank_everywhere_reproduces_the_logits(family, method):
    """Also where W is stored transposed, keys are grouped and a layer is shared by all blocks."""
    model, source = prepared(family)
    full = {name: sized(method, min(unit.out_features, unit.in_features)) for name, unit in source.units.items()}
    dense = logits(model)
    with compressed(model, Candidate.of(full), source):
        assert sum(isinstance(m, LowRankLinear) for m in model.modules()) == len(full)
        torch.testing.assert_close(logits(model), dense, atol=2e-4, rtol=2e-4)
    assert torch.equal(logits(model), dense)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "albert"])
def test_a_compressed_model_computes_what_the_dense_matrices_say(family):
    """The same logits as a model whose weights are overwritten by each layer's matrix and bias."""
    model, source = prepared(family)
    candidate = random_candidate(source)
    reference = build(family)
    with compressed(model, candidate, source):
        for name in candidate.as_dict():
            layer, target = model.get_submodule(name), reference.get_submodule(name)
            weight = layer.dense_weight().float()
            target.weight.data = weight.mT.contiguous() if source.unit(name).transposed else weight
            target.bias = nn.Parameter(layer.bias.detach().clone())
        torch.testing.assert_close(logits(model), logits(reference), atol=2e-4, rtol=2e-4)
        assert (logits(model) - logits(build(family))).abs().max() > 1e-2


def test_the_dense_modules_are_back_after_success(bert):
    model, source = bert
    before = snapshot(model)
    with compressed(model, random_candidate(source), source) as same:
        assert same is model
        assert snapshot(model) != before
    assert snapshot(model) == before


def test_the_dense_modules_are_back_after_an_exception(bert):
    model, source = bert
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt), compressed(model, random_candidate(source), source):
        raise KeyboardInterrupt
    assert snapshot(model) == before


@pytest.mark.parametrize(
    ("choice", "error"),
    [(sized("afm", 17), ValueError), (sized("nothing", 1), UsageError), (sized("svd", 1, rows=2), ValueError)],
)
def test_the_dense_modules_are_back_when_a_later_unit_cannot_be_compressed(bert, choice, error):
    """A rank too large, an unknown method, rows of a method that keeps none: the units before it are restored."""
    model, source = bert
    before = snapshot(model)
    first, *_, last = source.units
    candidate = Candidate.of({first: sized("svd", 2), last: choice})
    for attempt in (lambda: compress_(model, candidate, source), compressed(model, candidate, source).__enter__):
        with pytest.raises(error):
            attempt()
        assert snapshot(model) == before


def test_nested_candidates_of_different_units_come_off_in_turn(bert):
    model, source = bert
    before = snapshot(model)
    first, second, *_ = source.units
    with compressed(model, Candidate.of({first: sized("svd", 2)}), source):
        outer = snapshot(model)
        with compressed(model, Candidate.of({second: sized("svd", 2)}), source):
            assert isinstance(model.get_submodule(first), LowRankLinear)
            assert isinstance(model.get_submodule(second), LowRankLinear)
        assert snapshot(model) == outer
    assert snapshot(model) == before


def test_compressing_a_unit_twice_is_refused_and_changes_nothing(bert):
    model, source = bert
    first, second, *_ = source.units
    before = snapshot(model)
    with compressed(model, Candidate.of({second: sized("svd", 2)}), source):
        outer = snapshot(model)
        with pytest.raises(UsageError, match=rf"{second} is compressed already \(low-rank: .*rank=2\)"):
            compress_(model, Candidate.of({first: sized("svd", 1), second: sized("svd", 1)}), source)
        assert snapshot(model) == outer
    assert snapshot(model) == before


def test_an_empty_candidate_is_the_dense_model(bert):
    model, source = bert
    before = snapshot(model)
    with compressed(model, Candidate(), source):
        assert snapshot(model) == before


def test_dense_weights_are_neither_copied_nor_kept_alive(bert):
    """The compressed layers hold slices only: their storage is theirs, and as large as their factors."""
    model, source = bert
    pointers = {p.data_ptr() for p in model.parameters()}
    candidate = random_candidate(source)
    dense = compress_(model, candidate, source)
    assert all(dense[name].weight.data_ptr() in pointers for name in dense)
    for name, choice in candidate.choices:
        layer, unit = model.get_submodule(name), source.unit(name)
        kept = choice["rank"] * (unit.out_features + unit.in_features) + choice.get("rows") * unit.in_features
        assert sum(p.untyped_storage().nbytes() for p in layer.parameters()) == 4 * (kept + unit.out_features)
    references = [weakref.ref(model.get_submodule(name)) for name in dense]
    restore_(model, dense)
    del layer
    gc.collect()
    assert all(reference() is None for reference in references)
    assert {p.data_ptr() for p in model.parameters()} == pointers


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_layers_take_the_dtype_mode_and_gradients_of_what_they_replace(dtype):
    model, source = prepared("bert")
    model.to(dtype).train()
    name = "bert.encoder.layer.1.intermediate.dense"
    model.get_submodule(name).weight.requires_grad_(False)
    other = "bert.encoder.layer.1.output.dense"
    with compressed(model, Candidate.of({name: sized("losparse", 2, 3), other: sized("svd", 2)}), source):
        layer = model.get_submodule(name)
        assert isinstance(layer, LowRankRowsLinear)
        assert {p.dtype for p in layer.parameters()} == {dtype}
        assert not any(p.requires_grad for p in layer.parameters())
        assert layer.training
        assert layer.left.training
        assert all(p.requires_grad for p in model.get_submodule(other).parameters())
        assert torch.isfinite(model(**BATCH[0]).logits).all()
    model.eval()
    with compressed(model, Candidate.of({name: sized("losparse", 2, 3)}), source):
        assert not any(module.training for module in model.modules())


def test_the_bias_correction_lowers_the_error_of_the_layer_on_real_inputs(bert):
    """At every rank, on the calibration inputs themselves: the mean of what is cut away is not lost."""
    model, source = bert
    name = "bert.encoder.layer.0.output.dense"
    seen = []
    hook = model.get_submodule(name).register_forward_hook(lambda _m, args, _y: seen.append(args[0]))
    logits(model)
    hook.remove()
    x = seen[0][BATCH[0]["attention_mask"].bool()].double()
    weight = unit_weight(model, source.unit(name))
    for rank in range(16):
        errors = []
        for mean in (source.mean(name), None):
            factors = make_factors(given_of(source.decomposition(name, "svd"), weight, mean), rank)
            output = x @ factors.right.mT @ factors.left.mT + factors.shift
            errors.append(float((output - x @ weight.double().mT).square().sum()))
        assert errors[0] < errors[1]
