"""Tables of token vectors: which can be compressed, what is built of them, what it costs, and that it loads again."""

import json
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
import transformers
from architecture_table import ARCHITECTURES
from hypothesis import given, settings
from hypothesis import strategies as st
from nli_fixture import write_inputs
from tiny import batches, build, sequences
from torch import nn
from typer.testing import CliRunner

from autolr.allocation.error_curves import Curve
from autolr.checkpoint.dense import save_dense
from autolr.checkpoint.load import load_checkpoint
from autolr.checkpoint.runtime.embeddings import LowRankEmbedding
from autolr.checkpoint.save import save_checkpoint
from autolr.cli.main import app
from autolr.cost.count import measure_costs
from autolr.cost.measure_latency import measure_latency
from autolr.errors import UsageError
from autolr.forms import FORMS, GROUP_FORMS, MATRIX_FORMS, TABLE_FORMS
from autolr.forms.base import Given
from autolr.forms.embedding import FORM, embedding
from autolr.forms.low_rank import low_rank
from autolr.forms.swap import compressed
from autolr.methods import get_methods, matrix_methods
from autolr.methods.groupreduce import METHOD, smoothed
from autolr.methods.kfac import OUT_SHRINKAGE
from autolr.methods.table_conformance import example_table_stats
from autolr.methods.weighted_svd import shrink
from autolr.model.embeddings import find_table
from autolr.model.units import find_units, unit_weight
from autolr.problem import default_forms
from autolr.progress import Silent
from autolr.recovery.refit import refit
from autolr.spec.study import make_spec
from autolr.statistics.calibrate import SampledCotangents, calibrate, class_cotangents
from autolr.types import Candidate, Conditions, Table

FAMILIES = ("bert", "roberta", "distilbert", "gpt2", "llama", "llama-lm-untied")


def examples(size: int = 3) -> list[dict[str, torch.Tensor]]:
    return batches(sequences(12), size)


class Source:
    """The table's decomposition, from calibration on a few tokens."""

    def __init__(self, model: nn.Module, others: bool = False) -> None:
        table, _ = find_table(model, examples()[0])
        cotangents = SampledCotangents(0) if type(model).__name__.endswith("LM") else class_cotangents
        units = [table, *(find_units(model).units if others else ())]
        self.measured = {unit.name: stats for unit, stats in calibrate(model, units, examples(), cotangents)}
        self.table, self.model, self.units = table, model, {unit.name: unit for unit in units}

    def unit(self, name):
        return self.units[name]

    def mean(self, name):
        return self.measured[name].mean

    def stats(self, name):
        return self.measured[name]

    def decomposition(self, name, method):
        unit = self.units[name]
        return get_methods([method])[0].decompose(unit_weight(self.model, unit).double(), self.measured[name])


def given_of(source: Source) -> Given:
    weight = unit_weight(source.model, source.table)
    return Given(source.table, "groupreduce", source.decomposition(source.table.name, "groupreduce"), weight)


def chosen(source: Source, rank: int, core: int) -> Candidate:
    return Candidate.of({source.table.name: embedding("groupreduce", rank, core)})


def logits(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch).logits


@given(st.integers(2, 40), st.integers(1, 9), st.booleans(), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_each_error_is_the_expected_squared_error_of_a_token(tokens, dim, full_rank, seed):
    """Of what is built, in the metric of the outputs, by brute force over the vocabulary in float64."""
    random = torch.Generator().manual_seed(seed)
    inner = dim if full_rank else max(1, dim // 2)
    table = torch.randn(tokens, inner, generator=random, dtype=torch.float64)
    table = table @ torch.randn(inner, dim, generator=random, dtype=torch.float64)
    stats = example_table_stats(table.mT, 50, seed)
    made = METHOD.decompose(table.mT, stats)
    p, metric = smoothed(stats.mean, stats.n_tokens), shrink(stats.out_gram.clone(), OUT_SHRINKAGE)
    whole = Given(Table("t", "t", -1, 1, dim, tokens, True), "groupreduce", made, table.mT)
    scale = float(made.tails(0)[0]) + 1e-12
    for core in made.cores:
        last = float("inf")
        for rank in range(dim + 1):
            layer = FORM.build(whole, embedding("groupreduce", rank, core.count), table)
            gap = layer.dense_weight().mT.detach() - table
            exact = float(p @ ((gap @ metric) * gap).sum(1))
            told = float(made.tails(core.count)[rank])
            assert told == pytest.approx(exact, abs=1e-6 * scale)
            assert told <= last
            last = told
            assert not gap[made.order[: core.count]].any()
        assert float(gap.abs().max()) < 1e-6 * float(table.abs().max())


def test_no_factors_of_a_rank_err_less():
    random = torch.Generator().manual_seed(0)
    table = torch.randn(50, 8, generator=random, dtype=torch.float64)
    stats = example_table_stats(table.mT, 200, 0)
    made = METHOD.decompose(table.mT, stats)
    p, metric = smoothed(stats.mean, stats.n_tokens), shrink(stats.out_gram.clone(), OUT_SHRINKAGE)
    factor = torch.randn(50, 3, generator=random, dtype=torch.float64, requires_grad=True)
    outer = torch.randn(3, 8, generator=random, dtype=torch.float64, requires_grad=True)
    mean = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([factor, outer, mean], max_iter=400, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        gap = factor @ outer + mean - table
        value = p @ ((gap @ metric) * gap).sum(1)
        value.backward()
        return value

    optimizer.step(loss)
    assert float(loss()) == pytest.approx(float(made.tails(0)[3]), rel=1e-3)
    assert float(loss()) >= float(made.tails(0)[3]) * (1 - 1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_full_rank_is_the_dense_model(family):
    model = build(family)
    source, batch = Source(model), examples()[0]
    dim = source.table.out_features
    dense = logits(model, batch)
    for core in (0, 7):
        with compressed(model, chosen(source, dim, core), source):
            assert isinstance(model.get_input_embeddings(), LowRankEmbedding)
            assert torch.allclose(logits(model, batch), dense, atol=1e-4 * float(dense.abs().max()))
    with compressed(model, chosen(source, 2, 0), source):
        assert not torch.allclose(logits(model, batch), dense, atol=1e-2 * float(dense.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_errs_by_its_rounding_alone(dtype):
    model = build("bert")
    source = Source(model)
    choice = chosen(source, source.table.out_features, 7)
    model = model.to(dtype)
    source.model = model
    batch = examples()[0]
    dense = logits(model, batch).float()
    with compressed(model, choice, source):
        found = logits(model, batch)
    assert found.dtype == dtype
    assert float((found.float() - dense).abs().max()) < 20 * torch.finfo(dtype).eps * float(dense.abs().max())


def test_padding_changes_no_answer():
    model = build("bert")
    assert model.get_input_embeddings().padding_idx is not None
    source = Source(model)
    tokens = sequences(4)
    with compressed(model, chosen(source, 3, 7), source):
        together = logits(model, batches(tokens, 4)[0])
        alone = torch.cat([logits(model, batch) for batch in batches(tokens, 1)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_frequencies_are_those_of_real_tokens():
    model = build("bert")
    source = Source(model)
    tokens = [token for sequence in sequences(12) for token in sequence]
    counted = torch.bincount(torch.tensor(tokens), minlength=source.table.in_features)
    stats = source.stats(source.table.name)
    assert stats.n_tokens == len(tokens)
    assert torch.allclose(stats.mean, counted.double() / len(tokens))
    assert torch.equal(source.decomposition(source.table.name, "groupreduce").order[:1], counted.argmax()[None])


def test_gradients_are_those_at_the_tables_output():
    """The Fisher information of one token's vector, by finite differences of the logits."""
    model = build("bert").double()
    table, _ = find_table(model, examples()[0])
    batch = {key: value[:1] for key, value in examples()[0].items()}
    [(_, stats)] = calibrate(model, [table], [batch])
    n = int(batch["attention_mask"].sum())
    weight = model.get_input_embeddings().weight
    hidden = weight[batch["input_ids"]].detach().requires_grad_(True)
    rest = {"attention_mask": batch["attention_mask"]}
    jacobian = torch.autograd.functional.jacobian(lambda x: model(inputs_embeds=x, **rest).logits[0], hidden)[:, 0]
    p = logits(model, batch)[0].softmax(0)
    fisher = torch.diag(p) - torch.outer(p, p)
    wanted = sum(jacobian[:, t].mT @ fisher @ jacobian[:, t] for t in range(n)) / n
    assert torch.allclose(stats.out_gram, wanted, atol=1e-6 * float(wanted.abs().max()))


REFUSED = {
    "gpt2-lm": "tied to lm_head",
    "llama-lm-tied": "tied to lm_head",
    "albert": "too small",
    "gemma2": "a Gemma2TextScaledWordEmbedding, which does not run as a plain look-up",
}


@pytest.mark.parametrize("family", REFUSED)
def test_a_table_that_cannot_be_compressed_alone_says_why(family):
    table, reasons = find_table(build(family), examples()[0])
    assert table is None
    assert REFUSED[family] in next(iter(reasons.values()))


def test_a_table_of_another_class_says_so():
    torch.manual_seed(0)
    model = ARCHITECTURES["bart"]().eval()
    table, reasons = find_table(model, {"input_ids": torch.tensor([[5, 6, 2]]), "attention_mask": torch.ones(1, 3)})
    assert table is None
    assert "Embedding" in str(reasons)


class Peeking(nn.Module):
    """Reads its table in another way than by the look-up."""

    def __init__(self, read: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.table, self.read = nn.Embedding(60, 16), read

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def forward(self, input_ids, attention_mask):
        return transformers.modeling_outputs.CausalLMOutput(logits=self.read(self.table, input_ids))


READINGS = {
    "as a matrix": lambda table, ids: table(ids) @ table.weight.mT,
    "twice": lambda table, ids: table(ids) + table(ids.flip(1)),
    "of other numbers": lambda table, ids: table(ids // 2),
    "by its own rows where it has some": lambda table, ids: table(ids) + table.weight.flatten()[:1].sum(),
}


@pytest.mark.parametrize("reading", READINGS)
def test_a_table_that_is_read_in_another_way_is_found_by_trying(reading):
    table, reasons = find_table(Peeking(READINGS[reading]), examples()[0])
    assert table is None
    assert "more than one look-up" in reasons["table"]


def test_a_curve_is_measured_without_a_core_and_passes_through_what_was_measured():
    """With a core as large as the calibration data's vocabulary these would say that nothing is lost."""
    model = build("bert")
    source = Source(model)
    made = given_of(source)
    choices, errors = FORM.options(made, 1)
    place = FORM.reference(made.unit, choices, errors)
    others, shares = FORM.more_references(made.unit, choices)
    curve = Curve("t", "groupreduce", "embedding", tuple(choices), errors, place, others, shares)
    assert others
    assert not any(choices[at]["core"] for at in curve.measured.values())
    assert np.allclose(shares.sum(0), 1)
    scales = {key: 2.0 + number for number, key in enumerate(curve.measured)}
    loss = curve.loss(scales)
    for key, at in curve.measured.items():
        assert loss[at] == pytest.approx(scales[key] * errors[at])
    middle = next(
        c for c, choice in enumerate(choices) if choices[place]["rank"] > choice["rank"] > choices[others[0]]["rank"]
    )
    assert 2.0 < loss[middle] / errors[middle] < 3.0


def test_prices_are_those_of_the_built_model():
    model = build("bert")
    source = Source(model, others=True)
    units = list(source.units.values())
    costs = measure_costs(model, units, 2, 8)
    linear = next(unit.name for unit in units if unit.of == "matrix")
    for rank, core in ((0, 0), (3, 0), (5, 7), (0, 7)):
        choices = {source.table.name: embedding("groupreduce", rank, core), linear: low_rank("svd", 2)}
        candidate = Candidate.of(choices)
        told = costs.cost(candidate)
        with compressed(model, candidate, source):
            built = measure_costs(model, [], 2, 8).dense
        for quantity in ("flops", "params", "nonembedding-params", "memory"):
            assert told.get(quantity) == built.get(quantity), (rank, core, quantity)


def test_a_saved_model_gives_equal_logits_in_a_new_process(tmp_path):
    model = build("bert")
    source, batch = Source(model), examples()[0]
    with compressed(model, chosen(source, 3, 7), source):
        save_checkpoint(model, tmp_path / "small")
        save_dense(model, tmp_path / "dense")
        wanted = logits(model, batch)
    torch.save({"batch": batch, "wanted": wanted}, tmp_path / "asked.pt")
    program = f"""
import sys, torch, transformers
sys.modules["autolr"] = None  # as if it were not installed
asked = torch.load({str(tmp_path / "asked.pt")!r})
for name, trust in (("small", True), ("dense", False)):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        {str(tmp_path)!r} + "/" + name, trust_remote_code=trust).eval()
    with torch.no_grad():
        found = model(**asked["batch"]).logits
    assert (torch.equal if name == "small" else torch.allclose)(found, asked["wanted"]), name
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    again = load_checkpoint(tmp_path / "small")
    assert isinstance(again.get_input_embeddings(), LowRankEmbedding)
    assert torch.equal(logits(again, batch), wanted)


def test_a_refit_leaves_the_table_alone():
    model = build("bert")
    source = Source(model, others=True)
    linear = next(name for name, unit in source.units.items() if unit.of == "matrix")
    choices = {source.table.name: embedding("groupreduce", 3, 7), linear: low_rank("kfac", 2)}
    assert set(refit(model, Candidate.of(choices), source, examples())) == {linear}
    assert refit(model, chosen(source, 3, 7), source, examples()) == {}


def test_a_refit_makes_up_for_what_the_table_lost():
    model = build("bert")
    source = Source(model, others=True)
    linear = next(name for name, unit in source.units.items() if unit.of == "matrix")
    rank = source.unit(linear).break_even - 1
    both = Candidate.of({source.table.name: embedding("groupreduce", 1, 0), linear: low_rank("kfac", rank)})
    alone = Candidate.of({linear: low_rank("kfac", rank)})
    asked = {"both": both, "alone": alone}
    found = {name: refit(model, candidate, source, examples())[linear] for name, candidate in asked.items()}
    fed = []
    hook = model.get_submodule(linear).register_forward_pre_hook(lambda _module, args: fed.append(args[0]))
    with torch.no_grad():
        model(**examples()[0])
        with compressed(model, Candidate.of({source.table.name: embedding("groupreduce", 1, 0)}), source):
            model(**examples()[0])
    hook.remove()
    mask = examples()[0]["attention_mask"].bool()
    dense, small = (x[mask] for x in fed)
    wanted = model.get_submodule(linear)(dense)
    off = {name: float((small @ (c.left @ c.right).mT + c.bias - wanted).norm()) for name, c in found.items()}
    assert off["both"] < 0.95 * off["alone"]


def test_a_tables_time_is_that_of_its_rank(monkeypatch):
    model = build("bert")
    source = Source(model)
    costs = measure_costs(model, [source.table], 1, 8)
    monkeypatch.setattr("autolr.cost.time_layers.MAX_SECONDS", 0.05)
    monkeypatch.setattr("autolr.cost.measure_latency.MODEL_SECONDS", 0.1)
    table = measure_latency(model, [source.table], [FORM], costs.rows, Conditions(1, 8, "float32"), Silent())
    times = table.layers[table.shapes[source.table.name]]
    assert times.dense > 0
    assert times.at(source.table, embedding("groupreduce", 3, 5)) > 0
    assert len(times.forms["embedding"]) == len(FORM.terms(source.table, embedding("groupreduce", 3, 5)))


@pytest.mark.parametrize(
    ("budgets", "asked", "offered"),
    [
        (["0.5x-params"], {}, True),
        (["0.5x-flops", "40MB-memory"], {}, True),
        (["0.5x-flops"], {}, False),
        (["0.5x-nonembedding-params"], {}, False),
        (["0.5x-params"], {"search": {"methods": ["svd"]}}, False),
        (["0.5x-params"], {"search": {"space": "per-layer"}}, False),
        (["0.5x-params"], {"run": {"stream": True}}, False),
    ],
)
def test_tables_are_offered_where_a_budget_counts_them(budgets, asked, offered):
    spec = make_spec({"budgets": budgets, **asked}, "test")
    names = default_forms(spec, matrix_methods(spec.search.methods))
    assert names[-1:] == TABLE_FORMS if offered else set(TABLE_FORMS).isdisjoint(names)
    older = default_forms(spec, matrix_methods(spec.search.methods), {"method kfac": 1})
    assert set(older) <= {*MATRIX_FORMS, *GROUP_FORMS}


def asked(tmp_path, *more: str) -> list[str]:
    options = write_inputs(tmp_path / "inputs")
    data = [str(word) for pair in options.items() for word in pair]
    return [*data, "--method", "kfac", "--multiple", "2", "--study", str(tmp_path / "study"), *more]


def test_a_study_of_parameters_compresses_the_table(tmp_path):
    given = asked(tmp_path, "--budget", "0.22x-params", "--trials", "6")
    done = CliRunner().invoke(app, ["search", *given], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    members = json.loads(CliRunner().invoke(app, ["front", str(tmp_path / "study"), "--json"]).stdout)["members"]
    forms = {choice.get("form") for member in members for choice in member["candidate"].values()}
    assert "embedding" in forms
    resumed = CliRunner().invoke(app, ["resume", str(tmp_path / "study"), "--trials", "7"], catch_exceptions=False)
    assert resumed.exit_code == 0, resumed.stderr
    told = CliRunner().invoke(app, ["estimate", *given[:-2]], catch_exceptions=False)
    assert told.exit_code == 0, told.stderr


def test_a_study_that_began_before_there_were_tables_goes_on_without(tmp_path, monkeypatch):
    with monkeypatch.context() as before:
        before.setattr("autolr.problem.TABLE_FORMS", ())
        given = asked(tmp_path, "--budget", "0.9x-params", "--trials", "3", "--no-refit")
        done = CliRunner().invoke(app, ["search", *given], catch_exceptions=False)
        assert done.exit_code == 0, done.stderr
    resumed = CliRunner().invoke(app, ["resume", str(tmp_path / "study"), "--trials", "4"], catch_exceptions=False)
    assert resumed.exit_code == 0, resumed.stderr
    assert '"form": "embedding"' not in (tmp_path / "study" / "front.json").read_text(encoding="utf-8")


def test_the_table_alone_may_be_asked_for(tmp_path):
    given = asked(tmp_path, "--budget", "0.97x-params", "--trials", "3", "--form", "embedding")
    done = CliRunner().invoke(app, ["search", *given], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    refused = CliRunner().invoke(app, ["search", *given[:-2], "--stream", "--form", "embedding", "--study", "s"])
    assert refused.exit_code == 2
    assert "--stream" in refused.stderr


def test_its_method_is_none_for_matrices():
    with pytest.raises(UsageError, match="groupreduce is for tables of token vectors and comes with --form embedding"):
        matrix_methods(["groupreduce"])
    assert FORMS.get("embedding").of == "embedding"
