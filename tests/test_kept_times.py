"""Times that studies on one machine share: measured once, held against the clock, anew where they are stale."""

import stat
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from autolr.checkpoint.runtime import rewrites
from autolr.cost import kept_times
from autolr.cost import price as pricing
from autolr.cost.kept_times import read_times
from autolr.cost.latency_model import LatencyTable, LayerTimes
from autolr.cost.price import price
from autolr.errors import UsageError
from autolr.forms import get_forms
from autolr.machine.private_folder import cache_folder
from autolr.model.units import find_units
from autolr.progress import Silent
from autolr.results.bench import Timing
from autolr.spec.study import make_spec
from autolr.types import Candidate

REWRITE = "fused-activation"


class Notes(Silent):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    @property
    def last(self) -> str:
        return self.notes[-1]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOLR_CACHE", str(tmp_path / "cache" / "autolr"))
    return tmp_path / "cache" / "autolr"


class Machine:
    """A clock that is slower than predicted by a factor, and a count of what was measured."""

    measured, slower, scatter = 0, 1.0, 0.0

    def measure(self, model, units, forms, rows, conditions, progress) -> LatencyTable:
        self.measured += 1
        layers = {"a": LayerTimes(0.05, {"low-rank": (0.001, 0.002, 0.001)})}
        shapes = {unit.name: "a" for unit in units}
        return LatencyTable(20.0, layers, {unit.name: unit for unit in units}, shapes, 0.3, 1.0, ((1.0, 1.02),))

    def time(self, model, candidates, units, *_) -> list[Timing]:
        table = self.measure(model, units, (), {}, None, None)
        self.measured -= 1
        ratios = [1.0, *(table.share(candidate) * self.slower for candidate in candidates)]
        ends = (1 - self.scatter, 1 + self.scatter)
        return [Timing(0.03, 0.03, 0.03, r, r * ends[0], r * ends[1], 12, True) for r in ratios]


@pytest.fixture
def machine(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(pricing, "measure_latency", machine.measure)
    monkeypatch.setattr(pricing, "rewrite", lambda model, *_: rewrites.apply(model, REWRITE))
    monkeypatch.setattr(kept_times, "time_candidates", machine.time)
    return machine


def priced(progress: Silent, file: Path | None = None, forms: tuple[str, ...] = ("low-rank",), **run: object):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = BertForSequenceClassification(BertConfig(**sizes, vocab_size=50, num_labels=3)).eval()
    spec = make_spec({"budgets": ["0.5x-latency"], "run": {"batch_size": 2, **run}}, "test")
    costs = price(model, find_units(model).units, get_forms(forms), spec, 8, file, progress)
    return model, costs


def test_a_second_study_takes_the_first_ones_times_and_rewrites(machine: Machine) -> None:
    said = Notes()
    _, first = priced(said)
    model, second = priced(said)
    assert machine.measured == 1
    assert "layers are not timed again: times of 20" in said.last
    assert rewrites.applied(model) == [REWRITE]
    assert second.latency.share(Candidate()) == first.latency.share(Candidate())
    assert second.dense.latency == 30.0  # as the dense model is timed now


@pytest.mark.parametrize("change", [{"batch_size": 4}, {"lengths": [8, 4]}, {"threads": 1}])
def test_under_other_conditions_times_are_measured(machine: Machine, change: dict[str, object]) -> None:
    priced(Notes())
    priced(Notes(), **change)
    assert machine.measured == 2


def test_forms_and_their_versions_are_among_the_conditions(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    priced(Notes())
    priced(Notes(), forms=("low-rank", "low-rank-rows"))
    assert machine.measured == 2
    monkeypatch.setattr(type(get_forms(["low-rank"])[0]), "version", 7)
    priced(Notes())
    assert machine.measured == 3


def test_times_that_the_clock_no_longer_agrees_with_are_measured_anew(machine: Machine) -> None:
    said = Notes()
    priced(said)
    machine.slower = 1.3
    model, _ = priced(said)
    assert machine.measured == 2
    assert any(
        "are measured anew: two models differ from them by up to 23.1 %, more than 5.0 %" in n for n in said.notes
    )
    assert rewrites.applied(model) == [REWRITE]
    machine.slower = 1.02
    priced(said)
    assert machine.measured == 2


def test_a_clock_that_scatters_by_as_much_is_no_evidence_against_them(machine: Machine) -> None:
    said = Notes()
    priced(said)
    machine.slower, machine.scatter = 1.3, 0.25
    priced(said)
    assert machine.measured == 1


def test_they_are_measured_anew_on_demand_and_then_kept(machine: Machine) -> None:
    said = Notes()
    priced(said)
    priced(said, remeasure=True)
    assert machine.measured == 2
    priced(said)
    assert machine.measured == 2


def test_a_study_goes_on_with_its_own_times_whatever_the_machine_has(machine: Machine, tmp_path: Path) -> None:
    file = tmp_path / "latency.json"
    _, first = priced(Notes(), file)
    priced(Notes(), remeasure=True)
    machine.slower = 2.0
    _, again = priced(Notes(), file)
    assert machine.measured == 2
    assert again.latency == first.latency
    assert not read_times(file)["tuned"]


def test_a_damaged_file_is_as_none(machine: Machine, cache: Path) -> None:
    priced(Notes())
    [file] = cache.glob("latency/*.json")
    file.write_text("{")
    priced(Notes())
    assert machine.measured == 2


def test_where_nothing_can_be_kept_it_is_said(machine: Machine, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.parent.write_text("")
    said = Notes()
    priced(said)
    assert "the times are kept for this study alone" in said.last


def test_to_measure_anew_is_no_other_study() -> None:
    plain = {"budgets": ["0.5x-latency"]}
    anew = make_spec(plain | {"run": {"remeasure": True}}, "test")
    assert anew.identity() == make_spec(plain, "test").identity()


def test_the_cache_is_its_owners_alone(cache: Path, tmp_path: Path) -> None:
    assert cache_folder() == cache
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    cache.rmdir()
    cache.symlink_to(tmp_path)
    with pytest.raises(UsageError, match=r"got lrwx.*; remove it, or set AUTOLR_CACHE to a folder of your own"):
        cache_folder()


def test_the_cache_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUTOLR_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "autolr"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "autolr"
