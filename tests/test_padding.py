"""Tokenizers as they come: without a padding token, padding on the left, without an end of text."""

import json
from pathlib import Path

import pytest
import torch
import transformers as hf
from architecture_table import tokenizer, write
from decoder_fixture import write_decoder
from test_architectures import search
from typer.testing import CliRunner

from autolr.checkpoint.load import load_checkpoint
from autolr.cli.main import app
from autolr.data.nli import NliData
from autolr.errors import UsageError
from autolr.model.inputs import pair_batches
from autolr.model.padding import ensure_padding, padding_side

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


def alone(model, words) -> torch.Tensor:
    """Each pair's logits, asked by itself without any padding or mask, in the pairs' order."""
    found = []
    for premise, hypothesis in zip(PAIRS.premises, PAIRS.hypotheses, strict=True):
        with torch.no_grad():
            found.append(model(input_ids=torch.tensor([words(premise, hypothesis)["input_ids"]])).logits[0])
    return torch.stack(found)


def in_a_batch(model, words) -> torch.Tensor:
    """The same pairs' logits from one padded batch, in the pairs' order."""
    (together,) = pair_batches(words, PAIRS, 3, 48, side=padding_side(model))
    labels = together.pop("labels")
    with torch.no_grad():
        return model(**together).logits[labels.argsort()]


@pytest.mark.parametrize("ends", [True, False], ids=["texts end with </s>", "texts end with themselves"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "roberta"])
def test_the_tokenizer_pads_with_what_the_model_takes_for_padding(tmp_path, name: str, ends: bool):
    """With another token, a decoder's classifier would read its answer at it, and RoBERTa count positions otherwise."""
    source = prepared(name, tmp_path, {"pad_token": "</s>", "padding_side": "left"}, ends)
    model, words = load_checkpoint(source), hf.AutoTokenizer.from_pretrained(source)
    own, wanted = model.config.pad_token_id, alone(model, words)
    assert words.pad_token_id == 2 != own
    ensure_padding(model, words)
    assert model.config.pad_token_id == words.pad_token_id == own
    torch.testing.assert_close(in_a_batch(model, words), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ends", [True, False], ids=["texts end with </s>", "texts end with themselves"])
@pytest.mark.parametrize("pad", ["</s>", None, "<pad>"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_classifier_without_padding_token_reads_the_last_token_in_a_batch_too(
    tmp_path, name: str, pad: str | None, ends: bool
):
    """It must not be told that the token with which texts end is padding: it would read one token earlier."""
    source = prepared(name, tmp_path, {"pad_token": pad}, ends)
    model, words = load_checkpoint(source), hf.AutoTokenizer.from_pretrained(source)
    model.config.pad_token_id = None
    wanted = alone(model, words)
    ensure_padding(model, words)
    assert model.config.pad_token_id == words.pad_token_id
    assert (words.pad_token_id == 2) == (pad != "<pad>" and not ends)
    torch.testing.assert_close(in_a_batch(model, words), wanted, rtol=1e-4, atol=1e-4)


def test_xlnet_is_padded_on_the_left_where_it_reads_its_answer_at_the_last_position():
    torch.manual_seed(0)
    sizes = {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, "initializer_range": 0.3}
    model = hf.XLNetForSequenceClassification(
        hf.XLNetConfig(vocab_size=40, num_labels=3, pad_token_id=0, **sizes)
    ).eval()
    words = tokenizer(True)
    ensure_padding(model, words)
    torch.testing.assert_close(in_a_batch(model, words), alone(model, words), rtol=1e-4, atol=1e-4)


def test_a_padding_token_that_the_model_has_no_embedding_for_is_not_taken(tmp_path):
    """One that was added to the tokenizer, and the model not resized."""
    source = prepared("gpt2", tmp_path, {"pad_token": None}, ends=False)
    model, words = load_checkpoint(source), hf.AutoTokenizer.from_pretrained(source)
    words.add_special_tokens({"pad_token": "[PAD]"})
    assert words.pad_token_id >= len(model.get_input_embeddings().weight)
    model.config.pad_token_id = None
    wanted = alone(model, words)
    ensure_padding(model, words)
    assert words.pad_token_id == model.config.pad_token_id == 2
    torch.testing.assert_close(in_a_batch(model, words), wanted, rtol=1e-4, atol=1e-4)
    model.config.pad_token_id = 30  # of its own, but without an embedding
    ensure_padding(model, words)
    assert words.pad_token_id == model.config.pad_token_id == 2


def test_a_tokenizer_without_special_tokens_serves_where_nothing_is_padded(tmp_path):
    source = write_decoder(tmp_path / "model")
    path = source / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in settings.items() if not key.endswith("_token")}))
    (tmp_path / "text.txt").write_text("the dog runs in the park " * 40)
    given = ["eval", str(source), "--offline", "--data"]
    done = CliRunner().invoke(app, [*given, str(tmp_path / "text.txt"), "--task", "lm", "--seq-len", "16"])
    assert done.exit_code == 0, done.output
    (tmp_path / "pairs.jsonl").write_text('{"premise": "a dog", "hypothesis": "a cat", "label": "neutral"}\n')
    done = CliRunner().invoke(app, [*given, str(tmp_path / "pairs.jsonl")])
    assert done.exit_code == 2
    assert "the tokenizer has no special token at all" in " ".join(done.stderr.split())


def test_where_texts_end_with_every_special_token_none_is_taken_for_padding(tmp_path):
    source = prepared("llama", tmp_path, dict.fromkeys(("pad_token", "bos_token", "cls_token", "unk_token")))
    model, words = load_checkpoint(source), hf.AutoTokenizer.from_pretrained(source)
    model.config.pad_token_id = None
    with pytest.raises(UsageError, match=r"special tokens \('</s>'\) none will do: texts end with it"):
        ensure_padding(model, words)


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
