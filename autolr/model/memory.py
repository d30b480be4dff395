"""Whether a batch fits into memory: on the CPU nothing is raised when it does not, the process is killed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from autolr.errors import UsageError
from autolr.model.inputs import input_device

_STATES = 6
"""Vectors of the model's width that a block keeps of each token for a backward pass (input, query, key, value, …)."""
_INNER = 2
"""The same of the feed-forward layer's width: before and after the activation."""
_LOGITS = 3
"""Copies of all logits while next tokens are scored: as they are, in float32, their logarithms."""
_CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """Return how much memory can be had, on this machine and in its container; None where that is not known."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    free = int(fields["MemAvailable"].split()[0]) * 1024
    try:
        most = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        kinds = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return min(free, most - used + int(kinds["inactive_file"]))  # files that were read can be forgotten
    except (OSError, ValueError, KeyError):  # no container, or "max": no limit
        return free


def batch_bytes(model: nn.Module, rows: int, length: int, backward: bool, next_tokens: bool = False) -> int:
    """Return the bytes that a batch takes at the least, besides the model.

    Args:
        model: an encoder or decoder of transformers.
        rows: sequences in the batch.
        length: tokens in each.
        backward: whether the graph of a backward pass is kept; else one block's tensors.
        next_tokens: whether all logits of a language model are scored.

    Returns:
        0 where the model's configuration does not name its sizes.
    """
    outer: Any = model.config
    config: Any = outer.get_text_config()
    width, blocks = getattr(config, "hidden_size", None), getattr(config, "num_hidden_layers", None)
    if not isinstance(width, int) or not isinstance(blocks, int):
        return 0
    inner, heads = getattr(config, "intermediate_size", None), getattr(config, "num_attention_heads", None)
    each = next(model.parameters()).element_size()
    depth = blocks if backward else 1
    needed = depth * rows * length * (_STATES * width + _INNER * (inner or 4 * width)) * each
    if config._attn_implementation == "eager":
        needed += depth * rows * length**2 * (heads or 1) * each
    if next_tokens:
        needed += rows * length * config.vocab_size * (each + 4 * (_LOGITS - 1))
    return int(needed)


def check_memory(
    model: nn.Module, batches: Sequence[Mapping[str, Tensor]], backward: bool, next_tokens: bool = False
) -> None:
    """Refuse batches of which the largest cannot fit into the memory that is free.

    Args:
        model: on its device; only the CPU's memory is looked at, a GPU says so itself.
        batches: with ``input_ids`` (rows, tokens).
        backward: as in :func:`batch_bytes`.
        next_tokens: likewise.

    Raises:
        UsageError: with the batch, what it needs and what there is.
    """
    free = available_bytes()
    if free is None or input_device(model).type != "cpu":
        return
    shapes = [(len(batch["input_ids"]), batch["input_ids"].shape[1]) for batch in batches]
    needed, rows, length = max((batch_bytes(model, *shape, backward, next_tokens), *shape) for shape in shapes)
    if needed > free:
        raise UsageError(
            f"a batch of {rows} texts of {length} tokens needs at least {needed / 1e9:.1f} GB to "
            f"{'calibrate on' if backward else 'score'}, and {free / 1e9:.1f} GB are free; shorten or leave out the "
            f"longest texts, lower the tokenizer's model_max_length, or lower --scoring-batch-size"
        )
