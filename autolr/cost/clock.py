"""Times of things that are to be compared, taken in turn, so that a clock that drifts drifts for all of them.

A round runs everything once, in an order that rotates. What is compared is the ratio inside a round; its median over
the rounds has a confidence interval that needs no assumption about the noise. On a GPU times come from CUDA events.

``torch.utils.benchmark.Timer`` warms up twice before every block it times: of a model's pass, repeated once or twice in
a block, that is most of the time spent. Here a block is preceded by one run.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from scipy.stats import binom

from autolr.machine import locks
from autolr.results.bench import Timing

Run = Callable[[], object]

CONFIDENCE = 0.95
MIN_ROUNDS = 12
BLOCK_SECONDS = 0.03
"""Least duration of one timed block where nothing is said."""


def compare(
    runs: Mapping[str, Run],
    *,
    device: torch.device | None = None,
    threads: int | None = None,
    precision: float = 0.01,
    max_seconds: float = 60.0,
    block_seconds: float | None = None,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Timing]:
    """Time several runs against the first one, while no process of this machine evaluates a candidate.

    Args:
        runs: name -> what to run; the first is the reference of all ratios.
        device: where they run; a CUDA device is timed by events.
        threads: CPU threads; None: torch's own number.
        precision: rounds are added until every ratio's confidence interval reaches at most this share of the ratio to
            either side.
        max_seconds: no round begins later than this.
        block_seconds: least duration of one timed block; shorter runs are repeated inside it; None: ``BLOCK_SECONDS``.
        check: called between rounds; may raise to stop.

    Returns:
        Name -> timing, in the order of ``runs``.

    Example:
        >>> x = torch.zeros(64, 64)
        >>> found = compare({"one": lambda: x @ x, "two": lambda: x @ x @ x}, threads=1, max_seconds=0.5)
        >>> found["one"].ratio, found["two"].ratio > 1
        (1.0, True)
    """
    with locks.measuring(check):
        return _compare(runs, device, threads, precision, max_seconds, block_seconds or BLOCK_SECONDS, check)


def _compare(
    runs: Mapping[str, Run],
    device: torch.device | None,
    threads: int | None,
    precision: float,
    max_seconds: float,
    block_seconds: float,
    check: Callable[[], None],
) -> dict[str, Timing]:
    timers = {name: _timer(run, device, threads) for name, run in runs.items()}
    started = time.monotonic()
    numbers = {name: _repeats(timer, block_seconds) for name, timer in timers.items()}
    names = list(runs)
    rounds: list[list[float]] = []
    while True:
        check()
        turn = len(rounds) % len(names)
        taken = {name: timers[name](numbers[name]) for name in names[turn:] + names[:turn]}
        rounds.append([taken[name] for name in names])
        if len(rounds) >= MIN_ROUNDS:
            settled = _settled(np.array(rounds), precision)
            if settled.all() or time.monotonic() - started > max_seconds:
                break
        elif time.monotonic() - started > 4 * max_seconds:
            settled = np.zeros(len(names), dtype=bool)
            break
    return _timings(names, np.array(rounds), settled)


def median_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return a confidence interval of a median, by order statistics: no assumption but independence.

    Example:
        >>> median_interval([3.0, 1.0, 2.0, 5.0, 4.0, 6.0])
        (1.0, 6.0)
    """
    ordered = np.sort(np.asarray(values))
    n = len(ordered)
    below = int(binom.ppf((1 - CONFIDENCE) / 2, n, 0.5))
    while below > 0 and binom.cdf(below - 1, n, 0.5) > (1 - CONFIDENCE) / 2:
        below -= 1
    below = max(below - 1, 0)
    return float(ordered[below]), float(ordered[n - 1 - below])


def _settled(rounds: np.ndarray, precision: float) -> np.ndarray:
    ratios = rounds / rounds[:, :1]
    wide = []
    for column in ratios.T:
        low, high = median_interval(column)
        middle = float(np.median(column))
        wide.append(max(high - middle, middle - low) <= precision * middle)
    return np.array(wide)


def _timings(names: Sequence[str], rounds: np.ndarray, settled: np.ndarray) -> dict[str, Timing]:
    found = {}
    for index, name in enumerate(names):
        times, ratios = rounds[:, index], rounds[:, index] / rounds[:, 0]
        low, high = median_interval(ratios)
        found[name] = Timing(
            median=float(np.median(times)),
            low=float(np.quantile(times, 0.25)),
            high=float(np.quantile(times, 0.75)),
            ratio=float(np.median(ratios)),
            ratio_low=low,
            ratio_high=high,
            rounds=len(rounds),
            settled=bool(settled[index]),
        )
    return found


def _timer(run: Run, device: torch.device | None, threads: int | None) -> Callable[[int], float]:
    """Return ``number of repeats -> seconds for one``."""
    if device is not None and device.type == "cuda":
        return lambda number: _by_events(run, number)
    return lambda number: _by_clock(run, number, threads or torch.get_num_threads())


def _by_clock(run: Run, number: int, threads: int) -> float:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        run()  # brings its weights into the caches, where they are in use
        start = time.perf_counter()
        for _ in range(number):
            run()
        return (time.perf_counter() - start) / number
    finally:
        torch.set_num_threads(before)


def _by_events(run: Run, number: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    run()  # as above
    start.record()
    for _ in range(number):
        run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / number


def _repeats(timer: Callable[[int], float], block_seconds: float) -> int:
    """Return how often a run is repeated so that a block is long enough; warms it up on the way."""
    return math.ceil(block_seconds / max(min(timer(1), timer(1)), 1e-7))
