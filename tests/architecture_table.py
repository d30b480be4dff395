"""Tiny random classifiers of the architectures that a study is run on, each with a word tokenizer of its kind."""

from collections.abc import Callable
from pathlib import Path

import torch
import transformers as hf
from nli_fixture import LABELS
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

WORDS = sorted(
    {"a", "at", "bird", "by", "cat", "children", "dog", "eats", "hill", "home", "in", "man", "on", "park", "reads"}
    | {"river", "runs", "sings", "sleeps", "some", "the", "tree", "two", "under", "waits", "women"}
)
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
_COMMON = {"vocab_size": len(WORDS) + len(SPECIAL), "num_labels": 3}
_LABELS = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_ENCODER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_DECODER = {**_ENCODER, "num_attention_heads": 4, "num_key_value_heads": 2, **_IDS}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8, "type_vocab_size": 0}
_BART = {"layers": 2, "attention_heads": 2, "ffn_dim": 48}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4}


def _made(model: type, config: type, **sizes: object) -> Callable[[], nn.Module]:
    return lambda: model(config(**{**_COMMON, **_LABELS, **sizes}))


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "bert": _made(hf.BertForSequenceClassification, hf.BertConfig, **_ENCODER),
    "roberta": _made(hf.RobertaForSequenceClassification, hf.RobertaConfig, **_ENCODER),
    "distilbert": _made(
        hf.DistilBertForSequenceClassification, hf.DistilBertConfig, dim=32, hidden_dim=48, n_layers=2, n_heads=2
    ),
    "electra": _made(hf.ElectraForSequenceClassification, hf.ElectraConfig, embedding_size=16, **_ENCODER),
    "deberta-v2": _made(
        hf.DebertaV2ForSequenceClassification, hf.DebertaV2Config, share_att_key=True, **_DEBERTA, **_ENCODER
    ),
    "deberta-v2 with keys of its own": _made(
        hf.DebertaV2ForSequenceClassification, hf.DebertaV2Config, share_att_key=False, **_DEBERTA, **_ENCODER
    ),
    "albert": _made(hf.AlbertForSequenceClassification, hf.AlbertConfig, embedding_size=16, **_ENCODER),
    "modernbert": _made(
        hf.ModernBertForSequenceClassification, hf.ModernBertConfig, **{**_ENCODER, **_IDS, "cls_token_id": 1}
    ),
    "llama": _made(hf.LlamaForSequenceClassification, hf.LlamaConfig, **_DECODER),
    "mistral": _made(hf.MistralForSequenceClassification, hf.MistralConfig, **_DECODER),
    "qwen2": _made(hf.Qwen2ForSequenceClassification, hf.Qwen2Config, **_DECODER),
    "qwen3": _made(hf.Qwen3ForSequenceClassification, hf.Qwen3Config, head_dim=8, **_DECODER),
    "gemma": _made(hf.GemmaForSequenceClassification, hf.GemmaConfig, head_dim=8, **_DECODER),
    "phi3": _made(hf.Phi3ForSequenceClassification, hf.Phi3Config, **_DECODER),
    "gpt2": _made(
        hf.GPT2ForSequenceClassification, hf.GPT2Config, n_embd=32, n_layer=2, n_head=2, n_positions=64, **_IDS
    ),
    "opt": _made(
        hf.OPTForSequenceClassification, hf.OPTConfig, ffn_dim=48, word_embed_proj_dim=16, **{**_ENCODER, **_IDS}
    ),
    "t5": _made(hf.T5ForSequenceClassification, hf.T5Config, decoder_start_token_id=0, **_T5, **_IDS),
    "bart": _made(
        hf.BartForSequenceClassification,
        hf.BartConfig,
        d_model=32,
        max_position_embeddings=64,
        **{f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in _BART.items()},
        **_IDS,
    ),
    "mixtral": _made(hf.MixtralForSequenceClassification, hf.MixtralConfig, num_local_experts=2, **_DECODER),
}


def tokenizer(ends: bool) -> hf.PreTrainedTokenizerFast:
    """A tokenizer of whole words that puts <s> before a pair, and </s> behind each sentence where ``ends``."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*SPECIAL, *WORDS])}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    end = " </s>" if ends else ""
    backend.post_processor = processors.TemplateProcessing(
        single=f"<s> $A{end}", pair=f"<s> $A{end} $B{end}", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    names = ["input_ids", "attention_mask"]
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", model_max_length=48, model_input_names=names, **special
    )


def write(name: str, directory: Path) -> Path:
    """Write the random model of an architecture, with weights as wide as real ones', and its tokenizer."""
    torch.manual_seed(0)
    model = ARCHITECTURES[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4.0)
    model.save_pretrained(directory)
    tokenizer(ends=True).save_pretrained(directory)
    return directory
