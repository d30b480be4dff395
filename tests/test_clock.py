"""Timing in turn: the statistics against their definition, the comparison on things whose times are known."""

import time
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import binom

from autolr.cost.clock import CONFIDENCE, MIN_ROUNDS, compare, median_interval


def sleeping(seconds: float):
    return lambda: time.sleep(seconds)


@pytest.mark.parametrize("n", [1, 2, 5, 6, 9, 12, 25, 100])
def test_a_medians_interval_covers_it_as_often_as_it_says(n: int) -> None:
    """P(median below the k-th smallest) = P(fewer than k of n fair coins), so the coverage is a binomial sum."""
    low, high = median_interval(np.arange(n))
    inside = range(int(low) + 1, int(high) + 1)  # how many values lie below the median, if it is inside
    coverage = sum(binom.pmf(k, n, 0.5) for k in inside)
    if n < 6:
        assert (low, high) == (0, n - 1)  # no interval of so few values has the confidence: all of them
    else:
        assert coverage >= CONFIDENCE
        if high - low > 1 and n > 6:
            assert sum(binom.pmf(k, n, 0.5) for k in range(int(low) + 2, int(high))) < CONFIDENCE


def test_ratios_of_known_times() -> None:
    found = compare({"a": sleeping(0.004), "b": sleeping(0.008)}, threads=1, precision=0.1, max_seconds=10.0)
    assert found["a"].ratio == found["a"].ratio_low == found["a"].ratio_high == 1.0
    assert 1.5 < found["b"].ratio < 2.5
    assert found["b"].ratio_low <= found["b"].ratio <= found["b"].ratio_high
    assert 0.004 <= found["a"].low <= found["a"].median <= found["a"].high
    assert found["a"].rounds >= MIN_ROUNDS


def test_a_precision_out_of_reach_is_said() -> None:
    rng = np.random.default_rng(0)
    found = compare(
        {"a": sleeping(0.001), "b": lambda: time.sleep(rng.uniform(0.001, 0.004))},
        threads=1,
        precision=1e-9,
        max_seconds=0.2,
    )
    assert not found["b"].settled


def test_the_order_rotates_and_the_number_of_threads_is_put_back() -> None:
    before = torch.get_num_threads()
    seen: list[str] = []
    threads: set[int] = set()

    def run(name: str):
        def body() -> None:
            seen.append(name)
            threads.add(torch.get_num_threads())
            time.sleep(0.02)

        return body

    compare({name: run(name) for name in "abc"}, threads=1, precision=0.5, max_seconds=1.0)
    assert threads == {1}
    assert torch.get_num_threads() == before
    firsts = [name for name, previous in zip(seen[1:], seen, strict=False) if name != previous]
    assert all(a + b in "".join(firsts) for a, b in combinations("abc", 2))
    assert "ca" in "".join(firsts)


def test_what_takes_as_long_as_a_block_runs_once_in_each_besides_the_run_before() -> None:
    calls = {"short": 0, "long": 0}

    def run(name: str, seconds: float):
        def body() -> None:
            calls[name] += 1
            time.sleep(seconds)

        return body

    runs = {"short": run("short", 0.002), "long": run("long", 0.006)}
    found = compare(runs, threads=1, precision=1.0, max_seconds=0.1, block_seconds=0.006)
    assert found["long"].rounds == MIN_ROUNDS
    assert calls["long"] == 4 + 2 * MIN_ROUNDS
    assert calls["short"] > calls["long"]


def test_a_check_may_stop_it() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare({"a": sleeping(0.001)}, check=stop)
