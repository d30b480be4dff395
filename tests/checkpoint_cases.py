"""Small random models of every supported family, with some of their linear layers made low-rank."""

import itertools
from collections.abc import Callable

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)
from transformers.pytorch_utils import Conv1D

from autolr.checkpoint.runtime.layers import LowRankLinear, LowRankRowsLinear

VOCABULARY = 99
_ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
    "num_labels": 3,
    "pad_token_id": 1,
}
_DISTILBERT = {"vocab_size": VOCABULARY, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "num_labels": 3}
_GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40}
_LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_IDS = {"bos_token_id": 2, "eos_token_id": 3}

BUILDERS: dict[str, Callable[[], PreTrainedModel]] = {
    "bert-classifier": lambda: BertForSequenceClassification(BertConfig(**_ENCODER)),
    "bert-masked-lm": lambda: BertForMaskedLM(BertConfig(**_ENCODER)),
    "distilbert-classifier": lambda: DistilBertForSequenceClassification(DistilBertConfig(**_DISTILBERT)),
    "roberta-classifier": lambda: RobertaForSequenceClassification(RobertaConfig(**_ENCODER)),
    "gpt2-lm-tied": lambda: GPT2LMHeadModel(GPT2Config(**_GPT2, **_IDS)),
    "llama-lm-tied": lambda: LlamaForCausalLM(LlamaConfig(**_LLAMA, **_IDS, tie_word_embeddings=True)),
    "llama-lm-untied": lambda: LlamaForCausalLM(LlamaConfig(**_LLAMA, **_IDS, tie_word_embeddings=False)),
}
AUTO_NAMES = {
    "classifier": "AutoModelForSequenceClassification",
    "masked-lm": "AutoModelForMaskedLM",
    "lm-tied": "AutoModelForCausalLM",
    "lm-untied": "AutoModelForCausalLM",
}


def auto_name(case: str) -> str:
    """Name of the Auto class whose head the case has."""
    return AUTO_NAMES[case.partition("-")[2]]


def build(case: str) -> PreTrainedModel:
    """The compressed model of a case; the same one at every call."""
    torch.manual_seed(0)
    model = BUILDERS[case]().eval()
    compress(model)
    return model


def compress(model: PreTrainedModel) -> None:
    """Replace linear layers in turn by rank 3, rank 2 with rows, rank 0, and leave every fourth dense."""
    tied = {key.removesuffix(".weight") for key in model.get_expanded_tied_weights_keys(all_submodels=True)}
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D) and n not in tied}
    # Starting from the end makes the untied LM head and the classifiers low-rank, too, but never of rank 0, which
    # would cut the output off from everything before it.
    for name, turn in zip(reversed(linears), itertools.cycle(range(4)), strict=False):
        rows, columns = linears[name].weight.shape
        out_features, in_features = (columns, rows) if isinstance(linears[name], Conv1D) else (rows, columns)
        if turn == 3:
            continue
        if turn == 1:
            layer = LowRankRowsLinear(in_features, out_features, rank=2, n_rows=3)
            layer.row_index.copy_(torch.randperm(out_features)[:3])
        else:
            layer = LowRankLinear(in_features, out_features, rank=0 if turn == 2 else 3)
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.2)
        if turn == 1:
            layer.left.weight.data[layer.row_index] = 0.0
        if name == "lm_head":
            layer.bias.data.zero_()  # Llama has no switch for this bias: the dense export would rightly refuse
        model.set_submodule(name, layer)


def batch(n: int = 3, length: int = 7) -> dict[str, torch.Tensor]:
    """Random tokens; the last sequence is padded."""
    ids = torch.randint(4, VOCABULARY, (n, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[-1, length - 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def output(model: PreTrainedModel) -> torch.Tensor:
    """The model's main output on :func:`batch`: logits, or the last hidden state of a model without a head."""
    outputs = model(**batch())
    return outputs.logits if "logits" in outputs else outputs.last_hidden_state
