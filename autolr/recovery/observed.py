"""What the layers of one block are fed and give."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from jaxtyping import Float
from torch import Tensor, nn

from autolr.model.blocks import BlockCall, Stop, stopping
from autolr.model.record_calls import Reads, by_token, live_positions

MOST_KEPT = 2**30
"""Bytes of the dense layers' outputs that are kept while a block is refitted; more are computed anew for each stage."""
Seen = dict[str, tuple[Tensor, Tensor]]
"""Name of a layer -> what it was fed and gave."""


@contextmanager
def _noted(block: nn.Module, names: Sequence[str], stops: bool = False) -> Iterator[Seen]:
    """Note what layers are fed and give while a block of code runs; it may be stopped when all have run."""
    seen: Seen = {}
    with ExitStack() as hooks:
        for name in names:

            def note(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                seen[name] = (args[0], output)
                if stops and len(seen) == len(names):
                    raise Stop

            hooks.callback(block.get_submodule(name).register_forward_hook(note).remove)
        yield seen


def observed(block: nn.Module, names: Sequence[str], call: BlockCall, hidden: Tensor) -> Seen:
    """Run a block until the last of some layers and return what each was fed and gave."""
    with _noted(block, names, stops=True) as seen, stopping():
        call.run(block, hidden)
    return seen


def dense_pass(
    block: nn.Module, names: Sequence[str], calls: Sequence[BlockCall], hidden: Sequence[Tensor]
) -> tuple[list[Mapping[str, Tensor]], list[Tensor]]:
    """Return what layers of a block give in each batch, nothing where that is too much to keep, and its outputs."""
    answers: list[Mapping[str, Tensor]] = []
    outputs = []
    keeping = bool(names)
    for call, x in zip(calls, hidden, strict=True):
        with _noted(block, names if keeping else ()) as seen:
            outputs.append(call.run(block, x))
        answers.append({name: output for name, (_, output) in seen.items()})
        size = sum(tensor.numel() * tensor.element_size() for tensor in answers[-1].values())
        keeping = keeping and size * len(calls) <= MOST_KEPT
    return answers if keeping else [], outputs


def live_tokens(tensor: Tensor, mask: Tensor, reads: Reads) -> Float[Tensor, "tokens features"]:
    """Return the rows of a layer's input or output whose answer is read, float32."""
    by_position = by_token(tensor, mask)
    whole = mask.any(1, keepdim=True)  # one position for a layer that runs once a sequence
    return by_position[live_positions(mask if by_position.shape[1] == mask.shape[1] else whole, reads)].float()
