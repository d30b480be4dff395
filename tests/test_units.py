"""What is compressible in each family, by structure: roles, reasons to leave a layer dense, globs."""

from collections import Counter

import pytest
import torch
from tiny import build
from torch import nn

from autolr.errors import UsageError
from autolr.model.units import MIN_FEATURES, check_finite, find_units, unit_bias, unit_weight
from autolr.types import break_even_rank

EMBEDDING, OUTSIDE = "an embedding", "outside the repeated blocks"
BERT_ROLES = {
    "attention.self.query": (16, 16),
    "attention.self.key": (16, 16),
    "attention.self.value": (16, 16),
    "attention.output.dense": (16, 16),
    "intermediate.dense": (24, 16),
    "output.dense": (16, 24),
}
LLAMA_ROLES = {
    "self_attn.q_proj": (32, 32),
    "self_attn.k_proj": (16, 32),  # two of four heads: grouped-query attention
    "self_attn.v_proj": (16, 32),
    "self_attn.o_proj": (32, 32),
    "mlp.gate_proj": (48, 32),
    "mlp.up_proj": (48, 32),
    "mlp.down_proj": (32, 48),
}
ROLES = {
    "bert": BERT_ROLES,
    "roberta": BERT_ROLES,
    "distilbert": {
        "attention.q_lin": (16, 16),
        "attention.k_lin": (16, 16),
        "attention.v_lin": (16, 16),
        "attention.out_lin": (16, 16),
        "ffn.lin1": (24, 16),
        "ffn.lin2": (16, 24),
    },
    "deberta": {role + "_proj" * ("self" in role): shape for role, shape in BERT_ROLES.items()},
    "albert": {
        "albert_layers.*.attention.query": (16, 16),
        "albert_layers.*.attention.key": (16, 16),
        "albert_layers.*.attention.value": (16, 16),
        "albert_layers.*.attention.dense": (16, 16),
        "albert_layers.*.ffn": (24, 16),
        "albert_layers.*.ffn_output": (16, 24),
    },
    "gpt2": {"attn.c_attn": (48, 16), "attn.c_proj": (16, 16), "mlp.c_fc": (64, 16), "mlp.c_proj": (16, 64)},
    "gpt2-lm": {"attn.c_attn": (48, 16), "attn.c_proj": (16, 16), "mlp.c_fc": (64, 16), "mlp.c_proj": (16, 64)},
    "llama": LLAMA_ROLES,
    "llama-lm-tied": LLAMA_ROLES,
    "llama-lm-untied": LLAMA_ROLES,
    "mistral": LLAMA_ROLES,
    "opt": {
        "self_attn.k_proj": (32, 32),
        "self_attn.v_proj": (32, 32),
        "self_attn.q_proj": (32, 32),
        "self_attn.out_proj": (32, 32),
        "fc1": (48, 32),
        "fc2": (32, 48),
    },
    "t5-encoder": {
        "layer.*.SelfAttention.q": (32, 32),
        "layer.*.SelfAttention.k": (32, 32),
        "layer.*.SelfAttention.v": (32, 32),
        "layer.*.SelfAttention.o": (32, 32),
        "layer.*.DenseReluDense.wi_0": (48, 32),
        "layer.*.DenseReluDense.wi_1": (48, 32),
        "layer.*.DenseReluDense.wo": (32, 48),
    },
}
EXCLUDED = {
    "bert": {
        "bert.embeddings.word_embeddings": EMBEDDING,
        "bert.embeddings.position_embeddings": EMBEDDING,
        "bert.embeddings.token_type_embeddings": EMBEDDING,
        "bert.pooler.dense": OUTSIDE,
        "classifier": OUTSIDE,
    },
    "roberta": {
        "roberta.embeddings.word_embeddings": EMBEDDING,
        "roberta.embeddings.position_embeddings": EMBEDDING,
        "roberta.embeddings.token_type_embeddings": EMBEDDING,
        "classifier.dense": OUTSIDE,
        "classifier.out_proj": OUTSIDE,
    },
    "albert": {
        "albert.embeddings.word_embeddings": EMBEDDING,
        "albert.embeddings.position_embeddings": EMBEDDING,
        "albert.embeddings.token_type_embeddings": EMBEDDING,
        "albert.encoder.embedding_hidden_mapping_in": OUTSIDE,
        "albert.pooler": OUTSIDE,
        "classifier": OUTSIDE,
    },
    "gpt2": {"transformer.wte": EMBEDDING, "transformer.wpe": EMBEDDING, "score": OUTSIDE},
    "gpt2-lm": {"transformer.wte": EMBEDDING, "transformer.wpe": EMBEDDING, "lm_head": "tied to transformer.wte"},
    "llama": {"model.embed_tokens": EMBEDDING, "score": OUTSIDE},
    "llama-lm-tied": {"model.embed_tokens": EMBEDDING, "lm_head": "tied to model.embed_tokens"},
    "llama-lm-untied": {"model.embed_tokens": EMBEDDING, "lm_head": OUTSIDE},
    "t5-encoder": {
        "shared": EMBEDDING,
        "encoder.embed_tokens": EMBEDDING,
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias": EMBEDDING,
    },
}


@pytest.mark.parametrize("family", sorted(ROLES))
def test_each_block_has_the_same_roles_with_the_shapes_of_the_configuration(family):
    """Roles are equal across blocks, shapes are (out, in) for Linear and Conv1D alike, blocks count from 0."""
    model = build(family)
    units = find_units(model).units
    n_blocks = 1 if family == "albert" else 2
    seen = Counter(unit.block for unit in units)
    assert seen == dict.fromkeys(range(n_blocks), len(ROLES[family]))
    for block in range(n_blocks):
        of_block = {unit.role: (unit.out_features, unit.in_features) for unit in units if unit.block == block}
        assert of_block == ROLES[family]
    for unit in units:
        assert unit.n_blocks == n_blocks
        assert unit.transposed == family.startswith("gpt2")
        assert unit_weight(model, unit).shape == (unit.out_features, unit.in_features)
        assert unit.break_even == break_even_rank(unit.out_features, unit.in_features)
        assert unit.depth == unit.block / max(n_blocks - 1, 1)


@pytest.mark.parametrize("family", sorted(EXCLUDED))
def test_what_stays_dense_has_its_reason(family):
    """Embeddings, heads, poolers and tied weights, and nothing else."""
    excluded = find_units(build(family)).excluded
    assert set(excluded) == set(EXCLUDED[family])
    for name, reason in EXCLUDED[family].items():
        assert excluded[name].startswith(reason), name


@pytest.mark.parametrize("family", sorted(ROLES))
def test_units_come_in_the_order_of_the_model_and_every_matrix_is_accounted_for(family):
    model = build(family)
    found = find_units(model)
    order = [name for name, _ in model.named_modules()]
    assert [unit.name for unit in found.units] == sorted(found.by_name(), key=order.index)
    matrices = {
        name for name, m in model.named_modules() if getattr(m, "weight", None) is not None and m.weight.ndim == 2
    }
    assert set(found.by_name()) | set(found.excluded) == matrices
    assert not set(found.by_name()) & set(found.excluded)


def test_transposed_weights_compute_what_the_module_computes():
    """y = x Wᵀ + b with the unit's (out, in) weight, for GPT-2's Conv1D, too."""
    for family in ("bert", "gpt2", "llama"):
        model = build(family)
        for unit in find_units(model).units:
            x = torch.randn(3, unit.in_features)
            bias = unit_bias(model, unit)
            assert (bias is None) == (family == "llama")
            expected = x @ unit_weight(model, unit).mT + (0 if bias is None else bias)
            torch.testing.assert_close(model.get_submodule(unit.name)(x), expected)


def test_include_restricts_the_blocks_and_brings_in_what_is_outside():
    model = build("bert")
    found = find_units(model, include=["*layer.1*intermediate*", "*pooler*"])
    assert [unit.name for unit in found.units] == ["bert.encoder.layer.1.intermediate.dense", "bert.pooler.dense"]
    pooler = found.units[1]
    assert (pooler.block, pooler.role, pooler.depth) == (-1, "bert.pooler.dense", 1.0)
    assert found.excluded["bert.encoder.layer.0.intermediate.dense"] == "not named by --include"
    assert found.excluded["classifier"] == "not named by --include"


def test_exclude_wins_over_include():
    found = find_units(build("bert"), include=["*layer.0*"], exclude=["*attention*", "*.output.dense"])
    assert [unit.name for unit in found.units] == ["bert.encoder.layer.0.intermediate.dense"]
    assert found.excluded["bert.encoder.layer.0.output.dense"] == "excluded by --exclude"


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_glob_that_matches_nothing_names_the_nearest(option):
    mistyped = "bert.encoder.layer.0.attention.self.querry"
    with pytest.raises(UsageError, match=rf"--{option} '{mistyped}' matches no linear .*attention\.self\.query"):
        find_units(build("bert"), **{option: ["*", mistyped] if option == "exclude" else [mistyped]})


def test_a_glob_of_embeddings_alone_matches_no_linear_layer():
    with pytest.raises(UsageError, match=r"matches no linear layer"):
        find_units(build("bert"), include=["*word_embeddings"])


@pytest.mark.parametrize(
    ("family", "glob", "reason"),
    [("llama-lm-tied", "lm_head", r"tied to model\.embed_tokens"), ("bert", "classifier", r"too small: \(3, 16\)")],
)
def test_including_what_cannot_be_compressed_is_an_error(family, glob, reason):
    with pytest.raises(UsageError, match=f"--include brings in {glob}, which cannot be compressed: {reason}"):
        find_units(build(family), include=[glob])


def test_an_untied_head_can_be_included():
    (unit,) = find_units(build("llama-lm-untied"), include=["lm_head"]).units
    assert (unit.name, unit.out_features, unit.in_features) == ("lm_head", 60, 32)


def test_nothing_left_is_an_error_with_the_reasons():
    with pytest.raises(UsageError, match=r"no layer of this BertFor\w+ is left.*excluded by --exclude"):
        find_units(build("bert"), exclude=["*"])


def test_small_layers_stay_dense():
    blocks = nn.ModuleList([nn.Linear(MIN_FEATURES, MIN_FEATURES), nn.Linear(MIN_FEATURES - 1, 100)])
    found = find_units(nn.ModuleDict({"blocks": blocks}))
    assert [unit.name for unit in found.units] == ["blocks.0"]
    assert found.excluded["blocks.1"].startswith("too small: (100, 15)")


def test_layers_that_share_a_weight_or_are_one_module_in_two_places_stay_dense():
    """Swapping one of the two places would take the weights apart."""
    a, b, twice, alone = (nn.Linear(32, 32) for _ in range(4))
    b.weight = a.weight
    found = find_units(nn.ModuleDict({"blocks": nn.ModuleList([a, b, twice, twice, alone])}))
    assert [unit.name for unit in found.units] == ["blocks.4"]
    assert found.excluded["blocks.0"] == "tied to blocks.1"
    assert found.excluded["blocks.2"] == "tied to blocks.3"


def test_layers_that_do_not_run_as_a_plain_linear_layer_stay_dense():
    """A subclass with its own forward, and the projection whose weight ``nn.MultiheadAttention`` reads directly."""

    class Scaled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    blocks = nn.ModuleList([Scaled(32, 32), nn.MultiheadAttention(32, 2), nn.Linear(32, 32)])
    found = find_units(nn.ModuleDict({"blocks": blocks}))
    assert [unit.name for unit in found.units] == ["blocks.2"]
    assert found.excluded["blocks.0"].startswith("a Scaled, which does not run as a plain linear layer")
    assert found.excluded["blocks.1.out_proj"].startswith("a NonDynamicallyQuantizableLinear")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_damaged_weight_is_named_with_the_number_of_its_entries(value):
    model = build("bert")
    check_finite(model)
    model.bert.encoder.layer[1].output.dense.weight.data[:2, :3] = value
    expected = r"bert\.encoder\.layer\.1\.output\.dense\.weight has 6 NaN or infinite entries of 384"
    with pytest.raises(UsageError, match=expected):
        check_finite(model)
