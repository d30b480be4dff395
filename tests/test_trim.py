"""Vocabularies that are cut: the same pieces, the same answers, folders that load by plain transformers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from nli_fixture import write_inputs
from tiny import batches, build, sequences
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from typer.testing import CliRunner

import autolr
from autolr.cli.main import app
from autolr.errors import UsageError
from autolr.model.trim_model import token_ids, trim_
from autolr.model.trim_tokenizer import tokens_to_keep, trimmed

WORDS = [
    "a",
    "the",
    "dog",
    "cat",
    "man",
    "woman",
    "child",
    "bird",
    "runs",
    "running",
    "runner",
    "sleeps",
    "sleeping",
    "eats",
    "eating",
    "singing",
    "sings",
    "reads",
    "waits",
    "park",
    "home",
    "hill",
    "river",
    "tree",
    "under",
    "over",
    "beside",
    "happily",
    "unhappy",
    "unhappily",
    "rerun",
    "reruns",
    "redo",
    "undo",
    "doing",
    "waiting",
    "waiter",
    "cats",
]


def corpus(count: int, seed: int) -> list[str]:
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, draw.integers(1, 10))) for _ in range(count)]


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def trained(kind: str) -> Tokenizer:
    """A tokenizer of each kind, trained on a few sentences."""
    if kind == "WordPiece":
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=SPECIAL[:2])
    elif kind == "BPE":
        made = Tokenizer(models.BPE(unk_token="[UNK]"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=SPECIAL[:2])
    elif kind == "BPE, by word ends":
        made = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=SPECIAL[:2], end_of_word_suffix="</w>")
    elif kind == "BPE, bytes":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=SPECIAL[:2], initial_alphabet=alphabet)
    elif kind == "Unigram":
        made = Tokenizer(models.Unigram())
        made.normalizer = normalizers.Replace(" ", "▁")
        trainer = trainers.UnigramTrainer(vocab_size=110, special_tokens=SPECIAL[:2], unk_token="[UNK]")
    else:
        made = Tokenizer(models.WordLevel(unk_token="[UNK]"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(vocab_size=120, special_tokens=SPECIAL[:2])
    made.train_from_iterator(corpus(400, 0), trainer)
    made.add_special_tokens(SPECIAL[2:])  # their numbers are the last, and change
    ids = [(token, made.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    return made


KINDS = ("WordPiece", "BPE", "BPE, by word ends", "BPE, bytes", "Unigram", "WordLevel")


def cut(tokenizer: Tokenizer, texts: list[str]) -> tuple[Tokenizer, list[int]]:
    plain = json.loads(tokenizer.to_str())
    kept = tokens_to_keep(plain, {number for text in texts for number in tokenizer.encode(text).ids})
    return Tokenizer.from_str(json.dumps(trimmed(plain, kept))), kept


@pytest.mark.parametrize("kind", KINDS)
def test_text_of_kept_tokens_is_read_in_the_same_pieces(kind):
    whole = trained(kind)
    texts = corpus(6, 1)
    small, kept = cut(whole, texts)
    assert small.get_vocab_size() == len(kept) < whole.get_vocab_size()
    same = 0
    for text in [*texts, *corpus(300, 2), *WORDS, "un", "happ", "dogcat rerunning", ""]:
        before = whole.encode(text, text)
        assert before.tokens[0] == "[CLS]"
        if set(before.ids) <= set(kept):
            same += 1
            after = small.encode(text, text)
            assert after.tokens == before.tokens
            assert [kept[number] for number in after.ids] == before.ids
    assert same > 10


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "WordLevel"])
def test_any_other_text_is_still_read(kind):
    whole = trained(kind)
    small, _ = cut(whole, corpus(3, 1))
    unknown = whole.token_to_id("[UNK]")
    for text in corpus(50, 3):
        if unknown not in whole.encode(text).ids:
            assert "[UNK]" not in small.encode(text).tokens, text


def test_tokens_that_are_merged_on_the_way_stay():
    whole = trained("BPE")
    plain = json.loads(whole.to_str())
    longest = max(plain["model"]["vocab"], key=len)
    kept = tokens_to_keep(plain, {whole.token_to_id(longest)})
    assert len(kept) > len({token for token in plain["model"]["vocab"] if len(token) == 1}) + len(SPECIAL) + 1


def test_the_least_probable_piece_stays_for_the_penalty_of_unknown_characters_rests_on_it():
    scores = {"<unk>": 0.0, "a": -20.0, "b": -20.0, "bX": -20.0, "ab": -1.0, "never": -60.0, "nor this": -50.0}
    whole = Tokenizer(models.Unigram([*scores.items()], 0))
    small, kept = cut(whole, ["abX", "ab"])
    assert whole.encode("abX").tokens == small.encode("abX").tokens == ["a", "bX"]
    assert len(kept) == len(scores) - 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"type": "Odd", "vocab": {}}}, "a Odd tokenizer cannot be cut exactly"),
        ({"model": {"type": "BPE", "vocab": {}, "merges": [], "dropout": 0.1}}, "draws its merges at random"),
        ({"post_processor": {"type": "Odd"}}, "post-processor Odd may name tokens by number"),
    ],
)
def test_what_cannot_be_cut_exactly_is_refused_by_name(change, message):
    plain = {**json.loads(trained("WordPiece").to_str()), **change}
    with pytest.raises(UsageError, match=message):
        tokens_to_keep(plain, {0})


@pytest.mark.parametrize(
    "family", ["bert", "roberta", "distilbert", "gpt2-lm", "llama-lm-tied", "llama-lm-untied", "t5-encoder"]
)
def test_a_smaller_model_answers_alike(family):
    model, small = build(family), build(family)
    batch = batches(sequences(6), 6)[0]
    kept = sorted({*batch["input_ids"].flatten().tolist(), *token_ids(model), 0, 1, 2, 3})
    trim_(small, kept)
    assert small.config.vocab_size == len(kept) < model.config.vocab_size
    place = torch.zeros(60, dtype=torch.long)
    place[kept] = torch.arange(len(kept))
    asked = {"input_ids": place[batch["input_ids"]], "attention_mask": batch["attention_mask"]}
    with torch.no_grad():
        wanted, found = model(**batch)[0], small(**asked)[0]
    if wanted.shape != found.shape:
        wanted = wanted[..., kept]
    mask = batch["attention_mask"].bool() if wanted.ndim == 3 else slice(None)
    assert torch.allclose(found[mask], wanted[mask], atol=1e-5)
    head = small.get_output_embeddings()
    if head is not None and model.config.tie_word_embeddings:
        assert head.weight is small.get_input_embeddings().weight


def test_a_masked_language_model_keeps_its_bias_in_step():
    model = transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=60,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=24,
        )
    ).eval()
    with torch.no_grad():
        model.get_output_embeddings().bias.normal_()
        before = model(input_ids=torch.tensor([[5, 9]])).logits
        trim_(model, [0, 5, 9, 11])
        after = model(input_ids=torch.tensor([[1, 2]])).logits
    assert torch.allclose(after, before[..., [0, 5, 9, 11]], atol=1e-6)
    assert model.cls.predictions.bias is model.get_output_embeddings().bias


def test_a_model_with_something_else_for_each_token_is_refused():
    model = build("bert")
    model.register_buffer("seen", torch.zeros(60))
    with pytest.raises(UsageError, match=r"seen \(60,\) seems to have an entry for each of 60 tokens"):
        trim_(model, [0, 1, 2])
    with pytest.raises(UsageError, match="the tokenizer has a token 60, and the table 60 rows"):
        trim_(build("bert"), [0, 60])
    model.config.suppress_tokens = [4]
    with pytest.raises(UsageError, match="names tokens by suppress_tokens"):
        token_ids(model)


def test_a_trimmed_folder_loads_in_plain_transformers_and_is_a_model_for_studies(tmp_path):
    given = write_inputs(
        tmp_path / "inputs",
    )
    data = [str(word) for pair in given.items() for word in pair]
    where = given["--model"]
    whole = transformers.AutoModelForSequenceClassification.from_pretrained(where)
    tokenizer = transformers.AutoTokenizer.from_pretrained(where)
    spare = transformers.AutoTokenizer.from_pretrained(where)
    plain = json.loads(spare.backend_tokenizer.to_str())
    plain["model"]["vocab"] |= {f"spare{number}": 30 + number for number in range(10)}
    whole.resize_token_embeddings(40)
    whole.save_pretrained(where)
    (Path(where) / "tokenizer.json").write_text(json.dumps(plain), encoding="utf-8")
    (tmp_path / "words.txt").write_text("spare3 dog\n", encoding="utf-8")
    small = tmp_path / "small"
    told = ["trim", *data, "--out", str(small), "--keep", str(tmp_path / "words.txt"), "--json"]
    done = CliRunner().invoke(app, told, catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["tokens"] < made["tokens_before"] == 40
    again = transformers.AutoModelForSequenceClassification.from_pretrained(small).eval()
    reads = transformers.AutoTokenizer.from_pretrained(small)
    assert reads.tokenize("a dog spare3 spare4") == ["a", "dog", "spare3", "[UNK]"]
    with torch.no_grad():
        texts = ("a dog runs in the park", "the man sleeps")
        wanted = whole.eval()(**tokenizer(*texts, return_tensors="pt")).logits
        assert torch.equal(again(**reads(*texts, return_tensors="pt")).logits, wanted)
    moved = [str(small) if word == where else word for word in data]
    done = CliRunner().invoke(app, ["estimate", *moved, "--budget", "0.6x-params"], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr


def test_the_dense_model_is_not_written_over(tmp_path):
    given = write_inputs(tmp_path / "inputs")
    data = [str(word) for pair in given.items() for word in pair]
    done = CliRunner().invoke(app, ["trim", *data, "--out", str(given["--model"]), "--force"])
    assert done.exit_code == 2
    assert "is the dense model itself" in done.stderr


def test_objects_are_trimmed_from_python(tmp_path):
    given = write_inputs(tmp_path / "inputs")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(given["--model"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(given["--model"])
    rows = [{"premise": "a dog runs", "hypothesis": "a dog sleeps", "label": "neutral"}] * 3
    other = [{"premise": f"a dog {'eats reads ' * n}", "hypothesis": "a dog", "label": "neutral"} for n in range(1, 21)]
    made = autolr.trim(model, tmp_path / "small", tokenizer=tokenizer, train=rows, validation=other)
    assert made.tokens < made.tokens_before
    small = transformers.AutoTokenizer.from_pretrained(tmp_path / "small")
    assert {"dog", "runs", "sleeps", "eats", "reads"} < set(small.get_vocab())
    assert "river" not in small.get_vocab()
    with pytest.raises(UsageError, match="trim has no option 'trials'"):
        autolr.trim(model, tmp_path / "x", tokenizer=tokenizer, train=rows, validation=rows, trials=3)
