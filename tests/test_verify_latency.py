"""How many processes time a checkpoint: as many as its verdict needs."""

from types import SimpleNamespace

import pytest

from autolr.progress import Silent
from autolr.results.bench import Timing
from autolr.spec.study import make_spec
from autolr.types import Conditions
from autolr.workflows import verify_latency as verification

CONDITIONS = Conditions(2, 8, "float32")


def inputs(*budgets: str) -> SimpleNamespace:
    dense = SimpleNamespace(conditions=CONDITIONS)
    return SimpleNamespace(spec=make_spec({"budgets": budgets}, "test"), costs=SimpleNamespace(dense=dense))


def timed(monkeypatch: pytest.MonkeyPatch, *ratios: float, budget: str = "0.5x-latency", half: float = 0.01):
    """Return the check of a checkpoint whose processes see these ratios of 20 ms, each within so much."""
    seen = iter(ratios)

    def run(*_) -> Timing:
        ratio = next(seen)
        seconds = 0.02 * ratio
        return Timing(seconds, seconds, seconds, ratio, ratio - half, ratio + half, 12, True)

    monkeypatch.setattr(verification, "_run", run)
    return verification.time_checkpoint(inputs(budget), "folder", Silent())


def test_two_processes_are_enough_where_both_intervals_are_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    check = timed(monkeypatch, 0.45, 0.47)
    assert (len(check.processes), check.within, check.ratio) == (2, True, pytest.approx(0.46))
    check = timed(monkeypatch, 0.55, 0.52)
    assert (len(check.processes), check.within) == (2, False)


def test_where_an_interval_reaches_the_budget_more_than_half_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    check = timed(monkeypatch, 0.45, 0.495, 0.49)
    assert (len(check.processes), check.within) == (3, True)
    check = timed(monkeypatch, 0.45, 0.51, 0.52, 0.505)
    assert (len(check.processes), check.within) == (4, False)


def test_the_verdict_is_that_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    check = timed(monkeypatch, 0.45, 0.51, 0.52, 0.49, 0.495)
    assert (len(check.processes), check.within, check.ratio) == (5, True, 0.495)
    assert check.ratio_range == (0.45, 0.52)


def test_a_budget_in_milliseconds_is_judged_by_the_same_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(timed(monkeypatch, 0.45, 0.47, budget="10ms-latency").processes) == 2
    assert len(timed(monkeypatch, 0.45, 0.495, 0.49, budget="10ms-latency").processes) == 3
