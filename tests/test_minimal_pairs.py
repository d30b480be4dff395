"""Minimal pairs against loops over the tokens, and the command that asks a checkpoint."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from decoder_fixture import WORDS, tokenizer, write_decoder
from nli_fixture import write_inputs
from test_probes import write_tasks
from tiny import build
from transformers import BertConfig, BertForMaskedLM
from typer.testing import CliRunner

from autolr.cli.main import app
from autolr.data.minimal_pairs import MinimalPairs, load_minimal_pairs
from autolr.errors import AutolrError, UsageError
from autolr.model.padding import ensure_padding
from autolr.probes.features import features, sentence_batches
from autolr.probes.minimal_pairs import check_askable, how_asked, likelihoods, preferred, pseudo_likelihoods

GOOD = ("a dog runs", "the cat sleeps in the park", "a man", "the dog eats home")
BAD = ("a runs dog", "the cat the sleeps in park", "man a", "home dog the eats")
PAIRS = MinimalPairs("order", "syntax", GOOD, BAD)


def masked_model(side: str = "right"):
    made = tokenizer(side=side)
    made.add_special_tokens({"mask_token": "[MASK]"})
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(made), max_position_embeddings=24, initializer_range=0.5, **sizes)
    model = BertForMaskedLM(config).eval()
    ensure_padding(model, made)
    return model, made


@pytest.mark.parametrize("beginning", [True, False])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_decoder_is_asked_for_the_likelihood(beginning: bool, side: str):
    """The first word counts only where something stands before it."""
    model, made = build("llama-lm-tied"), tokenizer(beginning, side)
    ensure_padding(model, made)
    found = likelihoods(model, made, GOOD, 3)
    for text, score in zip(GOOD, found.tolist(), strict=True):
        ids = made(text)["input_ids"]
        with torch.no_grad():
            log_p = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        assert score == pytest.approx(sum(float(log_p[i - 1, ids[i]]) for i in range(1, len(ids))), abs=1e-4)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_masked_encoder_is_asked_with_each_token_masked_in_turn(side: str):
    model, made = masked_model(side)
    found = pseudo_likelihoods(model, made, GOOD, 5)
    for text, score in zip(GOOD, found.tolist(), strict=True):
        ids, total = made(text)["input_ids"], 0.0
        for i in range(1, len(ids)):  # the first is <s>
            masked = [*ids[:i], made.mask_token_id, *ids[i + 1 :]]
            with torch.no_grad():
                total += float(model(input_ids=torch.tensor([masked])).logits[0, i].double().log_softmax(-1)[ids[i]])
        assert score == pytest.approx(total, abs=1e-4)
    right = preferred(model, made, PAIRS, 5)
    bad = pseudo_likelihoods(model, made, BAD, 64)
    assert right.tolist() == [float(one > other) for one, other in zip(found, bad, strict=True)]


def test_a_masked_encoder_needs_a_mask_token():
    model, made = masked_model()
    made.mask_token = None
    with pytest.raises(UsageError, match="its tokenizer has no mask token"):
        check_askable(model, made, [PAIRS], 24)


def test_a_sentence_that_would_be_cut_is_refused():
    model, made = masked_model()
    long = MinimalPairs("long", "", ("a dog " * 20, *GOOD), ("a cat " * 20, *BAD))
    with pytest.raises(UsageError, match=r"paradigm long: 'a dog .*'… has 41 tokens, the model takes 24; leave"):
        check_askable(model, made, [long], 24)


def test_a_decoder_is_given_tokens_and_mask_alone():
    """What some tokenizers call the types of tokens GPT-2 adds as tokens."""
    model, made = build("gpt2-lm"), tokenizer()
    ensure_padding(model, made)
    plain = likelihoods(model, made, GOOD)
    pooled = features(model, sentence_batches(made, GOOD, 4, 24))
    made.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    assert "token_type_ids" in made("a dog")
    assert torch.equal(likelihoods(model, made, GOOD), plain)
    assert torch.equal(features(model, sentence_batches(made, GOOD, 4, 24)), pooled)


def test_equal_sentences_count_half():
    model, made = build("llama-lm-tied"), tokenizer()
    ensure_padding(model, made)
    assert preferred(model, made, MinimalPairs("same", "", GOOD, GOOD)).tolist() == [0.5] * 4


def test_a_model_without_such_a_head_is_probed():
    """A difference that is plain in the words is found in pairs that the probe was not trained on."""
    draw = torch.Generator().manual_seed(0)
    names = [WORDS[int(i)] for i in torch.randint(len(WORDS), (60,), generator=draw)]
    pairs = MinimalPairs("plain", "", tuple(f"{n} runs" for n in names), tuple(f"{n} sleeps" for n in names))
    model, made = build("llama"), tokenizer()
    ensure_padding(model, made)
    assert how_asked(model) == "probe"
    right = preferred(model, made, pairs)
    assert len(right) == 30
    assert right.mean() == 1.0
    good, bad = pairs.good[:20] + pairs.bad[20:], pairs.bad[:20] + pairs.good[20:]
    assert preferred(model, made, MinimalPairs("noise", "", good, bad)).mean() < 1.0
    with pytest.raises(UsageError, match=r"paradigm few has 3 pairs; .* needs at least 4"):
        check_askable(model, made, [MinimalPairs("few", "", good[:3], bad[:3])], 24)


def test_a_likelihood_that_is_not_finite_is_refused():
    model, made = build("llama-lm-tied"), tokenizer()
    ensure_padding(model, made)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(AutolrError, match="a sentence of order is NaN or infinite"):
        preferred(model, made, PAIRS)


def write_pairs(folder: Path) -> Path:
    folder.mkdir()
    rows = [{"good": g, "bad": b, "uid": "order", "field": "syntax"} for g, b in zip(GOOD, BAD, strict=True)]
    with gzip.open(folder / "order.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    (folder / "blimp.jsonl").write_text(json.dumps({"sentence_good": "a dog", "sentence_bad": "dog a", "UID": "x"}))
    return folder


def test_pairs_are_read_in_both_forms(tmp_path: Path):
    found = load_minimal_pairs(write_pairs(tmp_path / "pairs"))
    assert found == (PAIRS, MinimalPairs("x", "", ("a dog",), ("dog a",)))
    (tmp_path / "bad.jsonl").write_text('{"good": "a"}')
    with pytest.raises(
        UsageError, match="line 1: must have the columns good and bad, each with a sentence; it has good"
    ):
        load_minimal_pairs(tmp_path / "bad.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no file of minimal pairs"):
        load_minimal_pairs(tmp_path / "empty")


def run(*arguments: object):
    return CliRunner().invoke(app, ["probe", *map(str, arguments)])


def test_a_checkpoint_is_asked_from_the_command_line(tmp_path: Path):
    model = write_inputs(tmp_path / "inputs")["--model"]
    tasks, pairs = write_tasks(tmp_path / "tasks"), write_pairs(tmp_path / "pairs")
    known = pairs / "order.jsonl.gz"
    done = run(model, "--tasks", tasks, "--minimal-pairs", known, "--probe", "ridge", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    verb = found["tasks"]["verb"]
    assert (len(verb["layers"]), verb["train"], verb["test"]) == (3, 60, 30)
    one = verb["layers"][1]
    gap = one["accuracy"]["value"] - one["control"]["value"]
    assert one["selectivity"]["value"] == pytest.approx(gap)
    assert found["minimal_pairs"]["how"] == "probe"
    shown = run(model, "--tasks", tasks, "--minimal-pairs", known, "--probe", "ridge").stdout
    assert "subject" in shown
    assert "minimal pairs, by probe" in shown
    decoder = run(write_decoder(tmp_path / "decoder"), "--minimal-pairs", pairs, "--json")
    assert json.loads(decoder.stdout)["minimal_pairs"]["mean"]["n"] == 5


@pytest.mark.parametrize(
    ("flags", "said"),
    [([], "give --tasks, --minimal-pairs or both"), (["--tasks", "absent"], "no such file or folder")],
)
def test_what_cannot_be_asked_is_refused(tmp_path: Path, flags: list[str], said: str):
    done = run(write_decoder(tmp_path / "decoder"), *flags)
    assert (done.exit_code, said in " ".join(done.output.split())) == (2, True)
    assert run(tmp_path / "decoder", "--tasks", tmp_path, "--probe", "rigde").exit_code == 2


@pytest.mark.parametrize("command", ["tasks", "pairs", "eval"])
def test_tokens_beyond_the_embeddings_are_refused_by_every_command(tmp_path: Path, command: str):
    folder = write_decoder(tmp_path / "model")
    made = tokenizer()
    made.add_tokens(["zebra"])
    made.save_pretrained(folder)
    files = {"tasks": tmp_path / "zebras.tsv", "pairs": tmp_path / "zebras.jsonl", "eval": tmp_path / "zebras.txt"}
    sentences = [f"{split}\t{'ab'[i % 2]}\tzebra {WORDS[i]}" for split in ("tr", "te") for i in range(8)]
    files["tasks"].write_text("\n".join(sentences).replace("te\ta\tzebra", "te\ta\ta zebra"))
    files["pairs"].write_text(json.dumps({"good": "a zebra runs", "bad": "zebra runs a"}))
    files["eval"].write_text("the zebra runs home " * 40)
    commands = {
        "tasks": ["probe", str(folder), "--tasks", str(files["tasks"])],
        "pairs": ["probe", str(folder), "--minimal-pairs", str(files["pairs"])],
        "eval": ["eval", str(folder), "--task", "lm", "--data", str(files["eval"]), "--seq-len", "16"],
    }
    result = CliRunner().invoke(app, commands[command])
    assert result.exit_code == 2
    assert "hold the token 'zebra', whose id 19 is beyond the model's 19 embeddings" in " ".join(result.stderr.split())


def test_pairs_that_cannot_be_asked_are_refused_before_any_task_is_probed(tmp_path: Path):
    """A classifier is asked by a probe, which takes four pairs."""
    options = write_inputs(tmp_path / "inputs")
    pairs = tmp_path / "few.jsonl"
    pairs.write_text(json.dumps({"good": "a man", "bad": "man a"}))
    tasks = write_tasks(tmp_path / "tasks")
    result = CliRunner().invoke(
        app, ["probe", options["--model"], "--tasks", str(tasks), "--minimal-pairs", str(pairs)]
    )
    assert result.exit_code == 2
    assert "probe verb" not in result.stderr
    assert "has 1 pairs" in " ".join(result.stderr.split())
