"""``autolr bench``: checkpoints timed in turn against the first of them."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from autolr.checkpoint.load import load_checkpoint
from autolr.cost.measure_latency import time_models
from autolr.errors import UsageError
from autolr.model.inputs import LONGEST
from autolr.model.load import checked_device
from autolr.model.positions import longest_sequence
from autolr.progress import Progress
from autolr.spec.study import RunSpec
from autolr.types import Conditions

DEFAULT_SEQ_LEN = 128


def bench(
    sources: Sequence[str], run: RunSpec, precision: float, max_seconds: float, progress: Progress
) -> dict[str, Any]:
    """Time models and return medians, spread and ratios with the conditions they hold under.

    Args:
        sources: checkpoints, compressed or dense; the first is what the others are compared with.
        run: device, dtype, threads and the batch.
        precision: how narrow each ratio's confidence interval shall be, as a share of the ratio.
        max_seconds: when to stop all the same.
        progress: told what is under way.

    Raises:
        UsageError: a checkpoint does not load, the device is absent, or the length is beyond a model's positions.
    """
    device = checked_device(run.device)
    if run.threads:
        torch.set_num_threads(run.threads)
    seq_len = run.seq_len or max(run.lengths, default=None)
    if seq_len is not None and max(run.lengths, default=0) > seq_len:
        raise UsageError(f"lengths {list(run.lengths)} go beyond --seq-len {seq_len}; raise it or shorten them")
    models: dict[str, nn.Module] = {}
    limits: dict[str, int] = {}
    options = {"local_files_only": True} if run.offline else {}
    for index, source in enumerate(sources):
        progress.start(f"load {source}")
        model = load_checkpoint(
            source, trust_remote_code=run.trust_remote_code, dtype=getattr(torch, run.dtype), **options
        )
        limits[source] = longest_sequence(model) or LONGEST
        if seq_len is not None and seq_len > limits[source]:
            raise UsageError(
                f"--seq-len {seq_len} is longer than the {limits[source]} positions of {source}; choose at most "
                f"{limits[source]}"
            )
        model.to(device)  # type: ignore[arg-type]
        model.train(False)
        models[f"{index} {source}"] = model
    seq_len = seq_len or min(DEFAULT_SEQ_LEN, *limits.values())
    conditions = Conditions(
        run.batch_size, seq_len, run.dtype, run.device, run.threads or torch.get_num_threads(), run.lengths
    )
    progress.start(f"time {len(models)} models in turn, until each ratio is known to ±{100 * precision:g} %")
    timed = time_models(models, conditions, precision, max_seconds, progress)
    return {
        "conditions": asdict(conditions),
        "models": [{"model": source, **asdict(timing)} for source, timing in zip(sources, timed.values(), strict=True)],
        "settled": all(timing.settled for timing in timed.values()),
    }
