"""What a model's layers are fed and give: recorded calls, which positions are real, and which of them are read."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from autolr.errors import AutolrError, UsageError
from autolr.types import Unit

Batch = Mapping[str, Tensor]
Reads = Literal["all", "first", "last"]


@dataclass
class Call:
    """One call of a unit's module: its input and output."""

    unit: Unit
    x: Tensor
    y: Tensor


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run a block of code with the model in evaluation mode; each module's own mode is back afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def recorded(model: nn.Module, units: Iterable[Unit]) -> Iterator[list[Call]]:
    """Record the calls of the units' modules; meanwhile no parameter asks for a gradient."""
    calls: list[Call] = []
    with ExitStack() as stack:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.requires_grad_(False)
                stack.callback(parameter.requires_grad_, True)
        for unit in units:

            def record(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor, unit: Unit = unit) -> None:
                calls.append(Call(unit, args[0], output))

            stack.callback(model.get_submodule(unit.name).register_forward_hook(record).remove)
        yield calls


def _input_embeddings(model: nn.Module) -> nn.Module:
    """Return the table of the tokens' vectors.

    Raises:
        UsageError: the model has none.
    """
    try:
        embeddings = model.get_input_embeddings()  # type: ignore[operator]
    except NotImplementedError as error:
        raise UsageError(
            f"{type(model).__name__} has no table of token embeddings, which gradients begin at; models that read "
            f"something else than tokens, such as characters, are not supported"
        ) from error
    assert isinstance(embeddings, nn.Module)
    return embeddings


@contextmanager
def graph_from_embeddings(model: nn.Module) -> Iterator[None]:
    """Let the graph begin at the embeddings' output, where gradients are asked for at all."""

    def start(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        if output.requires_grad or not torch.is_grad_enabled():
            return output
        return output.requires_grad_(True).clone()  # a leaf could not be scaled in place, as CTRL does

    embeddings = _input_embeddings(model)
    # T5's encoder and decoder hold modules of their own with the same table.
    same: list[nn.Module] = [
        m for m in model.modules() if isinstance(m, nn.Embedding) and m.weight is embeddings.weight
    ]
    with ExitStack() as stack:
        for module in same or [embeddings]:
            stack.callback(module.register_forward_hook(start).remove)
        yield


def finite_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Return the model's logits.

    Raises:
        AutolrError: they are not finite.
    """
    logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    assert isinstance(logits, Tensor)
    bad = sum(not bool(torch.isfinite(row).all()) for row in logits.detach())
    if bad:
        raise AutolrError(f"the model's output is NaN or infinite on {bad} of {len(logits)} calibration examples")
    return logits


def random_cotangent(logits: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
    """Return what shows, backpropagated from the logits, which positions are read."""
    return torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)).to(logits)


def reads_of(calls: Sequence[Call], gradients: Sequence[Tensor | None], mask: Tensor) -> dict[str, Reads]:
    """Return at which positions each unit's output is read at all, by where a gradient arrives."""
    first, last = live_positions(mask, "first"), live_positions(mask, "last")
    reads: dict[str, Reads] = {}
    for call, gradient in zip(calls, gradients, strict=True):
        live = mask if gradient is None else (by_token(gradient, mask) != 0).any(-1)
        seen: Reads = "all"
        if live.shape == mask.shape and not torch.equal(live & mask, mask):
            live = live & mask
            seen = "first" if torch.equal(live, first) else "last" if torch.equal(live, last) else "all"
        # A module that is called several times (shared layers) is read everywhere unless all its calls agree.
        reads[call.unit.name] = seen if reads.get(call.unit.name, seen) == seen else "all"
    return reads


def live_positions(mask: Bool[Tensor, "batch positions"], reads: Reads) -> Bool[Tensor, "batch positions"]:
    """Return at which real positions something is read: all of them, or the first or last of each sequence."""
    if reads == "all" or mask.shape[1] == 1:
        return mask
    positions = mask.int().argmax(1) if reads == "first" else mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
    live = torch.zeros_like(mask)
    live[torch.arange(len(mask), device=mask.device), positions] = True
    return live


def token_mask(batch: Batch) -> Bool[Tensor, "batch positions"]:
    """Return which positions of a batch hold real tokens."""
    if "attention_mask" in batch:
        return batch["attention_mask"].bool()
    return torch.ones_like(batch["input_ids"], dtype=torch.bool)


def check_inputs(calls: Sequence[Call], mask: Tensor) -> None:
    """Refuse units whose input is not made of the tokens, or not one vector for each of them or each sequence.

    Raises:
        UsageError: there are such; the message excludes them.
    """
    batch, length = mask.shape
    strays = stray_calls(calls, mask)
    if strays:
        names = {call.unit.name for call in strays}
        roles = dict.fromkeys(f"--exclude '*{call.unit.role}'" for call in strays)
        raise UsageError(
            f"{strays[0].unit.name} is fed something else than one vector for each of {batch} x {length} tokens (shape "
            f"{tuple(strays[0].x.shape)}), so its inputs cannot be matched to tokens; leave out such layers "
            f"({len(names)} in all) with {' '.join(roles)}"
        )


def stray_calls(calls: Sequence[Call], mask: Tensor) -> list[Call]:
    """Return the calls whose input is not made of the tokens, or not one vector for each of them or each sequence.

    Nor is it matched where positions come before sequences, as in XLNet; a square batch does not show that.
    """
    return [call for call in calls if not call.y.requires_grad or not _matches(call.y.shape[:-1], mask)]


def _matches(leading: torch.Size, mask: Tensor) -> bool:
    batch, length = mask.shape
    swapped = batch != length and leading[:2] == (length, batch)
    return leading.numel() in (batch * length, batch) and not swapped


def by_token(tensor: Tensor, mask: Tensor) -> Float[Tensor, "batch positions features"]:
    """View a unit's input or output as (batch, positions, features); positions is 1 where it runs once a sequence."""
    features = tensor.shape[-1]
    return tensor.reshape(len(mask), tensor.numel() // features // len(mask), features)
