"""Rarer architectures, without a study of each: statistics, prices, lengths, and checkpoints of all their layers."""

from collections.abc import Callable

import pytest
import torch
import transformers as hf
from architecture_table import ARCHITECTURES, tokenizer
from tiny import Source, sized
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autolr.checkpoint.save import save_checkpoint
from autolr.cost import measure_costs
from autolr.errors import UsageError
from autolr.forms.swap import compressed
from autolr.machine.tensor_digest import tensor_digest
from autolr.model.inputs import LONGEST, longest_input
from autolr.model.units import find_units
from autolr.statistics.calibrate import calibrate, class_cotangents, unmatched_units
from autolr.types import Candidate

VOCABULARY, PAD, END, BATCH, LENGTH = 40, 0, 2, 3, 9
_IDS = {"vocab_size": VOCABULARY, "num_labels": 3, "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": END}
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_ENCODER = {**_SIZES, "intermediate_size": 48, "max_position_embeddings": 24}
_DECODER = {**_ENCODER, "num_key_value_heads": 2}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 24}
_MOE = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
_LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
_BOTH = {
    f"{side}_{name}": size
    for side in ("encoder", "decoder")
    for name, size in {"layers": 2, "attention_heads": 4, "ffn_dim": 48}.items()
}


def _made(model: type, config: type, **sizes: object) -> Callable[[], hf.PreTrainedModel]:
    return lambda: model(config(**{**_IDS, **sizes}))


RARER: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "camembert": _made(hf.CamembertForSequenceClassification, hf.CamembertConfig, **_ENCODER),
    "xlm-roberta": _made(hf.XLMRobertaForSequenceClassification, hf.XLMRobertaConfig, **_ENCODER),
    "mpnet": _made(hf.MPNetForSequenceClassification, hf.MPNetConfig, **_ENCODER),
    "rembert": _made(hf.RemBertForSequenceClassification, hf.RemBertConfig, input_embedding_size=16, **_ENCODER),
    "roformer": _made(hf.RoFormerForSequenceClassification, hf.RoFormerConfig, embedding_size=16, **_ENCODER),
    "convbert": _made(hf.ConvBertForSequenceClassification, hf.ConvBertConfig, embedding_size=16, **_ENCODER),
    "gpt-neox, fused qkv": _made(hf.GPTNeoXForSequenceClassification, hf.GPTNeoXConfig, **_ENCODER),
    "gptj": _made(hf.GPTJForSequenceClassification, hf.GPTJConfig, rotary_dim=4, **_GPT),
    "gpt-bigcode, one key head": _made(hf.GPTBigCodeForSequenceClassification, hf.GPTBigCodeConfig, **_GPT),
    "ctrl": _made(hf.CTRLForSequenceClassification, hf.CTRLConfig, dff=48, **_GPT),
    "falcon, one key head": _made(hf.FalconForSequenceClassification, hf.FalconConfig, **_SIZES),
    "falcon, key groups": _made(
        hf.FalconForSequenceClassification,
        hf.FalconConfig,
        new_decoder_architecture=True,
        num_kv_heads=2,
        bias=True,
        **_SIZES,
    ),
    "bloom": _made(hf.BloomForSequenceClassification, hf.BloomConfig, hidden_size=32, n_layer=2, n_head=4),
    "mpt": _made(hf.MptForSequenceClassification, hf.MptConfig, d_model=32, n_layers=2, n_heads=4, max_seq_len=24),
    "phi": _made(hf.PhiForSequenceClassification, hf.PhiConfig, **_DECODER),
    "gemma2": _made(hf.Gemma2ForSequenceClassification, hf.Gemma2Config, head_dim=8, **_DECODER),
    "stablelm": _made(hf.StableLmForSequenceClassification, hf.StableLmConfig, **_DECODER),
    "starcoder2": _made(hf.Starcoder2ForSequenceClassification, hf.Starcoder2Config, **_DECODER),
    "qwen3-moe": _made(
        hf.Qwen3MoeForSequenceClassification, hf.Qwen3MoeConfig, head_dim=8, num_experts=4, **_MOE, **_DECODER
    ),
    "deepseek-v3": _made(
        hf.DeepseekV3ForSequenceClassification,
        hf.DeepseekV3Config,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        **_MOE,
        **_LATENT,
        **{**_DECODER, "num_key_value_heads": 4},
    ),
    "mt5": _made(hf.MT5ForSequenceClassification, hf.MT5Config, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4),
    "mbart": _made(hf.MBartForSequenceClassification, hf.MBartConfig, d_model=32, max_position_embeddings=24, **_BOTH),
}


def build(name: str) -> hf.PreTrainedModel:
    torch.manual_seed(0)
    return RARER[name]().eval()


def batch(side: str = "right", length: int = LENGTH) -> dict[str, torch.Tensor]:
    """Random sequences of three lengths that end where a text ends."""
    ids = torch.randint(5, VOCABULARY, (BATCH, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    for row in range(BATCH):
        gap = 2 * row
        real = slice(0, length - gap) if side == "right" else slice(gap, length)
        ids[row, real.stop - 1] = END
        mask[row] = 0
        mask[row, real] = 1
    return {"input_ids": torch.where(mask.bool(), ids, PAD), "attention_mask": mask}


def everything(model: hf.PreTrainedModel) -> tuple[Source, Candidate]:
    """A candidate of all the layers, by plain SVD, every second one at half of its break-even rank."""
    units = find_units(model)
    source = Source(model, units.by_name())
    ranks = {unit.name: max(2, unit.break_even // (1 + i % 2)) for i, unit in enumerate(units.units)}
    return source, Candidate.of({name: sized("svd", rank) for name, rank in ranks.items()})


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", RARER)
def test_every_layer_has_statistics_on_either_side_of_padding(name: str, side: str):
    model, batches = build(name), [batch(side)]
    units = find_units(model).units
    assert not unmatched_units(model, units, batches[0])
    digest = tensor_digest(model.state_dict())
    found = {unit.name: stats for unit, stats in calibrate(model, units, batches)}
    assert len(found) == len(units) >= 4
    assert all(stats.in_gram.trace() > 0 for stats in found.values())
    assert tensor_digest(model.state_dict()) == digest


@pytest.mark.parametrize("name", sorted(set(RARER) - {"convbert"}))  # its convolutions reach into padding
def test_statistics_of_padded_sequences_are_those_of_each_alone(name: str):
    """Tokens and sequences are told apart as the model lays them out."""
    model, padded = build(name), batch()
    units = find_units(model).units
    alone = [
        {"input_ids": ids[mask.bool()][None], "attention_mask": mask[mask.bool()][None]}
        for ids, mask in zip(padded["input_ids"], padded["attention_mask"], strict=True)
    ]
    found = dict(calibrate(model, units, [padded], class_cotangents))
    for unit, wanted in calibrate(model, units, alone, class_cotangents):
        for field in ("in_gram", "out_gram", "fisher_in"):
            value, expected = (getattr(stats, field) for stats in (found[unit], wanted))
            gap = float((value - expected).abs().max() / expected.abs().max())
            assert gap < 1e-4, f"{field} of {unit.name} is off by {gap:.1e}"


@pytest.mark.parametrize("name", RARER)
def test_a_candidate_of_all_layers_costs_what_is_counted(name: str):
    model = build(name)
    source, candidate = everything(model)
    priced = measure_costs(model, tuple(source.units.values()), BATCH, LENGTH).cost(candidate)
    inputs = batch()
    inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    inputs["input_ids"][:, -1] = END
    inputs["input_ids"][:, :-1].clamp_(min=5)
    with compressed(model, candidate, source):
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(**inputs)
        assert (priced.flops, priced.params) == (
            counter.get_total_flops(),
            sum(parameter.numel() for parameter in model.parameters()),
        )


@pytest.mark.parametrize("name", RARER)
def test_a_checkpoint_of_all_layers_loads_to_equal_logits(name: str, tmp_path):
    model = build(name)
    source, candidate = everything(model)
    with torch.no_grad():
        dense = model(**batch()).logits
        with compressed(model, candidate, source):
            logits = model(**batch()).logits
            save_checkpoint(model, tmp_path / "checkpoint")
        again = hf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint")
        assert torch.equal(again.eval()(**batch()).logits, logits)
    assert not torch.equal(dense, logits)


@pytest.mark.parametrize("name", RARER)
def test_the_longest_input_can_be_read(name: str):
    """Models whose positions start behind the padding index, as CamemBERT's, take fewer than they have rows."""
    model, words = build(name), tokenizer(ends=True)
    words.model_max_length = LONGEST
    length = longest_input(model, words)
    if length < LONGEST:
        with torch.no_grad():
            assert model(**batch(length=length)).logits.isfinite().all()


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (ARCHITECTURES["mixtral"], "a MixtralTopKRouter, which does not run as a plain linear layer"),
        (RARER["convbert"], "a convolution; only linear layers are factorized"),
        (
            RARER["qwen3-moe"],
            "a stack of matrices in one tensor, as fused experts are; only single matrices are factorized",
        ),
    ],
)
def test_what_stays_dense_is_named_for_what_it_is(build, reason: str):
    assert reason in find_units(build()).excluded.values()


def test_a_model_without_linear_layers_is_refused_by_name():
    config = hf.IBertConfig(**_IDS, **_ENCODER)
    with pytest.raises(UsageError, match=r"IBertForSequenceClassification .* 12 \(.*query first\) a QuantLinear"):
        find_units(hf.IBertForSequenceClassification(config))


def test_a_model_that_lays_out_positions_before_sequences_is_refused():
    model = hf.XLNetForSequenceClassification(hf.XLNetConfig(**_IDS, d_model=32, n_layer=2, n_head=4, d_inner=48))
    units = find_units(model)
    assert unmatched_units(model, units.units, batch()) == set(units.by_name())


def test_a_model_that_reads_characters_is_refused_by_name():
    model = hf.CanineForSequenceClassification(hf.CanineConfig(**_IDS, **_ENCODER))
    with pytest.raises(UsageError, match="CanineForSequenceClassification has no table of token embeddings"):
        unmatched_units(model, find_units(model).units, batch())
