"""Neurons of feed-forward pairs: which matrices they are, in which order they go, and what is built of the rest."""

import json

import pytest
import torch
import transformers
from architecture_table import ARCHITECTURES
from hypothesis import given, settings
from hypothesis import strategies as st
from nli_fixture import write_inputs
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from autolr.checkpoint.load import load_checkpoint
from autolr.cli.main import app
from autolr.cost import measure_latency as measure_latency_module
from autolr.cost import time_layers
from autolr.cost.count import measure_costs
from autolr.cost.latency_model import LatencyTable
from autolr.cost.measure_latency import measure_latency
from autolr.forms import FORMS, GROUP_FORMS, MATRIX_FORMS
from autolr.forms.neurons import neurons
from autolr.forms.neurons_low_rank import neurons_low_rank
from autolr.forms.swap import compressed
from autolr.methods import get_methods
from autolr.methods.elimination import eliminate
from autolr.methods.obs import METHOD
from autolr.model.feed_forward import find_feed_forwards
from autolr.model.units import find_units, unit_weight
from autolr.problem import default_forms
from autolr.progress import Silent
from autolr.recovery.refit import correct, refit
from autolr.spec.study import make_spec
from autolr.statistics.calibrate import calibrate
from autolr.types import Candidate, Choice, Conditions

FORM = FORMS.get("neurons")
PAIRED = {
    "bert": ("intermediate.dense", "output.dense"),
    "distilbert": ("ffn.lin1", "ffn.lin2"),
    "albert": ("ffn", "ffn_output"),
    "llama": ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    "gemma": ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    "gpt2": ("mlp.c_fc", "mlp.c_proj"),
    "opt": ("fc1", "fc2"),
    "t5": ("DenseReluDense.wi", "DenseReluDense.wo"),
    "bart": ("fc1", "fc2"),
}
WITHOUT = ("modernbert", "phi3", "mixtral")  # a fused gate, or experts


def batch_of(model: nn.Module, length: int = 6) -> dict[str, torch.Tensor]:
    ids = torch.randint(4, 20, (2, length), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 2
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class Source:
    """Decompositions of a model's feed-forward pairs, from calibration on a few tokens."""

    def __init__(self, model: nn.Module, length: int = 12) -> None:
        self.batch = batch_of(model, length)
        self.matrices = find_units(model).units
        self.groups = {unit.name: unit for unit in find_feed_forwards(model, self.matrices, self.batch)}
        grouped = {module for unit in self.groups.values() for module in unit.modules}
        measured = calibrate(model, [unit for unit in self.matrices if unit.name in grouped], [self.batch])
        self.measured = {unit.name: stats for unit, stats in measured}
        self.model = model
        self.made = {}

    def unit(self, name):
        return self.groups[name]

    def mean(self, name):
        return self.measured[name].mean

    def stats(self, name):
        return self.measured[name]

    def decomposition(self, name, method):
        if name not in self.made:
            matrices = self.groups[name].matrices
            weights = [unit_weight(self.model, matrix).double() for matrix in matrices]
            self.made[name] = METHOD.decompose(weights, [self.measured[matrix.name] for matrix in matrices])
        return self.made[name]


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return ARCHITECTURES[name]().eval()


def covariance_of(n: int, rank: int, generator: torch.Generator) -> torch.Tensor:
    x = torch.randn(3 * n, rank, generator=generator, dtype=torch.float64)
    x = x @ torch.randn(rank, n, generator=generator, dtype=torch.float64)
    return x.mT @ x / len(x)


@given(st.integers(1, 9), st.integers(1, 7), st.booleans(), st.integers(0, 1000))
@settings(max_examples=40)
def test_each_size_is_the_least_squares_fit_of_its_neurons(n, out, full_rank, seed):
    generator = torch.Generator().manual_seed(seed)
    covariance = covariance_of(n, n if full_rank else max(1, n // 2), generator)
    weight = torch.randn(out, n, generator=generator, dtype=torch.float64)
    half = torch.randn(out, out, generator=generator, dtype=torch.float64)
    found = eliminate(weight, covariance, half.mT @ half)
    scale = float(found.errors[0]) + 1e-12
    for count in range(n + 1):
        kept = found.kept(count)
        fitted = weight @ covariance[:, kept] @ torch.linalg.pinv(covariance[kept][:, kept], hermitian=True)
        gap = weight.clone()
        gap[:, kept] -= fitted
        error = float(torch.trace(half @ gap @ covariance @ gap.mT @ half.mT))
        assert float(found.errors[count]) == pytest.approx(error, abs=1e-4 * scale)
    assert found.errors[n] == 0
    assert (found.errors.diff() <= 1e-9 * scale).all()
    assert torch.allclose(found.weight(n), weight[:, found.kept(n)], atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_one_at_a_time_the_order_is_that_of_the_definition(seed):
    """At every step the neuron goes whose removal, all else refitted, costs the least."""
    generator = torch.Generator().manual_seed(seed)
    n, covariance = 8, covariance_of(8, 8, generator)
    weight = torch.randn(5, n, generator=generator, dtype=torch.float64)
    metric = torch.eye(5, dtype=torch.float64)
    order = eliminate(weight, covariance, metric, share_at_once=n).order.tolist()

    def error(kept: list[int]) -> float:
        fitted = weight @ covariance[:, kept] @ torch.linalg.inv(covariance[kept][:, kept])
        gap = weight.clone()
        gap[:, kept] -= fitted
        return float(torch.trace(gap @ covariance @ gap.mT))

    left = list(range(n))
    for gone in order[:0:-1]:
        cheapest = min(left, key=lambda j: error([k for k in left if k != j]))
        assert cheapest == gone
        left.remove(gone)


def test_removing_several_at_once_costs_hardly_more():
    generator = torch.Generator().manual_seed(0)
    n, covariance = 96, covariance_of(96, 60, generator)
    weight = torch.randn(24, n, generator=generator, dtype=torch.float64)
    metric = covariance_of(24, 24, generator)
    several, single = (eliminate(weight, covariance, metric, share).errors for share in (32, n))
    half = slice(n // 8, n // 2)
    assert (several[half] <= 1.3 * single[half]).all()
    assert float((several[half] / single[half]).mean()) < 1.1


@pytest.mark.parametrize("name", PAIRED)
def test_pairs_are_found_by_what_they_do(name):
    model = made(name)
    groups = find_feed_forwards(model, find_units(model).units, batch_of(model))
    assert groups
    for group in groups:
        assert len(group.modules) == len(PAIRED[name])
        assert all(module.endswith(end) for module, end in zip(group.modules, PAIRED[name], strict=True))
    assert all(isinstance(module, nn.Module) for module in model.modules())


@pytest.mark.parametrize("name", WITHOUT)
def test_fused_gates_and_experts_are_no_pairs(name):
    model = made(name)
    assert find_feed_forwards(model, find_units(model).units, batch_of(model)) == ()


def test_looking_for_pairs_leaves_the_model_as_it_was():
    model = made("llama").train()
    before = dict(model.named_modules())
    find_feed_forwards(model, find_units(model).units, batch_of(model))
    assert dict(model.named_modules()) == before
    assert model.training


@pytest.mark.parametrize("name", PAIRED)
def test_prices_are_those_of_the_built_model(name):
    model = made(name)
    source = Source(model)
    length = source.batch["input_ids"].shape[1]
    costs = measure_costs(model, (*source.matrices, *source.groups.values()), 2, length)
    plain = {unit: neurons("obs", 16 + place) for place, unit in enumerate(source.groups)}
    for candidate in map(Candidate.of, (plain, *(low_rank_of_half(source, make, read) for make, read in RANKS))):
        check_price(model, source, costs, candidate)


def low_rank_of_half(source: Source, make: int | None, read: int | None) -> dict[str, Choice]:
    """Every pair at a middle number of neurons and some ranks; None: that matrix stays dense."""
    chosen = {}
    for unit in source.groups:
        middle = source.decomposition(unit, "obs").remainders[4]
        full = [min(part.left.shape[0], part.right.shape[1]) for part in middle.matrices]
        chosen[unit] = neurons_low_rank("obs", middle.count, make or full[0], read or full[-1])
    return chosen


RANKS = [(2, 3), (2, None), (None, 3)]


def check_price(model, source, costs, candidate):
    cost = costs.cost(candidate)
    with compressed(model, candidate, source), torch.no_grad(), FlopCounterMode(display=False) as counter:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            model(**source.batch)
        assert cost.flops == counter.get_total_flops()
        assert cost.params == sum(parameter.numel() for parameter in model.parameters())
        tensors = [*model.parameters(), *model.buffers()]
        assert cost.memory == sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2"])
def test_low_rank_of_what_neurons_leave_nears_it_with_the_ranks(name):
    model = made(name)
    source = Source(model)
    with torch.no_grad():
        answers = {}
        for ranks in ((1, 1), (2, None), (None, 2), (None, None)):
            candidate = Candidate.of(low_rank_of_half(source, *ranks))
            if ranks == (None, None):
                counts = {unit: choice["neurons"] for unit, choice in candidate.choices}
                candidate = Candidate.of({unit: neurons("obs", count) for unit, count in counts.items()})
            with compressed(model, candidate, source):
                answers[ranks] = model(**source.batch).logits
    whole = answers.pop((None, None))
    gaps = {ranks: float((answer - whole).norm()) for ranks, answer in answers.items()}
    assert gaps[2, None] < gaps[1, 1]
    assert gaps[None, 2] < gaps[1, 1]


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2"])
def test_nearly_all_neurons_give_nearly_the_dense_answers_and_fewer_give_worse(name):
    model = made(name)
    source = Source(model)
    with torch.no_grad():
        dense = model(**source.batch).logits
        gaps = []
        for count in (4, 24, 47):
            candidate = Candidate.of(dict.fromkeys(source.groups, neurons("obs", count)))
            with compressed(model, candidate, source):
                gaps.append(float((model(**source.batch).logits - dense).norm()))
        assert torch.equal(model(**source.batch).logits, dense)
    assert gaps[2] < gaps[0]
    assert gaps[2] < 0.05 * float(dense.norm())


def test_refitting_brings_the_answers_nearer():
    model = made("bert")
    source = Source(model, 24)
    candidate = Candidate.of(dict.fromkeys(source.groups, neurons("obs", 4)))
    batches = [{**source.batch, "input_ids": source.batch["input_ids"].roll(k, 1)} for k in range(1, 8)]
    corrections = refit(model, candidate, source, batches)
    assert len(corrections) >= 2  # of the last block too few tokens are read
    with torch.no_grad():
        dense = model(**batches[0]).logits
        with compressed(model, candidate, source):
            before = float((model(**batches[0]).logits - dense).norm())
            for name, correction in corrections.items():
                correct(model.get_submodule(name), correction)
            after = float((model(**batches[0]).logits - dense).norm())
    assert after < before


def test_latency_is_predicted_for_neurons_and_stored(monkeypatch):
    """Of both forms of feed-forward pairs."""
    monkeypatch.setattr(time_layers, "MAX_SECONDS", 0.1)
    monkeypatch.setattr(measure_latency_module, "MODEL_SECONDS", 0.2)
    model = made("bert")
    source = Source(model)
    units = (*source.matrices, *source.groups.values())
    costs = measure_costs(model, units, 1, 8)
    conditions = Conditions(1, 8, "float32", "cpu", 1)
    forms = [FORMS.get(name) for name in ("low-rank", "neurons", "neurons-low-rank")]
    table = measure_latency(model, units, forms, costs.rows, conditions, Silent())
    group = next(iter(source.groups.values()))
    priced = costs.with_latency(table)
    again = LatencyTable.from_json(json.loads(json.dumps(table.to_json())), table.units)
    for choice in (neurons("obs", 8), neurons_low_rank("obs", 15, 2, 3)):
        candidate = Candidate.of({group.name: choice})
        assert priced.cost(candidate).latency == pytest.approx(table.share(candidate) * table.dense_ms)
        assert again.share(candidate) == table.share(candidate)
        assert table.share(candidate) > 0


def test_a_study_with_neurons_goes_from_search_to_reload(tmp_path):
    options = write_inputs(tmp_path / "inputs")
    data = [word for pair in options.items() for word in pair]
    study, out = tmp_path / "study", tmp_path / "model"
    forms = [word for form in ("neurons", "neurons-low-rank", "low-rank") for word in ("--form", form)]
    asked = [*forms, "--method", "kfac", "--multiple", "2", "--trials", "5"]

    def run(*words: object) -> str:
        done = CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)
        assert done.exit_code == 0, done.stderr
        return done.stdout

    run("search", *data, *asked, "--budget", "0.5x-flops", "--search-examples", "40", "--study", study)
    members = json.loads(run("front", study, "--json"))["members"]
    chosen = [choice for member in members for choice in member["candidate"].values()]
    assert {"neurons-low-rank"} <= {choice.get("form", "low-rank") for choice in chosen}
    said = json.loads(run("export", study, "--out", out, "--json"))
    assert said["max_logit_difference"] == 0.0
    assert "neurons" in (out / "README.md").read_text()
    kinds = {
        layer["kind"]
        for layer in json.loads((out / "config.json").read_text())["quantization_config"]["layers"].values()
    }
    assert "selected-low-rank" in kinds
    run("export", study, "--out", tmp_path / "dense", "--format", "dense")
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "dense").eval()
    model = load_checkpoint(out).eval()
    batch = batch_of(model, 5)
    with torch.no_grad():
        torch.testing.assert_close(plain(**batch).logits, model(**batch).logits, atol=1e-4, rtol=1e-3)
    assert "neurons" in run("sensitivity", study, "--json")
    assert "accuracy" in run("eval", out, "--data", options["--test"])


def test_a_method_that_comes_with_a_form_is_no_method_for_matrices(tmp_path):
    options = write_inputs(tmp_path / "inputs")
    data = [word for pair in options.items() for word in pair]
    done = CliRunner().invoke(app, ["search", *map(str, data), "--budget", "0.5x-flops", "--method", "obs"])
    assert done.exit_code == 2
    assert "obs is for neurons and comes with the form" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("asked", "pairs"),
    [
        ({}, True),
        ({"search": {"methods": ["svd", "fwsvd"]}}, True),
        ({"search": {"methods": ["svd", "drone"]}}, False),
        ({"search": {"space": "per-layer"}}, False),
        ({"search": {"space": "bolaco"}}, False),
        ({"run": {"stream": True}}, False),
    ],
)
def test_pairs_are_offered_where_gradients_are_measured_and_a_knapsack_is_solved(asked, pairs):
    spec = make_spec({"budgets": ["0.5x-flops"], **asked}, "test")
    assert default_forms(make_spec({"budgets": ["0.5x-flops"], "search": {"space": "lems"}}, "test"), ()) == (
        "low-rank",
    )
    names = default_forms(spec, get_methods(spec.search.methods))
    assert names == ((*MATRIX_FORMS, *GROUP_FORMS) if pairs else MATRIX_FORMS)


def test_heads_are_offered_where_a_budget_is_a_time():
    spec = make_spec({"budgets": ["0.5x-flops", "0.5x-latency"]}, "test")
    assert default_forms(spec, get_methods(spec.search.methods))[-1] == "heads"


def test_a_space_of_ranks_leaves_pairs_alone(tmp_path):
    options = write_inputs(tmp_path / "inputs")
    data = [str(word) for pair in options.items() for word in pair]
    asked = ["--form", "neurons", "--form", "low-rank", "--method", "kfac", "--multiple", "2", "--trials", "4"]
    rest = ["--space", "per-layer", "--budget", "0.5x-flops", "--study", str(tmp_path / "study"), "--no-refit"]
    done = CliRunner().invoke(app, ["search", *data, *asked, *rest], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    members = json.loads(CliRunner().invoke(app, ["front", str(tmp_path / "study"), "--json"]).stdout)["members"]
    assert members
    assert all("neurons" not in choice for member in members for choice in member["candidate"].values())
