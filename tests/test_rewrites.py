"""Rewrites change nothing that is computed: logits with padding, by every attention implementation, after reloading."""

from pathlib import Path

import pytest
import torch
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

from autolr import rewrites
from autolr.checkpoint.save import save_checkpoint
from autolr.cost import measure_costs
from autolr.layers import LowRankLinear
from autolr.units import find_units

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


@pytest.mark.parametrize("kind", FITTING)
def test_gradients_stay(kind: str) -> None:
    model = model_of(kind)
    model(**batch()).logits.sum().backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    rewrites.apply(model, "first-position")
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
    with pytest.raises(ValueError, match="unknown rewrite 'faster'; known are first-position"):
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
