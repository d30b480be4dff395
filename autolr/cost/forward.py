"""Forward passes that are timed: their inputs, and copies of a model that share its tensors."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autolr.cost.clock import Run, compare
from autolr.progress import Progress
from autolr.results.bench import Timing
from autolr.types import Conditions


def forward_inputs(model: nn.Module, conditions: Conditions) -> dict[str, Tensor]:
    """Return a batch of random tokens under the conditions; shorter sequences are padded on the right."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    shape = (conditions.batch_size, conditions.seq_len)
    vocabulary: int = model.config.get_text_config().vocab_size  # type: ignore[union-attr, operator]
    ids = torch.randint(min(5, vocabulary - 1), vocabulary, shape, generator=generator)
    mask = torch.ones_like(ids)
    lengths = conditions.lengths or (conditions.seq_len,)
    pad = getattr(model.config, "pad_token_id", None) or 0
    for index in range(conditions.batch_size):
        mask[index, lengths[index % len(lengths)] :] = 0
    ids = torch.where(mask.bool(), ids, pad)
    if getattr(model.config, "is_encoder_decoder", False):  # what is read is the state at the end of the text
        ids[torch.arange(len(ids)), mask.sum(1) - 1] = model.config.eos_token_id  # type: ignore[union-attr, assignment]
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def forward(model: nn.Module, inputs: Mapping[str, Tensor]) -> Run:
    """Return what runs one forward pass."""

    def run() -> None:
        with torch.inference_mode():
            model(**inputs)

    return run


def shared_copy(model: nn.Module) -> nn.Module:
    """Return a model of the same modules, whose tensors are the other's."""
    memo = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, memo)


def time_models(
    models: Mapping[str, nn.Module], conditions: Conditions, precision: float, max_seconds: float, progress: Progress
) -> dict[str, Timing]:
    """Time the forward passes of several models in turn; the first is the reference."""
    first = next(iter(models.values()))
    runs = {name: forward(model, forward_inputs(model, conditions)) for name, model in models.items()}
    return compare(runs, precision=precision, max_seconds=max_seconds, **clock_of(first, conditions, progress))


def clock_of(model: nn.Module, conditions: Conditions, progress: Progress) -> dict[str, Any]:
    """Return the arguments of :func:`autolr.cost.clock.compare` that say where a model runs, and who may stop it."""
    return {"device": next(model.parameters()).device, "threads": conditions.threads, "check": progress.check}
