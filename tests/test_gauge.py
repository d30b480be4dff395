"""The sizes of the factors: balanced to the last bit, so that half precision, int8 and training take any layer."""

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_compress import prepared, random_candidate
from tiny import given_of
from torch import nn
from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

from autolr.checkpoint.runtime.layers import LowRankLinear, LowRankRowsLinear
from autolr.forms.gauge import balance, balance_
from autolr.forms.low_rank import Factors, fill_, make_factors, make_layer
from autolr.forms.swap import compressed
from autolr.methods.weighted_svd import weighted_svd
from autolr.recovery.kept import Kept
from autolr.recovery.moments import Moments
from autolr.recovery.refit import correct

SCALES = (1e-24, 1e-12, 1e-4, 1.0, 1e8)
"""Of the mean squared gradients: from a model that is sure of everything to one in its first steps."""
OUT, IN, RANK = 48, 80, 12


def case(scale: float):
    """A weight, its inputs, and its factors under an output metric of gradients of one size."""
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(OUT, IN, generator=random)
    spread = torch.logspace(0, -3, IN)
    x = torch.randn(400, IN, generator=random) * spread[torch.randperm(IN, generator=random)]
    g = torch.randn(400, OUT, generator=random) * torch.logspace(0, -2, OUT)
    found = weighted_svd(weight, (x.mT @ x).double() / 400, (g.mT @ g).double() / 400 * scale)
    return weight, x, make_factors(given_of(found, weight), RANK)


def lengths(layer: LowRankLinear) -> torch.Tensor:
    return layer.left.weight.double().norm(dim=0) / layer.right.weight.double().norm(dim=1)


@given(st.integers(-60, 60), st.integers(0, 5), st.integers(1, 7), st.integers(1, 9))
def test_balanced_factors_have_the_same_product_to_the_last_bit(power, rank, n_out, n_in):
    left = torch.randn(n_out, rank) * 2.0**power
    right = torch.randn(rank, n_in) * 2.0**-power
    found_left, found_right = balance(left, right)
    assert torch.equal(found_left @ found_right, left @ right)
    ratio = found_left.norm(dim=0) / found_right.norm(dim=1)
    assert ((ratio > 0.49) & (ratio < 2.01)).all()
    again = balance(found_left, found_right)
    assert torch.equal(again[0], found_left)


def test_a_pair_with_a_zero_side_stays():
    left, right = torch.tensor([[0.0, 3.0]]), torch.tensor([[1e6, 1.0], [0.0, 0.0]])
    found = balance(left, right)
    assert torch.equal(found[0], left)
    assert torch.equal(found[1], right)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", SCALES)
def test_a_layer_in_half_precision_is_as_good_for_gradients_of_any_size(scale, dtype):
    _, x, factors = case(scale)
    wanted = x.double() @ (factors.left.double() @ factors.right.double()).mT
    layer = make_layer(factors, None, torch.empty(0, dtype=dtype))
    with torch.inference_mode():
        found = layer(x.to(dtype)).double()
    assert found.isfinite().all()
    error = (found - wanted).norm() / wanted.norm()
    assert error < {torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    assert ((lengths(layer) > 0.49) & (lengths(layer) < 2.01)).all()
    tiny = torch.finfo(dtype).tiny
    for factor in (layer.left.weight, layer.right.weight):
        assert ((factor != 0) & (factor.abs() < tiny)).float().mean() < 0.01


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("scale", SCALES)
def test_a_layer_in_int8_is_as_good_for_gradients_of_any_size(scale):
    weight, x, factors = case(scale)
    wanted = x @ (factors.left.double() @ factors.right.double()).mT.float()
    whole = nn.Sequential(make_layer(factors, None, torch.empty(0)))
    dense = nn.Sequential(nn.Linear(IN, OUT, bias=False))
    dense[0].weight.data = weight
    with torch.inference_mode():
        found = quantized(whole)(x)
        loss_of_dense = (quantized(dense)(x) - dense(x)).norm() / dense(x).norm()
    assert (found - wanted).norm() / wanted.norm() < 2 * loss_of_dense


def quantized(model: nn.Module) -> nn.Module:
    """Dynamic int8, a step for each output channel."""
    return quantize_dynamic(model.eval(), {nn.Linear: per_channel_dynamic_qconfig}, dtype=torch.qint8)


def test_the_output_of_a_compressed_model_is_that_of_the_factors_as_they_came():
    """Scaling by powers of two changes no bit of float32."""
    model, source = prepared("bert")
    candidate = random_candidate(source)
    batch = {"input_ids": torch.tensor([[2, 5, 9, 4]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    with torch.no_grad(), compressed(model, candidate, source):
        balanced = model(**batch).logits
        for name, choice in candidate.choices:
            layer = model.get_submodule(name)
            if choice["rank"]:
                left, right = source.decomposition(name, choice.method).truncate(choice["rank"])
                kept = layer.left.weight.any(1)
                layer.left.weight.copy_(left.float() * kept[:, None])
                layer.right.weight.copy_(right)
        assert torch.equal(model(**batch).logits, balanced)


def test_a_refitted_layer_is_balanced_anew():
    weight, x, factors = case(1e-12)
    layer = make_layer(factors, torch.zeros(OUT), torch.empty(0))
    moments = Moments()
    with torch.no_grad():
        moments.add(x, {"layer": 3 * x @ weight.mT})
        of_layer = moments.of("layer", layer, weight, None, Kept.of(layer))
        metric = 1e-12 * torch.eye(OUT, dtype=torch.float64)
        correct(layer, of_layer.solve(layer, weight, None, metric, Kept.of(layer)))
    assert ((lengths(layer) > 0.49) & (lengths(layer) < 2.01)).all()


@pytest.mark.parametrize("scale", [1e-12, 1e8])
def test_one_learning_rate_trains_both_factors(scale):
    """Towards the dense layer by AdamW: unbalanced factors at these sizes end worse than they began."""
    weight, x, factors = case(scale)
    target = x @ weight.mT

    def trained(layer: LowRankLinear) -> tuple[float, float]:
        optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3)
        losses = []
        for _ in range(60):
            loss = (layer(x) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
        return losses[0], losses[-1]

    before, after = trained(make_layer(factors, None, torch.empty(0, requires_grad=True)))
    assert after < before
    raw = make_layer(factors, None, torch.empty(0, requires_grad=True))
    with torch.no_grad():
        raw.left.weight.copy_(factors.left), raw.right.weight.copy_(factors.right)
    before, after = trained(raw)
    assert not after < before


def layer_of(factors: Factors, index: torch.Tensor, rows: torch.Tensor, bias: torch.Tensor | None = None):
    """Return a layer that runs factors, with rows computed densely if there are any."""
    if not len(index):
        return make_layer(factors, bias, torch.empty(0))
    layer = LowRankRowsLinear(IN, OUT, factors.right.shape[0], len(index))
    fill_(layer, factors, bias)
    with torch.no_grad():
        layer.rows.weight.copy_(rows)
        layer.row_index.copy_(index)
    return layer


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("n_rows", [0, 3])
def test_under_autocast_every_layer_gives_autocasts_dtype(n_rows: int, rank: int):
    factors = Factors(torch.randn(OUT, rank), torch.randn(rank, IN), torch.randn(OUT))
    layer = layer_of(factors, torch.tensor([1, 5, 7])[:n_rows], torch.randn(n_rows, IN))
    x = torch.randn(2, 7, IN, requires_grad=True)
    plain = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert plain.dtype == torch.float32
    assert found.dtype == torch.bfloat16
    assert (found.float() - plain).norm() < 0.02 * plain.norm()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("n_rows", [0, 3])
def test_at_rank_0_no_empty_product_is_left(n_rows):
    rows = torch.randn(n_rows, IN)
    index = torch.tensor([1, 5, 7][:n_rows], dtype=torch.long)
    factors = Factors(torch.empty(OUT, 0), torch.empty(0, IN), torch.randn(OUT))
    layer = layer_of(factors, index, rows, torch.ones(OUT))
    assert isinstance(layer, LowRankRowsLinear if n_rows else LowRankLinear)
    assert all(min(module.weight.shape) > 0 for module in layer.modules() if isinstance(module, nn.Linear))
    x = torch.randn(2, 7, IN)
    wanted = (factors.shift + 1.0).expand(2, 7, OUT).clone()
    wanted[..., index] += x @ rows.mT
    torch.testing.assert_close(layer(x), wanted)
    assert torch.equal(layer.dense_weight(), torch.zeros(OUT, IN).double().index_add(0, index, rows.double()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exported = torch.export.export(nn.Sequential(layer), (x,), strict=False)
    torch.testing.assert_close(exported.module()(x), wanted)
    with torch.inference_mode():
        found = quantized(nn.Sequential(layer))(x)
    assert (found - wanted).abs().max() < 0.05 * wanted.abs().max()
    same = type(layer)(**layer.sizes())
    same.load_state_dict(layer.state_dict())
    assert torch.equal(same(x), layer(x))
    balance_(layer)
    torch.testing.assert_close(layer(x), wanted)
