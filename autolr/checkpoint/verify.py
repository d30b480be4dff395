"""Is a written checkpoint the model that was written? Both are asked the same, and their logits compared."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from autolr.checkpoint.load import load_checkpoint
from autolr.errors import UsageError

Run = Callable[[Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Reloaded:
    """A checkpoint that was read again, by whatever software reads its format.

    Attributes:
        logits: tokenized batch, on the written model's device -> all its logits, in the model's order; on any device
            and of any shape.
        modules: whose weights may be mapped from the checkpoint's files.
    """

    logits: Run
    modules: tuple[nn.Module, ...] = ()


def reload_model(directory: str | Path, model: PreTrainedModel) -> Reloaded:
    """Read a checkpoint by ``from_pretrained``, with the attention and on the device of the model that was written.

    Raises:
        UsageError: as :func:`autolr.checkpoint.load.load_checkpoint`.
    """
    again = load_checkpoint(directory, attn_implementation=model.config._attn_implementation)
    again.to(device=model.device)  # type: ignore[call-arg]  # its wrapper loses self
    return Reloaded(lambda batch: model_logits(again, batch), (again,))


def verify(
    model: PreTrainedModel, reloaded: Reloaded, batches: Iterable[Mapping[str, Tensor]], allowed: float = 0.0
) -> float:
    """Compare a model that was read again with the one in memory.

    Where they differ by more than is allowed they are compared again with all weights in memory of their own: at an
    address that a file was mapped to, a kernel may add up in another order.

    Args:
        model: the model that was saved, or what it should equal; its mode is put back afterwards.
        reloaded: what was read again.
        batches: tokenized batches, keyword arguments of ``model.forward`` on any device.
        allowed: difference with which the first comparison is taken.

    Returns:
        The largest absolute difference of a logit (of a last hidden state, for a model without a head); 0.0 when
        the outputs are bit-equal, nan when either model gives nan.

    Raises:
        UsageError: there is no batch; the outputs do not have the same size.
    """
    given = [{key: value.to(model.device) for key, value in batch.items()} for batch in batches]
    if not given:
        raise UsageError("no batch was given to compare the models on")
    was_training = model.training
    model.train(False)
    try:
        worst = _worst_difference(model, reloaded, given)
        if not worst <= allowed:
            for module in (model, *reloaded.modules):
                _leave_files(module)
            worst = _worst_difference(model, reloaded, given)
        return worst
    finally:
        model.train(was_training)


def verify_roundtrip(
    model: PreTrainedModel, directory: str | Path, batches: Iterable[Mapping[str, Tensor]], allowed: float = 0.0
) -> float:
    """Read a checkpoint of transformers again and compare it with the model in memory; see :func:`verify`.

    Raises:
        UsageError: as :func:`autolr.checkpoint.load.load_checkpoint` and :func:`verify`.
    """
    return verify(model, reload_model(directory, model), batches, allowed)


def _worst_difference(model: PreTrainedModel, reloaded: Reloaded, batches: Iterable[Mapping[str, Tensor]]) -> float:
    differences = []
    for batch in batches:
        ours = model_logits(model, batch)
        with torch.no_grad():
            theirs = reloaded.logits(batch).to(ours.device)
        differences.append(max_difference(ours, theirs.flatten()))
    return float(torch.stack(differences).max())


def _leave_files(model: nn.Module) -> None:
    """Copy weights that are mapped from a file, or lie anywhere else, to memory of their own."""
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        tensor.data = tensor.data.clone()


def max_difference(left: Tensor, right: Tensor) -> Tensor:
    """Return ``max |left − right|``, () float64; equal infinities differ by zero.

    Raises:
        UsageError: the shapes differ.
    """
    if left.shape != right.shape:
        raise UsageError(f"the models' outputs differ in shape: {tuple(left.shape)} and {tuple(right.shape)}")
    difference = (left.double() - right.double()).abs()
    return torch.where(left == right, 0.0, difference).max().cpu()


@torch.no_grad()
def model_logits(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
    """Return all logits of a batch in one row, those of a question's start and end one after the other."""
    outputs = model(**batch)
    names = [name for name in outputs if name.endswith("logits")] or ["last_hidden_state"]
    return torch.cat([outputs[name].flatten() for name in names])
