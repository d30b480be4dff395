"""Heads of attention: which matrices they are of, in which order they go, and what is built of the rest."""

import json

import pytest
import torch
from nli_fixture import write_inputs
from test_neurons import batch_of, check_price, covariance_of, made
from torch import nn
from typer.testing import CliRunner

from autolr.checkpoint.load import load_checkpoint
from autolr.cli.main import app
from autolr.cost.count import measure_costs
from autolr.forms.heads import heads
from autolr.forms.swap import compressed
from autolr.methods.elimination import eliminate
from autolr.methods.obs_heads import METHOD
from autolr.model.attention import find_attentions
from autolr.model.units import find_units, unit_bias, unit_weight
from autolr.records import Heads
from autolr.recovery.refit import correct, refit
from autolr.statistics.calibrate import calibrate
from autolr.types import Candidate

FOUND = {
    "bert": ("query", "key", "value", "dense"),
    "distilbert": ("q_lin", "k_lin", "v_lin", "out_lin"),
    "albert": ("query", "key", "value", "dense"),
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "qwen3": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "gemma": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mixtral": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "bart": ("q_proj", "k_proj", "v_proj", "out_proj"),
}
WITHOUT = (
    "deberta-v2",
    "modernbert",
    "phi3",
    "gpt2",
    "opt",
    "t5",
)  # fused projections, or a count of heads that is read


class Source:
    """Decompositions of a model's attentions, or of pairs of their matrices, from calibration on a few tokens."""

    def __init__(self, model: nn.Module, length: int = 12, find=find_attentions, method=METHOD) -> None:
        self.batch = batch_of(model, length)
        self.matrices = find_units(model).units
        self.method = method
        self.groups = {unit.name: unit for unit in find(model, self.matrices, self.batch)}
        grouped = {module for unit in self.groups.values() for module in unit.modules}
        measured = calibrate(model, [unit for unit in self.matrices if unit.name in grouped], [self.batch])
        self.measured = {unit.name: stats for unit, stats in measured}
        self.model = model

    def unit(self, name):
        return self.groups[name]

    def mean(self, name):
        return self.measured[name].mean

    def stats(self, name):
        return self.measured[name]

    def decomposition(self, name, method):
        unit = self.groups[name]
        weights = [unit_weight(self.model, matrix).double() for matrix in unit.matrices]
        biases = [unit_bias(self.model, matrix) for matrix in unit.matrices]
        more = [biases] if unit.of == "query-key" else []
        return self.method.decompose(weights, [self.measured[m.name] for m in unit.matrices], unit.heads, *more)


@pytest.mark.parametrize("name", FOUND)
def test_attentions_are_found_by_what_they_do(name):
    model = made(name)
    groups = find_attentions(model, find_units(model).units, batch_of(model))
    assert groups
    for group in groups:
        assert tuple(module.rpartition(".")[2] for module in group.modules) == FOUND[name]
        assert group.heads.groups * group.heads.read == group.matrices[-1].in_features


@pytest.mark.parametrize("name", WITHOUT)
def test_what_counts_on_the_number_of_heads_keeps_all(name):
    model = made(name)
    assert find_attentions(model, find_units(model).units, batch_of(model)) == ()


@pytest.mark.parametrize("seed", range(4))
def test_at_every_step_the_head_goes_whose_removal_costs_the_least(seed):
    generator = torch.Generator().manual_seed(seed)
    width, count = 3, 4
    n = width * count
    covariance = covariance_of(n, n, generator)
    weight = torch.randn(5, n, generator=generator, dtype=torch.float64)
    half = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    elimination = eliminate(weight, covariance, half.mT @ half, width=width)

    def error(left: list[int]) -> float:
        kept = [head * width + place for head in sorted(left) for place in range(width)]
        gap = weight.clone()
        gap[:, kept] -= weight @ covariance[:, kept] @ torch.linalg.inv(covariance[kept][:, kept])
        return float(torch.trace(half @ gap @ covariance @ gap.mT @ half.mT))

    left = list(range(count))
    order = (elimination.order[::width] // width).tolist()
    for gone in order[:0:-1]:
        assert gone == min(left, key=lambda head: error([other for other in left if other != head]))
        left.remove(gone)
        kept = elimination.kept(width * len(left))
        assert kept.tolist() == [head * width + place for head in sorted(left) for place in range(width)]
        assert float(elimination.errors[width * len(left)]) == pytest.approx(error(left), rel=1e-5)


def test_of_one_head_too_many_for_the_output_nothing_is_lost():
    """Two heads that always say the same: either can go, and the output makes up for it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 8, generator=generator, dtype=torch.float64)
    x = torch.cat([x[:, :4], x[:, 4:], 2 * x[:, :4]], 1)
    weight = torch.randn(6, 12, generator=generator, dtype=torch.float64)
    errors = eliminate(weight, x.mT @ x / 50, torch.eye(6), width=4).errors
    assert float(errors[8]) < 1e-5 * float(errors[0])
    assert float(errors[4]) > 1e-2 * float(errors[0])


@pytest.mark.parametrize("name", FOUND)
def test_prices_are_those_of_the_built_model(name):
    model = made(name)
    source = Source(model)
    length = source.batch["input_ids"].shape[1]
    costs = measure_costs(model, (*source.matrices, *source.groups.values()), 2, length)
    check_price(model, source, costs, Candidate.of({unit: heads("obs-heads", 1) for unit in source.groups}))


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_head_that_the_output_does_not_read_can_go_without_a_change(name):
    model = made(name)
    source = Source(model)
    for unit in source.groups.values():
        with torch.no_grad():
            unit_weight(model, unit.matrices[-1])[:, : unit.heads.read] = 0.0
    candidate = Candidate.of({unit: heads("obs-heads", source.groups[unit].heads.groups - 1) for unit in source.groups})
    with torch.no_grad():
        dense = model(**source.batch).logits
        with compressed(model, candidate, source):
            assert torch.allclose(model(**source.batch).logits, dense, atol=1e-3)


def test_refitting_brings_the_answers_nearer():
    model = made("bert")
    source = Source(model, 24)
    candidate = Candidate.of(dict.fromkeys(source.groups, heads("obs-heads", 1)))
    batches = [{**source.batch, "input_ids": source.batch["input_ids"].roll(k, 1)} for k in range(1, 8)]
    corrections = refit(model, candidate, source, batches)
    assert len(corrections) >= 4
    with torch.no_grad():
        dense = model(**batches[0]).logits
        with compressed(model, candidate, source):
            before = float((model(**batches[0]).logits - dense).norm())
            for name, correction in corrections.items():
                correct(model.get_submodule(name), correction)
            after = float((model(**batches[0]).logits - dense).norm())
    assert after < before


def test_grouped_query_heads_are_refitted_too():
    model = made("llama")
    source = Source(model, 24)
    candidate = Candidate.of(dict.fromkeys(source.groups, heads("obs-heads", 1)))
    batches = [{**source.batch, "input_ids": source.batch["input_ids"].roll(k, 1)} for k in range(1, 8)]
    corrections = refit(model, candidate, source, batches)
    assert {name.rpartition(".")[2] for name in corrections} >= {"q_proj", "k_proj", "v_proj", "o_proj"}


def test_a_study_of_heads_goes_from_search_to_a_checkpoint_that_gives_the_same_answers(tmp_path):
    options = write_inputs(tmp_path / "inputs")
    data = [word for pair in options.items() for word in pair]
    study, out = tmp_path / "study", tmp_path / "model"
    asked = ["--form", "heads", "--method", "kfac", "--trials", "3", "--budget", "0.9x-flops"]

    def run(*words: object) -> str:
        done = CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)
        assert done.exit_code == 0, done.stderr
        return done.stdout

    run("search", *data, *asked, "--search-examples", "40", "--study", study)
    members = json.loads(run("front", study, "--json"))["members"]
    assert any(choice["form"] == "heads" for member in members for choice in member["candidate"].values())
    said = json.loads(run("export", study, "--out", out, "--json"))
    assert said["max_logit_difference"] == 0.0
    assert "heads" in run("sensitivity", study, "--json")
    assert load_checkpoint(out).eval()(**batch_of(nn.Module(), 5)).logits.isfinite().all()


def test_a_group_reads_as_many_entries_as_its_query_heads_have():
    assert Heads(2, 3, 8).read == 24
