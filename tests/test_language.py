"""Language modelling: text in blocks, scores next token by next token, sampled gradients, a study from end to end."""

import gzip
import json
import math
import re
from pathlib import Path

import pytest
import torch
import transformers as hf
from decoder_fixture import tokenizer, write_decoder, write_text
from tiny import build
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from autolr.cli.main import app
from autolr.data.text import TextData, load_text
from autolr.errors import AutolrError, UsageError
from autolr.model.kind import check_causal
from autolr.optimization.study.folder import StudyFolder
from autolr.optimization.study.summary import with_multipliers
from autolr.statistics.calibrate import SampledCotangents
from autolr.tasks.language import text_batches
from autolr.tasks.language_scorer import MOST_LIKELY, LanguageScorer, coarse_divergence

_SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
CAUSAL = {
    "gpt2": lambda: build("gpt2-lm"),
    "llama": lambda: build("llama-lm-tied"),
    "bloom": lambda: hf.BloomForCausalLM(hf.BloomConfig(vocab_size=60, hidden_size=32, n_layer=2, n_head=4)).eval(),
    "opt": lambda: hf.OPTForCausalLM(hf.OPTConfig(**_SIZES, ffn_dim=48, word_embed_proj_dim=32)).eval(),
    "mixtral": lambda: hf.MixtralForCausalLM(
        hf.MixtralConfig(**_SIZES, intermediate_size=48, num_key_value_heads=2, num_local_experts=4)
    ).eval(),
}


def blocks(n: int = 5, length: int = 9, vocabulary: int = 60) -> TextData:
    ids = torch.randint(4, vocabulary, (n, length), generator=torch.Generator().manual_seed(0))
    return TextData("random", tuple(map(tuple, ids.tolist())))


def expected(dense, small, data: TextData) -> dict[str, list[float]]:
    """The four values of each block, one position after the other, in float64."""
    found = {"loss": [], "accuracy": [], "agreement": [], "divergence": []}
    for block in data.blocks:
        ids = torch.tensor([block])
        with torch.no_grad():
            p, q = (model(input_ids=ids).logits[0].double().log_softmax(-1) for model in (dense, small))
        sums = dict.fromkeys(found, 0.0)
        for position, following in enumerate(block[1:]):
            top = p[position].argsort(descending=True)[:MOST_LIKELY]
            rest = [1 - float(one[position, top].exp().sum()) for one in (p, q)]
            known = sum(float(p[position, t].exp() * (p[position, t] - q[position, t])) for t in top)
            sums["loss"] -= float(q[position, following])
            sums["accuracy"] += int(q[position].argmax()) == following
            sums["agreement"] += int(q[position].argmax()) == int(p[position].argmax())
            sums["divergence"] += known + rest[0] * math.log(rest[0] / rest[1])
        for name, total in sums.items():
            found[name].append(total / (len(block) - 1))
    return found


@pytest.mark.parametrize("size", [1, 2, 5])
def test_scores_are_those_of_a_loop_over_the_positions(size):
    dense, small = build("llama-lm-tied"), build("llama-lm-tied", seed=1)
    scorer = LanguageScorer.of(dense, text_batches(blocks(), size))
    found = scorer.values(scorer.answers(small, scorer.batches))
    for name, values in expected(dense, small, blocks()).items():
        torch.testing.assert_close(found[name], torch.tensor(values, dtype=torch.float64), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dense_model_agrees_with_itself_where_tokens_are_equally_likely(dtype: torch.dtype):
    """At two bytes ties are common."""
    model = build("llama-lm-tied")
    model.get_input_embeddings().weight.data[20:40] = model.get_input_embeddings().weight.data[40:60]
    model.to(dtype)
    scorer = LanguageScorer.of(model, text_batches(blocks(), 2))
    assert scorer.score(model)["agreement"].value == 1.0


@pytest.mark.parametrize("name", sorted(set(CAUSAL)))
def test_causal_models_are_taken_for_such(name: str):
    check_causal(CAUSAL[name](), name)
    check_causal(CAUSAL[name]().to(torch.bfloat16), name)


def test_a_model_that_reads_the_tokens_it_is_asked_for_is_refused():
    sizes = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    config = hf.BertConfig(**sizes, num_attention_heads=2, max_position_embeddings=24, initializer_range=0.3)
    with pytest.raises(UsageError, match=r"mine: this BertLMHeadModel reads the tokens behind the one it is asked for"):
        check_causal(hf.BertLMHeadModel(config).eval(), "mine")
    config.is_decoder = True
    check_causal(hf.BertLMHeadModel(config).eval(), "mine")
    xlnet = hf.XLNetLMHeadModel(hf.XLNetConfig(vocab_size=60, d_model=32, n_layer=2, n_head=4, d_inner=48)).eval()
    with pytest.raises(UsageError, match="XLNetLMHeadModel reads the tokens behind"):
        check_causal(xlnet, "mine")


def test_the_dense_model_agrees_with_itself():
    scorer = LanguageScorer.of(build("gpt2-lm"), text_batches(blocks(), 2))
    scores = scorer.compare(scorer.dense)
    assert (scores["agreement"].value, scores["agreement"].n) == (1.0, 5)
    assert scores["divergence"].value == pytest.approx(0.0, abs=1e-6)


def test_some_blocks_are_scored_against_their_own_reference():
    dense, small = build("llama-lm-tied"), build("llama-lm-tied", seed=1)
    scorer = LanguageScorer.of(dense, text_batches(blocks(), 2))
    rows = torch.tensor([1, 4])
    some = scorer.answers(small, text_batches(blocks().select(rows.tolist()), 2), rows)
    torch.testing.assert_close(some, scorer.answers(small, scorer.batches)[rows], atol=1e-5, rtol=1e-5)


def test_a_batch_in_halves_gives_the_same_scores():
    dense, small = build("llama-lm-tied"), build("llama-lm-tied", seed=1)
    scorer = LanguageScorer.of(dense, text_batches(blocks(), 5))
    whole, halves = (scorer.answers(small, scorer.batches, halved=halved) for halved in (False, True))
    torch.testing.assert_close(whole, halves, atol=1e-5, rtol=1e-5)


def test_a_stored_scorer_is_the_same():
    dense, small = build("llama-lm-tied"), build("llama-lm-tied", seed=1)
    scorer = LanguageScorer.of(dense, text_batches(blocks(), 2))
    kept = scorer.kept()
    again = LanguageScorer(scorer.batches, *(kept[name] for name in ("values", "first", "tokens", "log_probabilities")))
    assert again.score(small) == scorer.score(small)


def test_the_coarse_divergence_never_exceeds_the_whole_one_and_is_it_where_nothing_is_left_out():
    random = torch.Generator().manual_seed(0)
    p, q = (torch.randn(50, 12, generator=random, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    whole = (p.exp() * (p - q)).sum(-1)
    torch.testing.assert_close(coarse_divergence(p, q, complete=True), whole)
    top = p.topk(4).indices
    coarse = coarse_divergence(p.gather(-1, top), q.gather(-1, top), complete=False)
    assert (coarse <= whole + 1e-12).all()
    assert (coarse > 0.1 * whole).all()


def test_a_model_that_is_not_finite_is_refused():
    model = build("llama-lm-tied")
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(AutolrError, match="NaN or infinite on 5 of 5 examples"):
        LanguageScorer.of(model, text_batches(blocks(), 5))


def test_sampled_gradients_have_the_fisher_information_as_their_covariance():
    """Many draws over a small vocabulary against diag(p) − p pᵀ."""
    logits = torch.tensor([[[0.5, -0.3, 1.0], [0.1, 0.2, -1.0], [3.0, 2.0, 1.0]]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    draws = torch.stack([SampledCotangents(seed)(logits, mask)[0][0] for seed in range(8000)]).double()
    p = logits[0].double().softmax(-1)
    for position in range(2):
        exact = torch.diag(p[position]) - torch.outer(p[position], p[position])
        found = draws[:, position].mT @ draws[:, position] / len(draws)
        torch.testing.assert_close(found, exact, atol=0.015, rtol=0)
        assert draws[:, position].mean(0).abs().max() < 0.02
    assert (draws[:, 2] == 0).all()  # nothing follows the last token


def test_sampled_gradients_pass_over_padding_and_repeat_themselves():
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 7, generator=random)
    mask = torch.tensor([[True, True, True, False], [False, True, True, True]])
    [one], [two] = SampledCotangents(3)(logits, mask), SampledCotangents(3)(logits, mask)
    assert torch.equal(one, two)
    assert (one != 0).any(-1).tolist() == [[True, True, False, False], [False, True, True, False]]
    wider = torch.cat([logits, torch.randn(2, 5, 7, generator=random)], 1)
    [three] = SampledCotangents(3)(wider, torch.nn.functional.pad(mask, (0, 5)))
    assert torch.equal(three[:, :4], one)
    assert not three[:, 4:].any()


def test_text_is_cut_into_blocks_with_what_the_tokenizer_puts_before(tmp_path: Path):
    path = tmp_path / "text.txt"
    path.write_text("a dog runs the cat eats")
    data = load_text(str(path), tokenizer(), 3)
    assert (data.blocks, data.skipped) == (((0, 3, 4), (8, 6, 5)), 1)
    assert load_text(str(path), tokenizer(beginning=False), 3).blocks == ((3, 4, 8), (6, 5, 10))
    packed = tmp_path / "packed.txt.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert load_text(str(packed), tokenizer(), 3).blocks == data.blocks


def test_each_row_of_a_table_is_a_document(tmp_path: Path):
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "a dog"}\n{"text": "cat"}\n')
    assert load_text(str(path), tokenizer(), 5).blocks == ((0, 3, 4, 0, 5),)
    with pytest.raises(UsageError, match=r"text.jsonl, line 1: no column 'words'; .*--text-column"):
        load_text(str(path), tokenizer(), 5, column="words")


def test_text_too_short_for_a_block_is_refused(tmp_path: Path):
    path = write_text(tmp_path / "text.txt", 5, 0)
    with pytest.raises(UsageError, match=r"text.txt has 6 tokens, fewer than one block of 32; .*--seq-len"):
        load_text(str(path), tokenizer(), 32)


def test_parts_are_stretches_that_share_nothing():
    parts = blocks(10).parts({"search": 3, "selection": 2})
    assert parts["search"].blocks + parts["selection"].blocks == blocks(10).blocks
    assert len(parts["search"]) == 6
    with pytest.raises(UsageError, match="part 'b' would be empty"):
        blocks(2).parts({"a": 9, "b": 1})


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("inputs")
    model = write_decoder(folder / "model")
    texts = {name: str(write_text(folder / f"{name}.txt", 900, i)) for i, name in enumerate(("train", "validation"))}
    given = {"--model": str(model), "--train": texts["train"], "--validation": texts["validation"]}
    given |= {"--seq-len": "16", "--task": "lm", "--search-examples": "20", "--selection-examples": "15"}
    return [part for pair in given.items() for part in pair]


def test_a_study_of_a_decoder_from_end_to_end(options: list[str], tmp_path: Path):
    """Search, with the loss as its signal, export, and the report's own figure found again by ``autolr eval``."""
    study = str(tmp_path / "study")
    flags = ["--budget", "0.7x-nonembedding-params", "--trials", "6", "--multiple", "1", "--objective", "loss"]
    done = CliRunner().invoke(app, ["search", *options, *flags, "--study", study, "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    report = result["report"]
    trials = {t.number: t for t in StudyFolder(tmp_path / "study").load_study().trials if t.values}
    chosen = json.loads(CliRunner().invoke(app, ["select", study, "--budget", "0.7x-params", "--json"]).stdout)
    least = min(
        t.user_attrs["scores"]["loss"]["value"]
        for t in trials.values()
        if t.user_attrs["costs"]["ratio"]["params"] <= 0.7
    )
    assert chosen["scores"]["loss"]["value"] == least
    if trials[result["winner"]].params:
        assert with_multipliers(StudyFolder(tmp_path / "study"), None).trial == result["winner"]
    loss = report["compressed"]["loss"]
    assert report["perplexity"]["compressed"] == pytest.approx(math.exp(loss["value"]))
    checkpoint = next((tmp_path / "study" / "front").iterdir())
    AutoModelForCausalLM.from_pretrained(checkpoint)
    card = (checkpoint / "README.md").read_text()
    assert f"| perplexity | {report['perplexity']['compressed']:.4f} ± " in card
    assert f"| {report['perplexity']['dense']:.4f} ± " in card
    assert str(tmp_path) not in card
    text = dict(zip(options[::2], options[1::2], strict=True))["--validation"]
    found = CliRunner().invoke(
        app, ["eval", str(checkpoint), "--task", "lm", "--data", text, "--seq-len", "16", "--json"]
    )
    assert found.exit_code == 0, found.output
    n_all = json.loads(found.stdout)["n"]
    assert n_all == 56
    shown = CliRunner().invoke(app, ["eval", str(checkpoint), "--task", "lm", "--data", text, "--seq-len", "16"])
    assert shown.stdout.startswith("perplexity ")
    assert "next-token accuracy" in shown.stdout


def test_a_search_under_a_ceiling_of_perplexity(options: list[str], tmp_path: Path):
    flags = ["--budget", "0.7x-nonembedding-params", "--trials", "4", "--multiple", "1"]
    kept = ["--floor", "perplexity<=100*dense", "--study", str(tmp_path / "kept")]
    done = CliRunner().invoke(app, ["search", *options, *flags, *kept])
    assert done.exit_code == 0, done.output
    assert "perplexity" in done.stdout
    missed = ["--floor", "perplexity<=0.5*dense", "--study", str(tmp_path / "missed")]
    done = CliRunner().invoke(app, ["search", *options, *flags, *missed])
    assert done.exit_code == 3, done.output
    said = " ".join(done.stderr.split())
    assert re.search(r"not reached: perplexity<=0\.5\*dense is missed by [\d.]+ nats on the search part", said)


def test_a_classifier_cannot_model_language(options: list[str], tmp_path: Path):
    build("bert").save_pretrained(tmp_path / "bert")
    tokenizer().save_pretrained(tmp_path / "bert")
    given = [*options, "--model", str(tmp_path / "bert"), "--budget", "0.7x-flops"]
    done = CliRunner().invoke(app, ["search", *given, "--study", str(tmp_path / "s")])
    assert done.exit_code == 2
    assert "task lm needs a causal language model" in " ".join(done.stderr.split())


def test_the_loss_is_no_objective_of_nli(options: list[str], tmp_path: Path):
    given = [*options, "--task", "nli", "--objective", "loss", "--budget", "0.7x-flops"]
    done = CliRunner().invoke(app, ["search", *given, "--study", str(tmp_path / "s")])
    assert (done.exit_code, "objective loss is of task lm" in " ".join(done.stderr.split())) == (2, True)
