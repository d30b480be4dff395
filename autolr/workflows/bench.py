"""``autolr bench``: checkpoints timed in turn against the first of them."""

from collections.abc import Sequence
from functools import partial
from math import inf
from numbers import Real

import torch

from autolr.cost.clock import Run, compare
from autolr.engines import ENGINES, Engine, EngineSettings, Session
from autolr.errors import UsageError
from autolr.model.inputs import LONGEST
from autolr.progress import Progress
from autolr.results.bench import Bench, TimedModel
from autolr.spec.study import RunSpec
from autolr.types import Conditions

DEFAULT_SEQ_LEN = 128


def bench(
    sources: Sequence[str],
    run: RunSpec,
    precision: float,
    max_seconds: float,
    progress: Progress,
    engine: str = "torch",
) -> Bench:
    """Time models and return medians, spread and ratios with the conditions they hold under.

    Args:
        sources: checkpoints, compressed or dense; the first is what the others are compared with.
        run: device, dtype, threads and the batch.
        precision: how narrow each ratio's confidence interval shall be, as a share of the ratio.
        max_seconds: when to stop all the same.
        progress: told what is under way.
        engine: name of the software that runs them, of :data:`autolr.engines.ENGINES`.

    Raises:
        UsageError: precision or seconds are no number above zero, there is no such engine, a checkpoint does not load,
            the device is absent, or the length is beyond a model's positions.
    """
    _check_limit(precision, "precision", 1.0)
    _check_limit(max_seconds, "max_seconds", inf)
    seq_len = run.seq_len or max(run.lengths, default=None)
    if seq_len is not None and max(run.lengths, default=0) > seq_len:
        raise UsageError(f"lengths {list(run.lengths)} go beyond --seq-len {seq_len}; raise it or shorten them")
    opened = [_opened(ENGINES.get(engine), source, run, seq_len, progress) for source in sources]
    seq_len = seq_len or min(DEFAULT_SEQ_LEN, *(session.longest or LONGEST for session in opened))
    conditions = Conditions(
        run.batch_size, seq_len, run.dtype, run.device, run.threads or torch.get_num_threads(), run.lengths
    )
    progress.start(f"time {len(opened)} models in turn, until each ratio is known to ±{100 * precision:g} %")
    runs: dict[str, Run] = {
        f"{index} {source}": partial(session.run, session.batch(conditions))
        for index, (source, session) in enumerate(zip(sources, opened, strict=True))
    }
    timed = compare(
        runs,
        device=torch.device(run.device),
        threads=conditions.threads,
        precision=precision,
        max_seconds=max_seconds,
        check=progress.check,
    )
    models = (TimedModel(**vars(timing), model=source) for source, timing in zip(sources, timed.values(), strict=True))
    return Bench(conditions, engine, tuple(models))


def _check_limit(value: object, name: str, most: float) -> None:
    """Refuse what is no number above zero and at most ``most``."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 0 < value <= most:  # type: ignore[operator]
        allowed = "above 0" if most == inf else f"above 0 and at most {most:g}"
        raise UsageError(f"{name} must be a number {allowed} (got {value!r:.200})")


def _opened(engine: Engine, source: str, run: RunSpec, seq_len: int | None, progress: Progress) -> Session:
    """Open a checkpoint and check that it takes sequences of this length."""
    progress.start(f"load {source}")
    session = engine.open(
        source, EngineSettings(run.device, run.dtype, run.threads, run.offline, run.trust_remote_code)
    )
    longest = session.longest or LONGEST
    if seq_len is not None and seq_len > longest:
        raise UsageError(
            f"--seq-len {seq_len} is longer than the {longest} positions of {source}; choose at most {longest}"
        )
    return session
