"""Measuring a checkpoint on labelled pairs, without a study."""

from collections.abc import Callable
from typing import Any

import torch

from autolr.checkpoint.load import load_checkpoint
from autolr.config import StudySpec
from autolr.data import NliData
from autolr.data.batches import ensure_padding, longest_input, pair_batches
from autolr.progress import Progress
from autolr.score import mean_score, predict
from autolr.search.inputs import check_classifier, checked_device, label_ids, load_tokenizer


def evaluate_checkpoint(
    spec: StudySpec, load: Callable[[dict[str, int]], NliData], progress: Progress
) -> dict[str, Any]:
    """Return a checkpoint's accuracy with its standard error, number of pairs and the share of the commonest label.

    Args:
        spec: names the checkpoint as its model, and the device, dtype and batch size.
        load: the model's label names -> the labelled pairs.
        progress: told what is under way.

    Raises:
        UsageError: the checkpoint or the data cannot be used.
    """
    assert spec.model is not None
    device = checked_device(spec.run.device)
    progress.start(f"load {spec.model}")
    model = load_checkpoint(
        spec.model, trust_remote_code=spec.run.trust_remote_code, dtype=getattr(torch, spec.run.dtype)
    )
    check_classifier(model, spec.model)
    model.to(device)  # type: ignore[arg-type]
    tokenizer = load_tokenizer(spec.model, spec)
    ensure_padding(model, tokenizer)
    data = load(label_ids(model))
    batches = pair_batches(tokenizer, data, spec.run.scoring_batch_size, longest_input(model, tokenizer), device)
    progress.start(f"score {len(data)} pairs")
    done = iter(range(1, len(batches) + 1))

    def tick() -> None:
        progress.check()
        progress.update(next(done) / len(batches))

    logits = predict(model, batches, tick)
    labels = torch.cat([batch["labels"].cpu() for batch in batches])
    score = mean_score((logits.argmax(-1) == labels).double())
    return {
        "accuracy": score.value,
        "stderr": score.stderr,
        "n": score.n,
        "majority": float(labels.bincount().max()) / len(labels),
        "data": data.name,
        "checkpoint": spec.model,
    }
