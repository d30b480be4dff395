"""Tokenizers as they come: without a padding token, padding on the left, without an end of text."""

import json
from pathlib import Path

import pytest
import torch
import transformers as hf
from architecture_table import tokenizer, write
from test_architectures import search

from autolr.checkpoint.load import load_checkpoint
from autolr.data.batches import ensure_padding, pair_batches
from autolr.data.nli import NliData
from autolr.errors import UsageError

PREMISES = ("a dog runs", "the man sleeps in the park by the river", "two women")
PAIRS = NliData("three lengths", PREMISES, ("a dog", "a man", "sing"), (0, 1, 2))


def prepared(name: str, folder: Path, changes: dict[str, object], ends: bool = True) -> Path:
    """A model of the table whose tokenizer has other settings; None takes one away."""
    model = write(name, folder / "model")
    tokenizer(ends).save_pretrained(model)
    path = model / "tokenizer_config.json"
    settings = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))
    return model


# In transformers, GPT-2 counts positions and T5's decoder reads from the padding on, where that is on the left.
@pytest.mark.parametrize(
    ("name", "side"), [("llama", "right"), ("llama", "left"), ("opt", "left"), ("gpt2", "right"), ("t5", "right")]
)
@pytest.mark.parametrize("own", [0, None], ids=["the model's", "the end of text"])
def test_without_a_padding_token_a_pair_is_answered_as_if_it_were_alone(
    tmp_path, name: str, side: str, own: int | None
):
    """Decoders read the last token that is not the model's own padding: the tokenizer must pad with that one."""
    source = prepared(name, tmp_path, {"pad_token": None, "padding_side": side})
    model, words = load_checkpoint(source), hf.AutoTokenizer.from_pretrained(source)
    assert words.pad_token is None
    assert words.padding_side == side
    model.config.pad_token_id = own
    if own is None and model.config.is_encoder_decoder:
        with pytest.raises(UsageError, match="no padding token, and an encoder-decoder cannot"):
            ensure_padding(model, words)
        return
    ensure_padding(model, words)
    (together,) = pair_batches(words, PAIRS, 3, 48)
    labels = together.pop("labels").tolist()
    with torch.no_grad():
        for label, logits in zip(labels, model(**together).logits, strict=True):
            (alone,) = pair_batches(words, PAIRS.select([label]), 1, 48)
            torch.testing.assert_close(logits, model(alone["input_ids"]).logits[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "told"), [("llama", True), ("gpt2", True), ("bert", False), ("roberta", False)])
def test_a_classifier_that_reads_the_last_token_is_told_what_the_tokenizer_pads_with(tmp_path, name: str, told: bool):
    """Where its own padding token is another one, it would read its answer at the padding."""
    source = prepared(name, tmp_path, {"pad_token": "</s>"})
    model, words = load_checkpoint(source), hf.AutoTokenizer.from_pretrained(source)
    own = model.config.pad_token_id
    assert words.pad_token_id == 2 != own
    ensure_padding(model, words)
    assert model.config.pad_token_id == (2 if told else own)
    (together,) = pair_batches(words, PAIRS, 3, 48)
    labels = together.pop("labels").tolist()
    with torch.no_grad():
        for label, logits in zip(labels, model(**together).logits, strict=True):
            (alone,) = pair_batches(words, PAIRS.select([label]), 1, 48)
            if name != "roberta":  # which counts positions by what it takes for padding
                torch.testing.assert_close(logits, model(alone["input_ids"]).logits[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", [{"pad_token": None}, {"padding_side": "left"}], ids=["no token", "left"])
def test_a_study_of_a_decoder_takes_its_tokenizer_as_it_is(tmp_path, changes: dict[str, str | None]):
    source = prepared("llama", tmp_path, changes)
    done = search(source, tmp_path)
    assert done.exit_code == 0, done.output
    checkpoint = next((tmp_path / "study" / "front").iterdir())
    words = hf.AutoTokenizer.from_pretrained(checkpoint)
    assert words.padding_side == changes.get("padding_side", "right")
    assert words.pad_token_id == 0
    (batch,) = pair_batches(words, PAIRS, 3, 48)
    del batch["labels"]
    with torch.no_grad():
        logits = hf.AutoModelForSequenceClassification.from_pretrained(checkpoint)(**batch).logits
        dense = load_checkpoint(source)(**batch).logits
    assert logits.isfinite().all()
    assert not torch.equal(logits, dense)


def test_an_encoder_decoder_without_an_end_of_text_is_refused(tmp_path):
    done = search(prepared("t5", tmp_path, {}, ends=False), tmp_path)
    assert done.exit_code == 2
    assert "T5ForSequenceClassification reads its answer at the end-of-text token (2)" in " ".join(done.stderr.split())
