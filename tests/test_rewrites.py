"""Rewrites change nothing that is computed: logits with padding, by every attention implementation, after reloading."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)
from transformers.models.bert.modeling_bert import BertIntermediate

from autolr.checkpoint.runtime import rewrites
from autolr.checkpoint.runtime.layers import LowRankLinear, LowRankRowsLinear, SelectedLinear, SelectedLowRankLinear
from autolr.checkpoint.runtime.rewrites import fused_activation
from autolr.checkpoint.save import save_checkpoint
from autolr.cost import measure_costs
from autolr.model.units import find_units

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 60,
    "max_position_embeddings": 40,
    "num_labels": 3,
}
FITTING = {
    "bert": (BertConfig, BertForSequenceClassification),
    "roberta": (RobertaConfig, RobertaForSequenceClassification),
    "electra": (ElectraConfig, ElectraForSequenceClassification),
}


def model_of(kind: str):
    config, cls = FITTING[kind]
    torch.manual_seed(0)
    return cls(config(**SIZES)).eval()


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 60, (3, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    mask[2, 3:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def logits_of(model, **more) -> torch.Tensor:
    with torch.inference_mode():
        return model(**batch(), **more).logits


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", FITTING)
def test_the_logits_stay(kind: str, attention: str) -> None:
    model = model_of(kind)
    model.set_attn_implementation(attention)
    before = logits_of(model)
    without_mask = model(input_ids=batch()["input_ids"]).logits
    assert rewrites.apply(model, "first-position")
    assert rewrites.applied(model) == ["first-position"]
    torch.testing.assert_close(logits_of(model), before, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(input_ids=batch()["input_ids"]).logits, without_mask, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rewrite", rewrites.REWRITES)
@pytest.mark.parametrize("kind", FITTING)
def test_gradients_stay(kind: str, rewrite: str) -> None:
    model = model_of(kind)
    model(**batch()).logits.sum().backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    assert rewrites.apply(model, rewrite)
    model(**batch()).logits.sum().backward()
    after = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert before.keys() == after.keys()
    for name, gradient in before.items():
        torch.testing.assert_close(after[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_the_names_of_parameters_stay_and_it_can_be_undone() -> None:
    model = model_of("bert")
    names, cls = list(model.state_dict()), type(model.bert.encoder.layer[1])
    before = logits_of(model)
    rewrites.apply(model, "first-position")
    rewrites.apply(model, "first-position")
    assert list(model.state_dict()) == names
    assert model.bert(**batch()).last_hidden_state.shape[1] == 1
    rewrites.undo(model)
    assert type(model.bert.encoder.layer[1]) is cls
    assert rewrites.applied(model) == []
    assert torch.equal(logits_of(model), before)


def test_a_rewritten_model_pickles_and_keeps_its_classes_names() -> None:
    model = model_of("bert")
    names = [type(module).__name__ for module in model.modules()]
    for name in rewrites.REWRITES:
        rewrites.apply(model, name)
    assert [type(module).__name__ for module in model.modules()] == names
    pickled = pickle.loads(pickle.dumps(model))  # noqa: S301  our own, a moment ago
    for other in (pickled, copy.deepcopy(model)):
        assert rewrites.applied(other) == list(rewrites.REWRITES)
        assert torch.equal(logits_of(other), logits_of(model))


def test_gradients_reach_the_one_parameter_that_is_trained() -> None:
    for part in ("left.bias", "left.weight", "right.weight"):
        module = fused(feed_forward("gelu", LowRankLinear(24, 40, 5))).requires_grad_(False)
        parameter = module.dense.get_parameter(part).requires_grad_(True)
        module(torch.randn(3, 24)).sum().backward()
        assert parameter.grad is not None, part
        assert parameter.grad.abs().sum() > 0, part


def test_one_rewrite_can_be_undone_and_the_other_stay() -> None:
    model = model_of("bert")
    for name in rewrites.REWRITES:
        assert rewrites.apply(model, name)
    assert rewrites.applied(model) == list(rewrites.REWRITES)
    rewrites.undo(model, ("first-position",))
    assert rewrites.applied(model) == ["fused-activation"]
    assert type(model.bert.encoder.layer[1]) is type(model_of("bert").bert.encoder.layer[1])


def test_models_that_read_other_positions_are_left_alone() -> None:
    plain = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 60}
    others = [
        BertForMaskedLM(BertConfig(**plain, intermediate_size=64)),
        GPT2ForSequenceClassification(GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=60)),
        DistilBertForSequenceClassification(DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=64)),
    ]
    for model in others:
        assert not rewrites.apply(model, "first-position"), type(model).__name__
        assert rewrites.applied(model) == []


def test_an_unknown_rewrite_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown rewrite 'faster'; known are first-position, fused-activation"):
        rewrites.apply(model_of("bert"), "faster")


@pytest.mark.parametrize("kind", FITTING)
def test_a_checkpoint_keeps_it_where_it_fits_and_is_right_where_it_does_not(kind: str, tmp_path: Path) -> None:
    model = model_of(kind)
    units = find_units(model).units
    layer = LowRankLinear(units[0].in_features, units[0].out_features, 4)
    torch.nn.init.normal_(layer.left.weight), torch.nn.init.normal_(layer.right.weight)
    torch.nn.init.zeros_(layer.left.bias)
    model.set_submodule(units[0].name, layer)
    plain_logits = logits_of(model)
    with torch.inference_mode():
        hidden = model.base_model(**batch()).last_hidden_state
    rewrites.apply(model, "first-position")
    save_checkpoint(model, tmp_path / "small")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "small").eval()
    assert rewrites.applied(loaded) == ["first-position"]
    assert torch.equal(logits_of(loaded), logits_of(model))
    torch.testing.assert_close(logits_of(loaded), plain_logits, rtol=1e-4, atol=1e-5)
    base = AutoModel.from_pretrained(tmp_path / "small").eval()
    assert rewrites.applied(base) == []
    with torch.inference_mode():
        torch.testing.assert_close(base(**batch()).last_hidden_state, hidden, rtol=1e-4, atol=1e-5)
    loaded.save_pretrained(tmp_path / "again")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "again").eval()
    assert rewrites.applied(again) == ["first-position"]


def test_costs_refer_to_the_model_without_it() -> None:
    model = model_of("bert")
    units = find_units(model).units
    plain = measure_costs(model, units, 4, 12)
    rewrites.apply(model, "first-position")
    fast = measure_costs(model, units, 4, 12)
    assert rewrites.applied(model) == ["first-position"]
    assert fast.dense == plain.dense
    assert plain.base == plain.dense
    assert fast.base.flops < fast.dense.flops
    last = {name: rows for name, rows in fast.rows.items() if ".layer.1." in name}
    assert {rows for name, rows in last.items() if "key" in name or "value" in name} == {4 * 12}
    assert {rows for name, rows in last.items() if "key" not in name and "value" not in name} == {4}


def test_a_model_that_is_only_rewritten_can_be_saved(tmp_path: Path) -> None:
    model = model_of("bert")
    rewrites.apply(model, "first-position")
    save_checkpoint(model, tmp_path / "fast")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "fast").eval()
    assert rewrites.applied(loaded) == ["first-position"]
    assert torch.equal(logits_of(loaded), logits_of(model))


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What was computed by a fused product: activation and algorithm of each call."""
    seen: list[tuple[str, str]] = []
    product = fused_activation._PRODUCT

    def counted(x, weight, bias, name, scalars, algorithm):
        seen.append((name, algorithm))
        return product(x, weight, bias, name, scalars, algorithm)

    monkeypatch.setattr(fused_activation, "_PRODUCT", counted)
    return seen


def feed_forward(activation: str, dense: torch.nn.Module | None = None) -> BertIntermediate:
    torch.manual_seed(0)
    config = BertConfig(hidden_size=24, intermediate_size=40, hidden_act=activation, num_attention_heads=4)
    module = BertIntermediate(config).eval()
    if dense is not None:
        for parameter in dense.parameters():
            torch.nn.init.normal_(parameter)
        module.dense = dense
    return module


def fused(module: BertIntermediate) -> BertIntermediate:
    assert rewrites.apply(module, "fused-activation")
    return module


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        ("gelu", ("gelu", "none")),
        ("gelu_python", ("gelu", "none")),
        ("gelu_new", ("gelu", "tanh")),
        ("gelu_pytorch_tanh", ("gelu", "tanh")),
        ("relu", ("relu", "")),
        ("silu", ("swish", "")),
    ],
)
@pytest.mark.parametrize(
    "dense",
    [None, LowRankLinear(24, 40, 5), SelectedLinear(24, 40, 24, 64), SelectedLowRankLinear(24, 40, 5, 24, 64)],
    ids=["dense", "low-rank", "selected", "selected-low-rank"],
)
def test_an_activation_is_fused_with_the_product_before_it(activation, name, dense, products) -> None:
    module = feed_forward(activation, dense)
    x = torch.randn(3, 7, 24)
    with torch.no_grad():
        before, part = module(x), module(x.transpose(0, 1)[:, :2])
        after, part_after = fused(module)(x), module(x.transpose(0, 1)[:, :2])
    assert products == [name, name]
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(part_after, part, rtol=1e-5, atol=1e-5)


def test_an_activation_that_is_not_known_stays() -> None:
    assert not rewrites.apply(feed_forward("quick_gelu"), "fused-activation")


def test_where_it_cannot_be_fused_the_module_computes_as_before(products) -> None:
    x = torch.randn(3, 7, 24)
    rows, none = LowRankRowsLinear(24, 40, 5, 2), LowRankLinear(24, 40, 0)
    hooked, inner = LowRankLinear(24, 40, 3), LowRankLinear(24, 40, 3)
    calls = []
    hooked.register_forward_hook(lambda *_: calls.append("outer"))
    inner.left.register_forward_hook(lambda *_: calls.append("inner"))
    for dense in (rows, none, hooked, inner):
        module = feed_forward("gelu", dense)
        with torch.no_grad():
            before = module(x)
            assert torch.equal(fused(module)(x), before)
    assert calls == ["outer", "outer", "inner", "inner"]
    module = feed_forward("gelu")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = module(x)
        assert torch.equal(fused(module)(x), before)
        assert before.dtype is torch.bfloat16
    with torch.no_grad():
        assert fused(module).double()(x.double()).dtype is torch.float64
    assert fused(feed_forward("gelu"))(x).requires_grad
    assert products == []


def test_it_compiles_and_its_flops_are_counted() -> None:
    plain, fast = feed_forward("gelu"), fused(feed_forward("gelu"))
    x = torch.randn(3, 7, 24)
    counted = []
    for module in (plain, fast):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(x)
        counted.append(counter.get_total_flops())
    assert counted == [2 * 21 * 24 * 40] * 2
    with torch.no_grad():
        compiled = torch.compile(fast, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), plain(x), rtol=1e-5, atol=1e-5)


def test_factors_that_change_are_seen(products) -> None:
    module = fused(feed_forward("gelu", LowRankLinear(24, 40, 5)))
    x = torch.randn(3, 7, 24)
    with torch.no_grad():
        module(x)
        module.dense.left.weight.data.mul_(2)
        torch.testing.assert_close(module(x), module.intermediate_act_fn(module.dense(x)), rtol=1e-5, atol=1e-5)
    assert len(products) == 2


def test_a_checkpoint_keeps_the_fused_activation(tmp_path: Path, products) -> None:
    model = model_of("bert")
    before = logits_of(model)
    for name in rewrites.REWRITES:
        rewrites.apply(model, name)
    save_checkpoint(model, tmp_path / "fast")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "fast").eval()
    assert rewrites.applied(loaded) == list(rewrites.REWRITES)
    assert torch.equal(logits_of(loaded), logits_of(model))
    torch.testing.assert_close(logits_of(loaded), before, rtol=1e-4, atol=1e-5)
    assert len(products) == 3 * SIZES["num_hidden_layers"]
    base = AutoModel.from_pretrained(tmp_path / "fast").eval()
    assert rewrites.applied(base) == ["fused-activation"]
