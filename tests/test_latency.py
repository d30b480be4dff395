"""Predicted latency against its definition, and studies under latency budgets."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from nli_fixture import write_inputs
from optuna.trial import FrozenTrial
from tiny import sized
from transformers import BertConfig, BertForSequenceClassification
from typer.testing import CliRunner, Result

from autolr.cli import app
from autolr.cost import choose_rewrites as rewriting
from autolr.cost import clock, measure_costs, time_layers
from autolr.cost import measure_latency as timing
from autolr.cost.forward import forward_inputs, shared_copy
from autolr.cost.latency_model import LatencyTable, LayerTimes, fit, leave_one_out
from autolr.errors import BudgetError, UsageError
from autolr.forms import FORMS
from autolr.forms.neurons import neurons
from autolr.model.units import find_units
from autolr.optimization.preparation import build_bank
from autolr.optimization.study.folder import StudyFolder
from autolr.optimization.study.front import feasible, finished
from autolr.problem import open_inputs
from autolr.progress import Silent
from autolr.results import LatencyCheck
from autolr.spec.study import StudySpec, make_spec
from autolr.types import Candidate, Conditions, Unit
from autolr.workflows import conclude as run_module
from autolr.workflows import rehearse
from autolr.workflows import tune_latency as tuning
from autolr.workflows.search import run_search

RANKS = (0.01, 0.02, 0.0025)  # at rank 0, of two factors, of each rank
ATTENTION = LayerTimes(0.1, {"low-rank": RANKS, "low-rank-rows": (*RANKS, 0.005)})
UNITS = {name: Unit(name, name, 0, 1, 40, 40) for name in ("one", "two")}
TABLE = LatencyTable(
    dense_ms=20.0,
    layers={"a": ATTENTION},
    units=UNITS,
    shapes={"one": "a", "two": "a"},
    fixed=0.25,
    slope=1.5,
    checks=((0.5, 0.4), (0.9, 1.0)),
)


def test_a_share_is_what_is_fixed_and_each_layers_own_time() -> None:
    assert TABLE.share(Candidate()) == pytest.approx(0.25 + 1.5 * 0.2)
    some = Candidate.of({"one": sized("svd", 12), "two": sized("svd", 8, 2)})
    assert TABLE.share(some) == pytest.approx(0.25 + 1.5 * (0.05 + 0.04 + 0.01))
    saved = sum(TABLE.saving(UNITS[name], choice) for name, choice in some.choices)
    assert TABLE.uncompressed_ms() - saved == pytest.approx(TABLE.share(some) * 20.0)


def test_a_choice_that_is_slower_than_dense_saves_less_than_nothing() -> None:
    slow = LayerTimes(0.05, {"low-rank": RANKS})
    table = LatencyTable(10.0, {"a": slow}, UNITS, {"one": "a"}, 0.5, 1.0, ((1.0, 1.0),))
    assert table.saving(UNITS["one"], sized("svd", 16)) == pytest.approx(-0.1)


def test_a_unit_of_several_matrices_saves_what_they_take_and_what_lies_between_them() -> None:
    """Attention or an activation between its matrices is no part of their own times, and goes with them."""
    pair = Unit("pair", "pair", 0, 1, 40, 40, matrices=tuple(UNITS.values()))
    layers = {"a": ATTENTION, "b": LayerTimes(0.07, {"neurons": (0.05, 0.001)})}
    shapes = {"one": "a", "two": "a", "pair": "b"}
    table = LatencyTable(10.0, layers, UNITS | {"pair": pair}, shapes, 0.5, 1.0, ())
    candidate = Candidate.of({"pair": neurons("obs", 1)})
    assert table.share(Candidate()) == pytest.approx(0.5 + 0.1 + 0.1)
    assert table.share(candidate) == pytest.approx(0.7 - (0.1 + 0.1 + 0.07) + 0.05 + 0.001 * 80)


def test_the_weights_of_a_forms_terms_are_fitted_to_the_choices_that_were_timed() -> None:
    unit = UNITS["one"]
    timed = {sized("", rank): 0.02 + 0.003 * rank for rank in (4, 8, 16)} | {sized("", 0): 0.001}
    found = LayerTimes.fitted(unit, 0.1, timed)
    assert found.forms["low-rank"] == pytest.approx((0.001, 0.02, 0.003))
    assert found.at(unit, sized("svd", 12)) == pytest.approx(0.056)


def test_a_table_comes_back_from_json_and_scales() -> None:
    assert LatencyTable.from_json(json.loads(json.dumps(TABLE.to_json())), UNITS) == TABLE
    some = Candidate.of({"one": sized("svd", 4)})
    assert TABLE.scaled(1.1).share(some) == pytest.approx(1.1 * TABLE.share(some))
    assert TABLE.errors == pytest.approx([0.25, 0.1])


def with_constant(alone) -> np.ndarray:
    return np.column_stack([np.ones(len(alone)), alone])


def test_the_fit_is_least_relative_squares_without_negative_parts() -> None:
    rng = np.random.default_rng(0)
    alone, measured = rng.uniform(0.1, 1, 20), rng.uniform(0.3, 1, 20)
    fixed, slope = fit(with_constant(alone), measured)
    grid = [(f, s) for f in np.linspace(0, 1.5, 151) for s in np.linspace(0, 1.5, 151)]
    losses = [(((f + s * alone) / measured - 1) ** 2).sum() for f, s in grid]
    assert (((fixed + slope * alone) / measured - 1) ** 2).sum() <= min(losses) + 1e-9
    assert fit(with_constant([0.1, 0.5, 0.9]), [0.9, 0.5, 0.1])[1] == 0.0  # more work never takes less time


def test_each_check_is_predicted_from_the_others() -> None:
    alone, measured = [0.1, 0.4, 0.8, 1.0], [0.3, 0.6, 1.0, 9.9]
    pairs = leave_one_out(with_constant(alone), measured)
    assert pairs[3] == pytest.approx((1.2, 9.9))
    assert [measured for _, measured in pairs] == measured


def wide_model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 4}
    return BertForSequenceClassification(BertConfig(**sizes, vocab_size=100, num_labels=3)).eval()


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time_layers, "MAX_SECONDS", 0.3)
        patch.setattr(timing, "MODEL_SECONDS", 0.5)
        patch.setattr(timing, "N_MODELS", 5)
        patch.setattr(rewriting, "_SECONDS", 0.3)
        patch.setattr(clock, "BLOCK_SECONDS", 0.003)
        patch.setattr(tuning, "_SECONDS", 0.3)
        yield


@pytest.mark.usefixtures("quick")
def test_a_measured_table_knows_that_less_work_takes_less_time() -> None:
    model = wide_model()
    units = find_units(model).units
    costs = measure_costs(model, units, 4, 32, threads=1)
    table = timing.measure_latency(model, units, tuple(FORMS), costs.rows, costs.dense.conditions, Silent())
    whole = costs.with_latency(table)
    small = Candidate.of({u.name: sized("svd", 8) for u in units if u.break_even > 8})
    assert 0 < table.share(small) < 0.8 < table.share(Candidate()) < 1.2
    assert whole.dense.latency == table.dense_ms > 0
    assert whole.cost(small).latency == pytest.approx(table.share(small) * table.dense_ms)
    assert set(whole.cost(small).ratios(whole.dense)) == {*costs.dense.quantities, "latency"}


def test_a_copy_shares_every_tensor_and_no_module() -> None:
    model = wide_model()
    copied = shared_copy(model)
    assert {id(t) for t in copied.state_dict(keep_vars=True).values()} == {
        id(t) for t in model.state_dict(keep_vars=True).values()
    }
    assert not {id(m) for m in copied.modules()} & {id(m) for m in model.modules()}


def test_a_batch_has_the_profiles_lengths() -> None:
    conditions = Conditions(5, 12, "float32", lengths=(12, 7))
    found = forward_inputs(wide_model(), conditions)
    assert found["attention_mask"].sum(1).tolist() == [12, 7, 12, 7, 12]
    assert found["input_ids"].shape == (5, 12)


PLAIN = {"methods": ["kfac"], "multiple": 8, "refit": False}


def study_spec(inputs: dict[str, str], **changes: object) -> StudySpec:
    data = {name.removeprefix("--"): value for name, value in inputs.items() if name != "--model"}
    plain = {
        "model": inputs["--model"],
        "data": data | {"search_examples": 40, "selection_examples": 40},
        "budgets": ["0.7x-latency"],
        "trials": 7,
        "search": {"methods": ["kfac"], "multiple": 8},
        "run": {"threads": 1, "batch_size": 4, "seq_len": 32},
        **changes,
    }
    return make_spec(plain, "test")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tiny pairs with a model large enough that low rank saves time."""
    found = write_inputs(tmp_path_factory.mktemp("latency") / "inputs")
    small = BertForSequenceClassification.from_pretrained(found["--model"])
    config = BertConfig(**{**small.config.to_dict(), "hidden_size": 256, "intermediate_size": 1024})
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(found["--model"])
    return found


@pytest.fixture(scope="module")
def measured(quick: None, inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what every study of these inputs would measure and decompose first."""
    folder = StudyFolder(tmp_path_factory.mktemp("measured") / "study")
    build_bank(open_inputs(study_spec(inputs), Silent(), folder.latency_file), folder.bank, Silent())
    return folder.path


@pytest.fixture
def folder(measured: Path, tmp_path: Path) -> StudyFolder:
    """The folder of a study that goes on from there."""
    return StudyFolder(Path(shutil.copytree(measured, tmp_path / "study")))


@pytest.fixture
def whole_front(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every compressed trial within the budget is a member, also where the clock's noise lets one dominate the rest."""

    def compressed(study: optuna.Study) -> list[FrozenTrial]:
        return [trial for trial in finished(study) if feasible(trial) and trial.user_attrs["candidate"]]

    monkeypatch.setattr(run_module, "front_trials", compressed)


def clock_of(ratio: float) -> LatencyCheck:
    return LatencyCheck(1.0, ratio, (ratio, ratio), ((ratio, ratio, ratio),), ratio <= 0.7)


@pytest.mark.usefixtures("quick", "whole_front")
def test_the_winner_is_the_first_that_meets_the_budget_in_a_process_of_its_own(
    inputs: dict[str, str], folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def slow_first(_inputs, checkpoint, _progress):
        seen.append(checkpoint)
        return clock_of(0.71 if len(seen) == 1 else 0.6)

    monkeypatch.setattr(run_module, "time_checkpoint", slow_first)
    path = folder.path
    assert not json.loads(folder.latency_file.read_text())["tuned"]
    result = run_search(study_spec(inputs), folder, Silent())
    assert len(seen) == 2
    assert result.reached
    assert path / result.checkpoint == seen[1]
    assert result.report.latency.ratio == 0.6
    card = (path / result.checkpoint / "README.md").read_text()
    assert "Timed in 1 processes of its own" in card
    stored = json.loads((path / "latency.json").read_text())
    assert stored["tuned"]
    assert "first-position" in stored["rewrites"]
    config = json.loads((path / result.checkpoint / "config.json").read_text())
    assert config["quantization_config"]["rewrites"] == stored["rewrites"]


@pytest.fixture
def rehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock's process has been tried, as the first study and test_rehearsal.py try it."""
    monkeypatch.setattr(rehearse, "time_checkpoint", lambda *_, **__: None)


@pytest.mark.usefixtures("quick", "whole_front", "rehearsed")
def test_when_none_meets_the_budget_the_fastest_is_exported_and_it_is_said(
    inputs: dict[str, str], folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratios = iter((0.9, 0.75, 0.8, 0.85, 0.9, 0.9))
    monkeypatch.setattr(run_module, "time_checkpoint", lambda *_: clock_of(next(ratios)))
    result = run_search(study_spec(inputs, search=PLAIN), folder, Silent())
    assert not result.reached
    assert result.report.latency.ratio == 0.75


@pytest.mark.usefixtures("quick", "rehearsed")
def test_a_study_that_goes_on_keeps_the_times_it_began_with(
    inputs: dict[str, str], folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "time_checkpoint", lambda *_: clock_of(0.6))
    run_search(study_spec(inputs, trials=4, search=PLAIN), folder, Silent())
    before = folder.latency_file.read_text()
    run_search(study_spec(inputs, trials=6, search=PLAIN), folder, Silent())
    assert folder.latency_file.read_text() == before


@pytest.mark.usefixtures("quick")
def test_a_budget_below_the_measured_floor_names_it(inputs: dict[str, str], folder: StudyFolder) -> None:
    with pytest.raises(
        BudgetError,
        match=r"0\.01x-latency is not reachable.*still takes [\d.]+ ms, 0\.\d+x of dense; the nearest reachable budget "
        r"is 0\.\d+x-latency, since 4% of a budget in time is left free",
    ):
        run_search(study_spec(inputs, budgets=["0.01x-latency"]), folder, Silent())


def test_lengths_beyond_the_sequence_are_refused(inputs: dict[str, str], tmp_path: Path) -> None:
    run = {"threads": 1, "seq_len": 16, "lengths": [32]}
    with pytest.raises(UsageError, match=r"lengths \[32\] go beyond --seq-len 16"):
        run_search(study_spec(inputs, run=run), StudyFolder(tmp_path / "study"), Silent())


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["bench", *arguments])


def test_bench_compares_checkpoints(inputs: dict[str, str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = BertForSequenceClassification.from_pretrained(inputs["--model"]).config.to_dict()
    config = BertConfig(**{**base, "num_hidden_layers": 8})
    BertForSequenceClassification(config).save_pretrained(tmp_path / "deep")
    profile = tmp_path / "profile.yaml"
    profile.write_text("batch_size: 2\nseq_len: 24\nlengths: [24, 9]\nthreads: 1\n")
    done = bench(inputs["--model"], str(tmp_path / "deep"), "--profile", str(profile), "--max-seconds", "2", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["conditions"]["lengths"] == [24, 9]
    assert found["conditions"]["threads"] == 1
    assert found["models"][0]["ratio"] == 1.0
    assert found["models"][1]["ratio"] > 2


def test_bench_takes_a_length_that_all_models_take(inputs: dict[str, str]) -> None:
    positions = BertForSequenceClassification.from_pretrained(inputs["--model"]).config.max_position_embeddings
    done = bench(inputs["--model"], "--max-seconds", "1", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["conditions"]["seq_len"] == min(128, positions)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--device", "cuda:7"], "cannot be used here"),
        (["--seq-len", "4096"], "positions"),
        (["--lengths", "12,x"], "must be whole numbers above zero"),
        (["--profile", "nosuch.yaml"], "cannot read nosuch.yaml"),
    ],
)
def test_bench_refuses_bad_input(inputs: dict[str, str], arguments: list[str], complaint: str) -> None:
    done = bench(inputs["--model"], *arguments)
    assert done.exit_code == 2
    assert complaint in done.stderr


def test_a_profile_with_something_else_in_it_is_refused(inputs: dict[str, str], tmp_path: Path) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_text("batch: 2\n")
    done = bench(inputs["--model"], "--profile", str(profile))
    assert done.exit_code == 2
    assert "did you mean batch_size" in done.stderr
