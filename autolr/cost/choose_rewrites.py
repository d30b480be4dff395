"""Which of the exact rewrites a study's model gets: those that keep its logits and that the clock prefers."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from autolr.checkpoint.runtime import rewrites
from autolr.cost.forward import forward_inputs, shared_copy, time_models
from autolr.cost.measure_latency import random_candidates, with_random_factors
from autolr.model.positions import longest_sequence
from autolr.progress import Progress
from autolr.types import Conditions, Unit

TOLERANCE = 1e-4
"""Largest difference of a logit that a rewrite may make, as a share of the largest logit, computed in float32."""
_PRECISION = 0.03  # what gains less may as well be left or taken
_SECONDS = 5.0


def rewrite(model: PreTrainedModel, units: Sequence[Unit], conditions: Conditions, progress: Progress) -> None:
    """Apply every rewrite, in place, that is exact and makes a compressed model faster under the conditions.

    Args:
        model: the dense model.
        units: its compressible layers.
        conditions: batch, length, threads.
        progress: told what each one gains.
    """
    for name in rewrites.REWRITES:
        if not rewrites.apply(model, name):
            continue
        if not _is_exact(model, name):
            rewrites.undo(model, (name,))
            progress.note(f"rewrite {name}: not used, it changes this model's logits")
            continue
        ratio = _ratio(model, name, units, conditions, progress)
        if ratio >= 1.0:
            rewrites.undo(model, (name,))
        used = "used" if ratio < 1.0 else "not used"
        progress.note(f"rewrite {name}: {used}, a compressed model takes {ratio:.2f} of the time with it")


def reapply(model: PreTrainedModel, names: Sequence[str]) -> None:
    """Apply the rewrites that were chosen before."""
    for name in names:
        rewrites.apply(model, name)


def _is_exact(model: PreTrainedModel, name: str) -> bool:
    """Compare the logits with and without a rewrite in float32, where rounding cannot hide a difference."""
    length = min(16, longest_sequence(model) or 16)
    inputs = forward_inputs(model, Conditions(4, length, "float32", lengths=(length, length // 2 + 1, 2)))
    fast: Any = copy.deepcopy(model)
    fast.to(torch.float32)
    plain = shared_copy(fast)
    rewrites.undo(plain, (name,))
    with torch.inference_mode():
        after, before = fast(**inputs).logits, plain(**inputs).logits
    return float((after - before).abs().max()) <= TOLERANCE * float(before.abs().max())


def _ratio(
    model: PreTrainedModel, name: str, units: Sequence[Unit], conditions: Conditions, progress: Progress
) -> float:
    """Return the time with a rewrite / without it, of a model whose layers are at medium ranks."""
    progress.start(f"time the rewrite {name}")
    middle = random_candidates(units, 4)[2]
    fast = with_random_factors(model, middle, units)
    plain = shared_copy(fast)
    rewrites.undo(plain, (name,))
    timed = time_models({"plain": plain, "fast": fast}, conditions, _PRECISION, _SECONDS, progress)
    progress.update(1.0)
    return timed["fast"].ratio
