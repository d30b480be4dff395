"""A tiny random BERT classifier with a word tokenizer and a few pairs on disk: all that a study needs, in a second."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

LABELS = ("entailment", "neutral", "contradiction")
_SUBJECTS = ("a dog", "a cat", "the man", "two women", "some children", "a bird")
_VERBS = ("runs", "sleeps", "eats", "sings", "reads", "waits")
_PLACES = ("in the park", "at home", "on the hill", "by the river", "under a tree")


def write_model(directory: Path, seed: int = 0, layers: int = 2, hidden: int = 32) -> Path:
    """Write a tiny random classifier with its tokenizer."""
    words = sorted({w for group in (_SUBJECTS, _VERBS, _PLACES) for text in group for w in text.split()})
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    )
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        max_position_embeddings=64,
        num_labels=3,
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
    )
    torch.manual_seed(seed)
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)  # a fresh model answers almost nothing; larger weights make its answers differ
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def write_pairs(path: Path, count: int, offset: int = 0) -> Path:
    """Write labelled pairs whose premises depend on the offset, so that files do not share any."""
    lines = []
    for index in range(count):
        k = index + offset
        subject, verb, place = _SUBJECTS[k % 6], _VERBS[(k // 6) % 6], _PLACES[(k // 36) % 5]
        premise = f"{subject} {verb} {place} " + " ".join(_VERBS[(k // 180 + j) % 6] for j in range(1 + k // 1080))
        hypothesis = f"{_SUBJECTS[(k + index % 3) % 6]} {_VERBS[(k + 1) % 6]}"
        lines.append(json.dumps({"premise": premise, "hypothesis": hypothesis, "label": LABELS[index % 3]}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_inputs(directory: Path) -> dict[str, str]:
    """Write a model and three data files; return the search options that name them."""
    directory.mkdir(parents=True, exist_ok=True)
    return {
        "--model": str(write_model(directory / "model")),
        "--train": str(write_pairs(directory / "train.jsonl", 120)),
        "--validation": str(write_pairs(directory / "validation.jsonl", 120, 180)),
        "--test": str(write_pairs(directory / "test.jsonl", 60, 540)),
    }


def arguments(options: dict[str, str]) -> list[str]:
    """Return options as a list of arguments."""
    return [part for pair in options.items() for part in pair]
