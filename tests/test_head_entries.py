"""Entries of heads: value and output, query and key, which may be turned, and of which fewer do in the best turn."""

import json

import pytest
import torch
from nli_fixture import write_inputs
from test_heads import Source
from test_neurons import batch_of, check_price, covariance_of, made
from torch import nn
from typer.testing import CliRunner

from autolr.checkpoint.load import load_checkpoint
from autolr.cli.main import app
from autolr.cost.count import measure_costs
from autolr.forms.ov_pair import ov_pair
from autolr.forms.qk_pair import qk_pair
from autolr.forms.swap import compressed
from autolr.methods import METHODS
from autolr.methods.conformance import example_stats
from autolr.methods.kfac import OUT_SHRINKAGE
from autolr.methods.shrinkage import well_conditioned
from autolr.methods.weighted_svd import shrink
from autolr.model.head_entries import find_query_keys, find_value_outputs
from autolr.model.units import find_units
from autolr.records import Heads
from autolr.recovery.refit import correct, refit
from autolr.types import Candidate, turned_rows

FIND = {"ov": (find_value_outputs, METHODS.get("obs-ov")), "qk": (find_query_keys, METHODS.get("svd-qk"))}
CHOICE = {"ov": ov_pair, "qk": qk_pair}
VALUE_OUTPUT = ("bert", "distilbert", "albert", "llama", "qwen3", "gemma", "opt", "t5", "bart", "mixtral")
QUERY_KEY = ("bert", "distilbert", "electra", "albert", "opt", "t5", "bart")
NONE = {
    "ov": ("modernbert", "phi3", "gpt2"),
    "qk": ("modernbert", "phi3", "gpt2", "llama", "qwen3", "gemma", "mixtral"),
}
ALL = [*(("ov", name) for name in VALUE_OUTPUT), *(("qk", name) for name in QUERY_KEY)]
HEADS = [Heads(3, 1, 4), Heads(2, 2, 3)]


def source(model: nn.Module, pair: str) -> Source:
    find, method = FIND[pair]
    return Source(model, find=find, method=method)


@pytest.mark.parametrize(("pair", "name"), ALL)
def test_pairs_are_found_once_in_each_attention_and_priced_as_they_are_built(pair, name):
    model = made(name)
    of = source(model, pair)
    blocks = {unit.name for unit in of.groups.values()}
    assert len(blocks) == len(of.groups) > 0
    costs = measure_costs(model, (*of.matrices, *of.groups.values()), 2, of.batch["input_ids"].shape[1])
    check_price(model, of, costs, Candidate.of({unit: CHOICE[pair](of.method.name, 5) for unit in of.groups}))


@pytest.mark.parametrize(("pair", "name"), [(pair, name) for pair, names in NONE.items() for name in names])
def test_fused_projections_and_rotated_queries_are_no_pairs(pair, name):
    model = made(name)
    assert FIND[pair][0](model, find_units(model).units, batch_of(model)) == ()


@pytest.mark.parametrize(
    ("pair", "name"), [("ov", "bert"), ("ov", "llama"), ("ov", "t5"), ("qk", "bert"), ("qk", "t5")]
)
def test_the_answers_near_the_dense_ones_with_the_entries(pair, name):
    model = made(name)
    of = source(model, pair)
    with torch.no_grad():
        dense = model(**of.batch).logits
        gaps = []
        for share in (1 / 8, 1 / 2, 1):
            chosen = {}
            for unit in of.groups.values():
                total = unit.heads.groups * unit.heads.width
                chosen[unit.name] = CHOICE[pair](of.method.name, max(1, round(share * total)))
            with compressed(model, Candidate.of(chosen), of):
                gaps.append(float((model(**of.batch).logits - dense).norm() / dense.norm()))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-3  # with all entries nothing is lost but the precision of the turns


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("bias", [True, False])
def test_the_error_of_queries_and_keys_is_that_of_the_scores(heads, bias):
    """``Σ E[(qᵀk − q′ᵀk′)²]`` over independent positions, by brute force from the second moments."""
    random = torch.Generator().manual_seed(0)
    rows = heads.groups * heads.width
    weights = [torch.randn(n, 7, generator=random, dtype=torch.float64) for n in (rows * heads.queries, rows)]
    biases = [torch.randn(len(w), generator=random, dtype=torch.float64) if bias else None for w in weights]
    stats = [example_stats(weight, 500, 0) for weight in weights]
    dims = METHODS.get("svd-qk").decompose(weights, stats, heads, biases)
    moments = []
    for weight, own, measured in zip(weights, biases, stats, strict=True):
        offset = torch.zeros(len(weight), dtype=torch.float64) if own is None else own
        mean = weight @ measured.mean
        moment = weight @ measured.in_gram @ weight.T
        moments.append(moment + torch.outer(mean, offset) + torch.outer(offset, mean) + torch.outer(offset, offset))
    kept = dims.kept(5)
    mask = torch.zeros(rows, dtype=torch.float64)
    mask[kept] = 1.0
    lost = []
    for group in range(heads.groups):
        key = slice(group * heads.width, (group + 1) * heads.width)
        score = dims.query_turn[group].T @ torch.diag(1 - mask[key]) @ dims.key_turn[group]
        for query in range(heads.queries):
            place = (group * heads.queries + query) * heads.width
            q = slice(place, place + heads.width)
            lost.append((group, float(torch.trace(moments[0][q, q] @ score @ moments[1][key, key] @ score.T))))
    by_group = [sum(value for g, value in lost if g == group) for group in range(heads.groups)]
    gradient = stats[0].out_gram
    worth = []
    for group in range(heads.groups):
        key = slice(group * heads.width, (group + 1) * heads.width)
        inverse = torch.linalg.inv(moments[1][key, key])
        blocks = [
            gradient[p : p + heads.width, p : p + heads.width]
            for p in range(group * heads.queries * heads.width, (group + 1) * heads.queries * heads.width, heads.width)
        ]
        worth.append(sum(float(torch.trace(block @ inverse)) for block in blocks) / heads.width / heads.queries)
    wanted = sum(w * value for w, value in zip(worth, by_group, strict=True))
    assert float(dims.errors[5]) == pytest.approx(wanted, rel=2e-2)
    assert (dims.errors.diff() <= 0).all()
    product = dims.query_turn.mT @ dims.key_turn
    assert torch.allclose(product, torch.eye(heads.width, dtype=torch.float64).expand_as(product), atol=1e-6)


@pytest.mark.parametrize("heads", HEADS)
def test_the_error_of_value_and_output_is_that_of_the_least_squares_fit(heads):
    random = torch.Generator().manual_seed(1)
    value = torch.randn(heads.groups * heads.width, 7, generator=random, dtype=torch.float64)
    output = torch.randn(6, heads.all_read, generator=random, dtype=torch.float64)
    stats = [example_stats(weight, 500, 0) for weight in (value, output)]
    found = METHODS.get("obs-ov").decompose([value, output], stats, heads)
    covariance = well_conditioned(stats[1].in_covariance, stats[1].n_tokens)
    n_heads = heads.groups * heads.queries
    for count in (1, 4, heads.groups * heads.width - 1):
        entries = found.kept(count * heads.queries)[:: heads.queries] // heads.queries
        turn = torch.zeros(heads.all_read, heads.all_read, dtype=torch.float64)
        for head in range(n_heads):
            at = slice(head * heads.width, (head + 1) * heads.width)
            turn[at, at] = found.turn[head // heads.queries]
        places = [
            (int(e) // heads.width * heads.queries + q) * heads.width + int(e) % heads.width
            for e in entries
            for q in range(heads.queries)
        ]
        chosen = turn[places]
        fitted = output @ covariance @ chosen.T @ torch.linalg.inv(chosen @ covariance @ chosen.T)
        gap = output - fitted @ chosen
        error = float(torch.trace(shrink(stats[1].out_gram, OUT_SHRINKAGE) @ gap @ covariance @ gap.T))
        assert float(found.errors[count * heads.queries]) == pytest.approx(error, rel=1e-4, abs=1e-9)


def test_turned_heads_of_low_rank_and_of_nothing_are_decomposed():
    heads = Heads(2, 1, 4)
    for scale in (1.0, 0.0):
        weights = [scale * torch.ones(8, 7, dtype=torch.float64) for _ in range(2)]
        stats = [example_stats(weight, 500, 0) for weight in weights]
        dims = METHODS.get("svd-qk").decompose(weights, stats, heads, (None, None))
        assert torch.isfinite(dims.query_turn).all()
        assert float(dims.errors[2]) <= 1e-6 * float(dims.errors[0]) + 1e-12
    generator = torch.Generator().manual_seed(0)
    one = covariance_of(8, 1, generator)  # what the output reads has rank 1
    stats = example_stats(torch.ones(6, 8, dtype=torch.float64), 500, 0)
    stats = type(stats)(**{**vars(stats), "in_gram": one, "mean": torch.zeros(8, dtype=torch.float64)})
    found = METHODS.get("obs-ov").decompose(
        [torch.ones(8, 7), torch.ones(6, 8, dtype=torch.float64)], [stats] * 2, heads
    )
    assert torch.isfinite(found.turn).all()
    assert float(found.errors[2]) <= 1e-4 * float(found.errors[0]) + 1e-12


def test_turned_rows_act_on_every_query_head_of_a_group():
    turn = torch.stack([2 * torch.eye(2), 3 * torch.eye(2)])
    assert turned_rows(torch.ones(8), turn).tolist() == [2.0] * 4 + [3.0] * 4


def test_a_study_of_pairs_goes_from_search_to_a_checkpoint_that_gives_the_same_answers(tmp_path):
    options = write_inputs(tmp_path / "inputs")
    data = [word for pair in options.items() for word in pair]
    study, out = tmp_path / "study", tmp_path / "model"
    forms = [word for form in ("ov-pair", "qk-pair", "low-rank", "heads") for word in ("--form", form)]
    asked = [*forms, "--method", "kfac", "--multiple", "2", "--trials", "4", "--budget", "0.8x-flops"]

    def run(*words: object) -> str:
        done = CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)
        assert done.exit_code == 0, done.stderr
        return done.stdout

    run("search", *data, *asked, "--search-examples", "40", "--study", study)
    members = json.loads(run("front", study, "--json"))["members"]
    chosen = {choice.get("form", "low-rank") for member in members for choice in member["candidate"].values()}
    assert {"ov-pair", "qk-pair"} & chosen
    said = json.loads(run("export", study, "--out", out, "--json"))
    assert said["max_logit_difference"] == 0.0
    dense = tmp_path / "dense"
    run("export", study, "--out", dense, "--format", "dense")
    batch = batch_of(nn.Module(), 5)
    with torch.no_grad():
        torch.testing.assert_close(
            load_checkpoint(dense).eval()(**batch).logits,
            load_checkpoint(out).eval()(**batch).logits,
            atol=1e-4,
            rtol=1e-3,
        )


@pytest.mark.parametrize(("pair", "name"), [("ov", "bert"), ("ov", "llama")])
def test_refitting_brings_the_answers_nearer_in_the_turn_that_was_chosen(pair, name):
    model = made(name)
    find, method = FIND[pair]
    of = Source(model, 24, find, method)
    batches = [{**of.batch, "input_ids": of.batch["input_ids"].roll(k, 1)} for k in range(1, 8)]
    chosen = {
        unit.name: CHOICE[pair](method.name, unit.heads.groups * unit.heads.width // 4) for unit in of.groups.values()
    }
    candidate = Candidate.of(chosen)
    corrections = refit(model, candidate, of, batches)
    assert len(corrections) >= len(of.groups)
    with torch.no_grad():
        dense = torch.stack([model(**batch).logits for batch in batches])
        with compressed(model, candidate, of):
            before = float((torch.stack([model(**batch).logits for batch in batches]) - dense).norm())
            for layer, correction in corrections.items():
                correct(model.get_submodule(layer), correction)
            after = float((torch.stack([model(**batch).logits for batch in batches]) - dense).norm())
    assert after < 0.9 * before


@pytest.mark.parametrize("pair", FIND)
def test_with_all_entries_a_refit_changes_nothing(pair):
    model = made("bert")
    find, method = FIND[pair]
    of = Source(model, 24, find, method)
    batches = [{**of.batch, "input_ids": of.batch["input_ids"].roll(k, 1)} for k in range(1, 8)]
    candidate = Candidate.of(
        {unit.name: CHOICE[pair](method.name, unit.heads.groups * unit.heads.width) for unit in of.groups.values()}
    )
    corrections = refit(model, candidate, of, batches)
    assert len(corrections) >= 3
    with torch.no_grad(), compressed(model, candidate, of):
        for layer, correction in corrections.items():
            module = model.get_submodule(layer)
            gap = float((correction.left - module.linear.weight).norm() / module.linear.weight.norm())
            assert gap < 2e-2
