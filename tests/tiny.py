"""Tiny random models of every supported family, batches for them, and a source of decompositions without a bank."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import transformers as hf
from torch import Tensor, nn

from autolr.forms.base import Given
from autolr.forms.low_rank import low_rank
from autolr.forms.low_rank_rows import low_rank_rows
from autolr.methods import METHODS, get_methods
from autolr.model.units import unit_weight
from autolr.types import Choice, Decomposition, LayerStats, Unit

VOCABULARY, PAD = 60, 1
_COMMON = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "num_labels": 3}
_IDS = {"bos_token_id": 2, "eos_token_id": 3}
_BERT = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 24,
    # As wide as real ones: at the default 0.02 a tiny classifier hardly reacts to its input.
    "initializer_range": 0.3,
}
_DECODER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 24,
    "initializer_range": 0.2,
}
_DISTILBERT = {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 24}
_GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 24, "initializer_range": 0.3}
_DEBERTA = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "position_buckets": 4,
    "norm_rel_ebd": "layer_norm",
    "type_vocab_size": 0,
}
_OPT = {
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "word_embed_proj_dim": 32,
    "max_position_embeddings": 24,
}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu"}

BUILDERS: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "bert": lambda: hf.BertForSequenceClassification(hf.BertConfig(**_COMMON, **_BERT)),
    "roberta": lambda: hf.RobertaForSequenceClassification(hf.RobertaConfig(**_COMMON, **_BERT)),
    "distilbert": lambda: hf.DistilBertForSequenceClassification(hf.DistilBertConfig(**_COMMON, **_DISTILBERT)),
    "deberta": lambda: hf.DebertaV2ForSequenceClassification(hf.DebertaV2Config(**_COMMON, **_BERT, **_DEBERTA)),
    "albert": lambda: hf.AlbertForSequenceClassification(hf.AlbertConfig(**_COMMON, **_BERT, embedding_size=8)),
    "gpt2": lambda: hf.GPT2ForSequenceClassification(hf.GPT2Config(**_COMMON, **_GPT2, **_IDS)),
    "gpt2-lm": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=VOCABULARY, **_GPT2, **_IDS)),
    "llama": lambda: hf.LlamaForSequenceClassification(hf.LlamaConfig(**_COMMON, **_DECODER)),
    "llama-lm-tied": lambda: hf.LlamaForCausalLM(
        hf.LlamaConfig(vocab_size=VOCABULARY, **_DECODER, tie_word_embeddings=True)
    ),
    "llama-lm-untied": lambda: hf.LlamaForCausalLM(
        hf.LlamaConfig(vocab_size=VOCABULARY, **_DECODER, tie_word_embeddings=False)
    ),
    "gemma2": lambda: hf.Gemma2ForSequenceClassification(hf.Gemma2Config(**_COMMON, **_DECODER, head_dim=8)),
    "mistral": lambda: hf.MistralForSequenceClassification(hf.MistralConfig(**_COMMON, **_DECODER)),
    "opt": lambda: hf.OPTForSequenceClassification(hf.OPTConfig(**_COMMON, **_OPT, **_IDS)),
    "t5-encoder": lambda: hf.T5EncoderModel(hf.T5Config(vocab_size=VOCABULARY, **_T5)),
}


def build(family: str, seed: int = 0) -> hf.PreTrainedModel:
    """The random model of a family, in evaluation mode; the same one at every call."""
    torch.manual_seed(seed)
    model = BUILDERS[family]().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # no bias stays zero, no LayerNorm stays the identity
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def sequences(n: int = 6, seed: int = 0, shortest: int = 3, longest: int = 9) -> list[list[int]]:
    """Random token sequences of different lengths, the second of the greatest length."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, longest + 1, (n,), generator=random).tolist()
    lengths[min(1, n - 1)] = longest
    return [torch.randint(4, VOCABULARY, (length,), generator=random).tolist() for length in lengths]


def batches(examples: Sequence[Sequence[int]], size: int, side: str = "right") -> list[dict[str, Tensor]]:
    """The sequences in batches, padded on one side."""
    out = []
    for start in range(0, len(examples), size):
        part = examples[start : start + size]
        length = max(map(len, part))
        ids, mask = [], []
        for tokens in part:
            gap = length - len(tokens)
            pad, zeros, ones = [PAD] * gap, [0] * gap, [1] * len(tokens)
            ids.append([*tokens, *pad] if side == "right" else [*pad, *tokens])
            mask.append(ones + zeros if side == "right" else zeros + ones)
        out.append({"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)})
    return out


@dataclass
class Source:
    """Decompositions computed on demand, as ``compress`` wants them.

    ``measured`` are the statistics by unit; a unit without has no mean and allows plain SVD only.
    """

    model: nn.Module
    units: dict[str, Unit]
    measured: dict[str, LayerStats] = field(default_factory=dict)
    made: dict[tuple[str, str], Decomposition] = field(default_factory=dict)

    def unit(self, name: str) -> Unit:
        return self.units[name]

    def decomposition(self, name: str, method: str) -> Decomposition:
        if (name, method) not in self.made:
            weight = unit_weight(self.model, self.units[name]).double()
            self.made[name, method] = get_methods([method])[0].decompose(weight, self.stats(name))
        return self.made[name, method]

    def mean(self, name: str) -> Tensor | None:
        return self.measured[name].mean if name in self.measured else None

    def stats(self, name: str) -> LayerStats | None:
        return self.measured.get(name)


def sized(method: str, rank: int, rows: int = 0) -> Choice:
    """A choice of the first two forms."""
    return low_rank_rows(method, rank, rows) if rows else low_rank(method, rank)


def given_of(
    decomposition: Decomposition, weight: Tensor, mean: Tensor | None = None, bias: Tensor | None = None
) -> Given:
    """What a form is made of, of any weight."""
    unit = Unit("layer", "layer", 0, 1, *weight.shape)
    return Given(unit, "svd", decomposition, weight, mean, bias)


MATRIX_METHODS = sorted(name for name in METHODS.names() if not METHODS.get(name).comes_with_form)
"""Methods for matrices, one by one, that a study names."""
