"""The stack of a model's repeated blocks: how the model calls each of them, and how it runs without them.

The blocks of a stack are run one by one where each is called once, in order, with the hidden states that the one before
it gave and with other arguments that no block has a part in (masks, rotary positions).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autolr.errors import UsageError
from autolr.model.blocks import BlockCall, Stop, stopping
from autolr.model.precision import in_float32, looked_up_in_float32
from autolr.model.record_calls import Batch, graph_from_embeddings, recorded
from autolr.types import Unit

_REMEDY = "so it cannot be run block by block; leave out --stream"


@dataclass(frozen=True)
class Stack:
    """The blocks of a model, and what is around them; made by :meth:`of`.

    Attributes:
        model: the whole.
        name: of the stack's ``ModuleList``.
        blocks: in the order of the pass.
        tuples: for each block the length of the tuple it returns, 0 where it returns the hidden states alone.
        tables: plain embeddings that run before the blocks.
        before: other modules that do.
        behind: modules that run after the blocks.
    """

    model: nn.Module
    name: str
    blocks: tuple[nn.Module, ...]
    tuples: tuple[int, ...]
    tables: tuple[nn.Module, ...]
    before: tuple[nn.Module, ...]
    behind: tuple[nn.Module, ...]

    @classmethod
    def of(cls, model: nn.Module, units: Sequence[Unit], batch: Batch) -> "Stack":
        """Find the stack that holds units.

        Args:
            model: in evaluation mode; run on the batch's first example.
            units: layers; those in blocks are all in one stack.
            batch: tokenized inputs.

        Raises:
            UsageError: there is no stack, or several, or it cannot be run block by block.
        """
        names = sorted({name for unit in units if (name := stack_name(model, unit)) is not None})
        if len(names) != 1:
            raise UsageError(
                f"the layers to compress lie in {len(names)} stacks of blocks {names}, calibration block by block "
                f"takes one; leave out --stream, or the layers of the others by --exclude"
            )
        [name] = names
        blocks = tuple(model.get_submodule(name).children())
        first = {key: value[:1] for key, value in batch.items() if key != "labels"}
        around = _seen(model, name, blocks, first)
        stack = cls(model, name, blocks, around.tuples, around.tables, around.before, around.behind)
        refusing = stack._passing(stack._refuse_dependent)
        with torch.enable_grad(), recorded(model, []), graph_from_embeddings(model), refusing:
            model(**first)
        stack._refuse_more(first)
        return stack

    def enter(self, batch: Batch) -> Tensor:
        """Return the first block's hidden states of a batch, float32."""
        return self._call(batch, 0)[0]

    def call(self, batch: Batch, index: int) -> BlockCall:
        """Return how the model calls a block on a batch; no block is run."""
        with torch.no_grad():
            return self._call(batch, index)[1]

    def calls(self, batch: Batch, count: int) -> list[tuple[int, Tensor, BlockCall]]:
        """Return the numbers of the first blocks, what the first one is fed, and how the model calls each; none is run.

        Args:
            batch: tokenized inputs.
            count: of blocks, ≥ 1.
        """
        found: list[tuple[int, Tensor, BlockCall]] = []

        def note(index: int, x: Tensor, call: BlockCall) -> Tensor:
            found.append((index, x, call))
            if index + 1 == count:
                raise Stop
            return x

        with torch.no_grad(), self._passing(note), stopping():
            self.model(**{name: value for name, value in batch.items() if name != "labels"})
        return found

    @contextmanager
    def with_hidden(self, hidden: Tensor) -> Iterator[nn.Module]:
        """Run a block of code in which the model has ``hidden`` as what its blocks make of any input."""

        def give(index: int, x: Tensor, _call: BlockCall) -> Tensor:
            return hidden if index + 1 == len(self.blocks) else x

        with self._passing(give), self._float32_before():
            yield self.model

    @contextmanager
    def _float32_before(self) -> Iterator[None]:
        with in_float32(self.before), looked_up_in_float32(self.tables):
            yield

    def _call(self, batch: Batch, index: int) -> tuple[Tensor, BlockCall]:
        found: list[tuple[Tensor, BlockCall]] = []

        def catch(reached: int, x: Tensor, call: BlockCall) -> Tensor:
            if reached == index:
                found.append((x, call))
                raise Stop
            return x

        with self._passing(catch), self._float32_before(), stopping():
            self.model(**{name: value for name, value in batch.items() if name != "labels"})
        return found[0]

    @contextmanager
    def _passing(self, visit: Callable[[int, Tensor, BlockCall], Tensor]) -> Iterator[None]:
        """Have ``visit(index, hidden, call)`` in the place of every block."""
        given: list[Tensor] = []

        def stub(index: int) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                x, call = BlockCall.of(args, kwargs)
                if index and x is not given[-1]:
                    raise UsageError(f"something stands between two blocks of {self.name}, {_REMEDY}")
                given[:] = [visit(index, x, call)]
                rest = self.tuples[index] - 1
                return given[0] if rest < 0 else (given[0], *[None] * rest)

            return forward

        with ExitStack() as stack:
            for index, block in enumerate(self.blocks):
                stack.callback(_restore_forward, block, block.__dict__.get("forward"))
                block.forward = stub(index)
            yield

    @torch.no_grad()
    def _refuse_more(self, batch: Batch) -> None:
        """Refuse blocks of whose outputs the model uses more than the hidden states (attention weights it does not)."""
        own = [block.forward for block in self.blocks]
        wanted = self.model(**batch)[0]
        with self._passing(lambda index, x, call: call.run(own[index], x)):
            found = self.model(**batch)[0]
        same = (found - wanted).abs() <= 1e-3 * wanted.abs().max()
        if bool(wanted.isfinite().all()) and not bool(same.all()):  # infinite ones are another's to refuse
            raise UsageError(f"the blocks of {self.name} give the model more than their hidden states, {_REMEDY}")

    def _refuse_dependent(self, index: int, x: Tensor, call: BlockCall) -> Tensor:
        values = [*call.args, *call.kwargs.values()]
        values += [inner for value in values if isinstance(value, tuple | list) for inner in value]
        if any(isinstance(value, Tensor) and value.requires_grad for value in values):
            raise UsageError(
                f"block {index} of {self.name} is called with something else than its hidden states that is computed "
                f"from the tokens' embeddings, {_REMEDY}"
            )
        return x


def stack_name(model: nn.Module, unit: Unit) -> str | None:
    """Return the name of the outermost ``ModuleList`` that holds a unit, None for a unit outside of blocks.

    Example:
        >>> model = nn.ModuleDict({"h": nn.ModuleList([nn.ModuleDict({"up": nn.Linear(16, 32)})])})
        >>> stack_name(model, Unit("h.0.up", "up", 0, 1, 32, 16))
        'h'
    """
    parts = unit.name.split(".")
    prefixes = [".".join(parts[:n]) for n in range(1, len(parts))]
    return next((name for name in prefixes if isinstance(model.get_submodule(name), nn.ModuleList)), None)


@dataclass(frozen=True)
class _Around:
    """What one pass shows of a stack; attributes as of :class:`Stack`."""

    tuples: tuple[int, ...]
    tables: tuple[nn.Module, ...]
    before: tuple[nn.Module, ...]
    behind: tuple[nn.Module, ...]


@torch.no_grad()
def _seen(model: nn.Module, name: str, blocks: Sequence[nn.Module], batch: Batch) -> _Around:
    """Run the model as it is and see which modules run before and behind the blocks, and what the blocks return."""
    outputs: list[tuple[int, Any]] = []
    sides: dict[bool, dict[nn.Module, None]] = {False: {}, True: {}}
    inside = {module for block in blocks for module in block.modules()}

    with ExitStack() as hooks:
        for index, block in enumerate(blocks):

            def after(_module: nn.Module, _args: Any, output: Any, index: int = index) -> None:
                outputs.append((index, _length(output)))

            hooks.callback(block.register_forward_hook(after).remove)
        for module in model.modules():
            if module not in inside:

                def note(module: nn.Module, _args: Any) -> None:
                    sides[bool(outputs)][module] = None

                hooks.callback(module.register_forward_pre_hook(note).remove)
        model(**batch)
    order = [index for index, _ in outputs]
    if order != list(range(len(blocks))):
        raise UsageError(f"the {len(blocks)} blocks of {name} are run in the order {order}, {_REMEDY}")
    if any(length is None for _, length in outputs):
        raise UsageError(f"the blocks of {name} do not return their hidden states first, {_REMEDY}")
    # Gemma's table is a class of its own, which scales what it looks up: at two bytes the product would be rounded.
    tables = {module for module in sides[False] if type(module) is nn.Embedding}
    return _Around(
        tuples=tuple(length or 0 for _, length in outputs),
        tables=tuple(tables),
        before=tuple(module for module in sides[False] if module not in tables),
        behind=tuple(sides[True]),
    )


def _length(output: Any) -> int | None:
    """Return how many things a block returned, 0 without a tuple; None if the first are not hidden states."""
    if isinstance(output, Tensor):
        return 0
    return len(output) if isinstance(output, tuple) and isinstance(output[0], Tensor) else None


def _restore_forward(block: nn.Module, forward: Any) -> None:
    del block.forward
    if forward is not None:
        block.forward = forward
