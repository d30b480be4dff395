"""Predictions are tuned to the clock on the knapsack's solution, in as few rounds as the clock's scatter allows."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny import sized

from autolr.allocation.knapsack import Menu
from autolr.cost.kept_times import read_times, store_times
from autolr.cost.latency_model import LatencyTable, LayerTimes
from autolr.forms.neurons import neurons
from autolr.progress import Silent
from autolr.results.bench import Timing
from autolr.types import Candidate, Unit
from autolr.workflows import tune_latency as tuning

MATRICES = {name: Unit(name, name, 0, 1, 40, 40) for name in ("a", "b")}
UNITS = MATRICES | {"pair": Unit("pair", "pair", 0, 1, 40, 40, matrices=tuple(MATRICES.values()))}
CHOICES = {"a": sized("svd", 8), "b": sized("svd", 8), "pair": neurons("obs", 8)}
LAYERS = {"m": LayerTimes(0.3, {"low-rank": (0.0, 0.1, 0.0)}), "p": LayerTimes(0.0, {"neurons": (0.2, 0.0)})}
TABLE = LatencyTable(100.0, LAYERS, UNITS, {"a": "m", "b": "m", "pair": "p"}, 0.4, 1.0, ((1.0, 1.0),))


@dataclass(frozen=True)
class Costs:
    latency: LatencyTable
    units: Any = None

    def with_latency(self, table: LatencyTable) -> "Costs":
        return Costs(table, UNITS)


@dataclass(frozen=True)
class Inputs:
    costs: Costs
    relative_limits: Any
    spec: Any


@pytest.fixture
def menus(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pair alone saves too little; with one of its own matrices it would seem to be the best."""
    saved = {"a": (1.0, 10.0), "b": (1.0, 10.0), "pair": (0.1, 12.0)}
    found = [
        Menu.of_unit(name, [None, CHOICES[name]], np.array([0.0, loss]), {"latency": np.array([0.0, -saving])})
        for name, (loss, saving) in saved.items()
    ]
    monkeypatch.setattr(tuning, "make_menus", lambda *_: found)
    monkeypatch.setattr(tuning, "check_reachable", lambda *_: None)


def tuned(monkeypatch: pytest.MonkeyPatch, file: Path, *ratios: float, scatter: float = 0.0):
    """Return the tuned table, the candidates that were timed, and what is stored."""
    seen: list[Candidate] = []

    def time(_inputs, candidate: Candidate, _progress) -> Timing:
        ratio = ratios[len(seen)]
        seen.append(candidate)
        return Timing(1, 1, 1, ratio, ratio * (1 - scatter), ratio * (1 + scatter), 12, True)

    monkeypatch.setattr(tuning, "_time_solution", time)
    store_times(file, "key", (), TABLE, tuned=False)
    inputs = Inputs(Costs(TABLE, UNITS), {"latency": -15.0}, SimpleNamespace(parsed_budgets=()))
    return tuning.tune(inputs, None, file, Silent()).costs.latency, seen, read_times(file)  # type: ignore[arg-type]


@pytest.mark.usefixtures("menus")
def test_a_pair_and_its_matrices_are_not_chosen_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, [solution], _ = tuned(monkeypatch, tmp_path / "latency.json", 0.6)
    assert set(solution.as_dict()) == {"a", "b"}


@pytest.mark.usefixtures("menus")
def test_the_solution_takes_what_it_took_and_nothing_is_timed_when_that_is_close(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table, seen, stored = tuned(monkeypatch, tmp_path / "latency.json", 0.66, 0.662)
    assert table.share(seen[0]) == pytest.approx(0.662)
    assert len(seen) == 2
    assert stored["tuned"]


@pytest.mark.usefixtures("menus")
def test_a_clock_that_scatters_more_than_it_is_off_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, seen, _ = tuned(monkeypatch, tmp_path / "latency.json", 0.63, scatter=0.08)
    assert len(seen) == 1
