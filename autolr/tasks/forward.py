"""One pass of a model over batches, reduced batch by batch, with the device's memory in mind."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

Batch = Mapping[str, Tensor]
Reduce = Callable[[Tensor, Batch, int], Float[Tensor, "examples columns"]]
"""(logits, inputs, number of rows before these) -> what is kept of them."""


def run_batches(
    model: nn.Module,
    batches: Sequence[Batch],
    reduce: Reduce,
    tick: Callable[[], None] = lambda: None,
    halved: bool = False,
    together: int = 1,
) -> Float[Tensor, "examples columns"]:
    """Return what is kept of the model's logits on every batch, in the batches' order, on the CPU.

    A batch that does not fit into the device's memory is run again in two halves, once.

    Args:
        model: gives ``.logits`` for a batch's inputs; ``labels`` are not passed on.
        batches: tokenized inputs.
        reduce: what is kept of the logits of a batch or of half a batch.
        tick: called after each batch; may raise to stop.
        halved: run each batch in two halves from the first.
        together: rows of a batch that make one example and are not parted.

    Raises:
        torch.OutOfMemoryError: half a batch does not fit either.
    """
    model.eval()
    kept: list[Tensor] = []
    start = 0
    with torch.inference_mode():
        for batch in batches:
            inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
            try:
                parts = _halves(inputs, together) if halved else [inputs]
                found = _reduced(model, parts, reduce, start)
            except torch.OutOfMemoryError:
                if halved:
                    raise
                found = _reduced(model, _halves(inputs, together), reduce, start)
            kept.extend(found)
            start += _rows(inputs)
            tick()
    return torch.cat(kept)


def _reduced(model: nn.Module, parts: Sequence[Batch], reduce: Reduce, start: int) -> list[Tensor]:
    found = []
    for inputs in parts:
        found.append(reduce(model(**inputs).logits, inputs, start).cpu())
        start += _rows(inputs)
    return found


def _rows(inputs: Batch) -> int:
    return len(next(iter(inputs.values())))


def _halves(inputs: Batch, together: int) -> list[Batch]:
    """Return a batch in two parts, one where it has a single example; the device's cached memory is given back."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    n = _rows(inputs)
    middle = together * ((n // together + 1) // 2)
    cuts = [slice(0, middle), slice(middle, n)] if n > together else [slice(0, n)]
    return [{name: tensor[cut] for name, tensor in inputs.items()} for cut in cuts]
