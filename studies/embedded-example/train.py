"""Train the small NLI model that ships inside autolr, on the example's own grammar; see README.md for the command."""

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from curriculum import Curriculum
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from autolr.data.example import example_data
from autolr.data.example.scenes import LABELS

MAX_LENGTH = 64
CHUNK = 32
"""Batches that are drawn together and sorted by length."""
PAD, UNK, CLS, SEP = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Word level: every word the training part holds, in alphabetical order."""
    part = example_data("train")
    split = Whitespace()
    words = {word for text in part.premises + part.hypotheses for word, _ in split.pre_tokenize_str(text.lower())}
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *sorted(words)])}
    core = Tokenizer(WordLevel(vocabulary, unk_token=UNK))
    core.normalizer, core.pre_tokenizer = Lowercase(), split
    core.post_processor = TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=[(token, vocabulary[token]) for token in (CLS, SEP)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=MAX_LENGTH,
        pad_token=PAD,
        unk_token=UNK,
        cls_token=CLS,
        sep_token=SEP,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def build_model(vocabulary: int, hidden: int, layers: int) -> BertForSequenceClassification:
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * hidden,
        max_position_embeddings=MAX_LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
        initializer_range=hidden**-0.5,  # 0.02 is meant for layers eight times as wide
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
    )
    model = BertForSequenceClassification(config)
    embeddings = model.bert.embeddings  # words weigh more than places at the start
    embeddings.position_embeddings.weight.data.mul_(0.3)
    embeddings.token_type_embeddings.weight.data.mul_(0.5)
    for layer in model.bert.encoder.layer:  # heads start out looking for words like their own (arXiv:2305.09828)
        attention = layer.attention.self
        attention.key.weight.data.copy_(attention.query.weight.data)
    return model


def batches(tokenizer: PreTrainedTokenizerFast, steps: int, size: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """Fresh pairs from easy to hard, none with a held-out premise; lengths are alike within a batch."""
    curriculum = Curriculum(seed)
    order = torch.Generator().manual_seed(seed)
    for first in range(0, steps, CHUNK):
        n = min(CHUNK, steps - first)
        rows = sorted(curriculum.rows(n * size, first / steps), key=lambda row: len(f"{row[0]} {row[1]}".split()))
        for start in (torch.randperm(n, generator=order) * size).tolist():
            premises, hypotheses, labels = zip(*rows[start : start + size], strict=True)
            inputs = tokenizer(list(premises), list(hypotheses), padding=True, truncation=True, return_tensors="pt")
            yield {**inputs, "labels": torch.tensor(labels)}


@torch.inference_mode()
def accuracy(model: BertForSequenceClassification, tokenizer: PreTrainedTokenizerFast, part: str) -> dict[str, float]:
    data = example_data(part)
    right = 0
    model.eval()
    for start in range(0, len(data), 100):
        inputs = tokenizer(
            list(data.premises[start : start + 100]),
            list(data.hypotheses[start : start + 100]),
            padding=True,
            truncation=True,
            return_tensors="pt",
        )
        right += int((model(**inputs).logits.argmax(1) == torch.tensor(data.labels[start : start + 100])).sum())
    model.train()
    share = right / len(data)
    return {"accuracy": share, "stderr": math.sqrt(share * (1 - share) / len(data)), "n": len(data)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--peak", type=float, default=7e-4, help="largest learning rate")
    parser.add_argument("--decay", type=float, default=0.01, help="weight decay")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    started = time.monotonic()
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(args.out)
    model = build_model(len(tokenizer), args.hidden, args.layers).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.peak, weight_decay=args.decay, betas=(0.9, 0.98))
    warmup = args.steps // 20
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (args.steps - step) / (args.steps - warmup))
    )
    losses: list[float] = []
    for step, batch in enumerate(batches(tokenizer, args.steps, args.batch_size, args.seed), start=1):
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if step % 250 == 0:
            print(f"step {step} loss {sum(losses[-250:]) / 250:.4f} after {time.process_time():.0f} s", flush=True)
    seconds = time.monotonic() - started
    model.half().save_pretrained(args.out)
    model.float()
    measured = {part: accuracy(model, tokenizer, part) for part in ("validation", "test")}
    print(json.dumps({**{k: str(v) for k, v in vars(args).items()}, "seconds": round(seconds), **measured}, indent=1))


if __name__ == "__main__":
    main()
