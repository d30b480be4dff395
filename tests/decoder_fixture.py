"""A tiny random Llama with a word tokenizer, with and without what tokenizers put before a text, and text for it."""

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = ("a", "dog", "cat", "the", "man", "runs", "sleeps", "eats", "in", "park", "home", "yes", "no", "may", "be", ":")


def tokenizer(beginning: bool = True, side: str = "right") -> PreTrainedTokenizerFast:
    """A tokenizer of whole words; the last of the special tokens stands for all others."""
    vocabulary = {word: i for i, word in enumerate(["<s>", "</s>", "<unk>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if beginning:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=64,
        padding_side=side,
    )


def write_decoder(directory: Path, seed: int = 0) -> Path:
    """Write a tiny random Llama with grouped queries and a tied head."""
    config = LlamaConfig(
        vocab_size=3 + len(WORDS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).eval().save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return directory


def write_text(path: Path, words: int, seed: int) -> Path:
    """Write so many random words."""
    draw = random.Random(seed)  # noqa: S311  no secret
    path.write_text(" ".join(draw.choices(WORDS, k=words)), encoding="utf-8")
    return path
