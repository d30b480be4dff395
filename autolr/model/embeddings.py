"""Which table of token vectors can be compressed: the input embeddings, where nothing but the look-up reads them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from autolr.model.record_calls import Batch, undisturbed
from autolr.model.units import MIN_FEATURES
from autolr.types import Table


def find_table(model: nn.Module, batch: Batch) -> tuple[Table | None, dict[str, str]]:
    """Return the model's table of token vectors, where it can be compressed.

    Args:
        model: in any mode; it is left as it was.
        batch: tokenized inputs of a few short sequences.

    Returns:
        The table as a unit, or None; then module name -> why it stays dense.
    """
    try:
        module: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
    except NotImplementedError:
        return None, {type(model).__name__: "a model without a table of token embeddings"}
    name = next(name for name, other in model.named_modules() if other is module)
    reason = _reason_to_leave(model, name, module, batch)
    if reason is not None:
        return None, {name: reason}
    assert isinstance(module, nn.Embedding)
    return Table(name, name, -1, 1, module.embedding_dim, module.num_embeddings, True), {}


def _reason_to_leave(model: nn.Module, name: str, module: nn.Module, batch: Batch) -> str | None:
    if type(module) is not nn.Embedding:
        return f"an embedding: a {type(module).__name__}, which does not run as a plain look-up"
    if module.max_norm is not None:
        return "an embedding whose vectors are rescaled as they are looked up (max_norm)"
    holders = [key for key, weight in model.named_parameters(remove_duplicate=False) if weight is module.weight]
    others = sorted({key.rpartition(".")[0] for key in holders} - {name})
    if others:
        return f"an embedding tied to {', '.join(others)}, which would have to be factorized with it"
    if min(module.weight.shape) < MIN_FEATURES:
        return f"an embedding too small: {tuple(module.weight.shape)}, a side is below {MIN_FEATURES}"
    if not _only_looked_up(model, name, module, batch):
        return "an embedding that is read by more than one look-up of the tokens of each sequence"
    return None


class _LookUp(nn.Module):
    """A look-up that offers nothing but its output."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", table[:0, 0])
        self.table = [table]  # in a list: no entry of the module's own state
        self.fed: list[Tensor] = []

    def forward(self, ids: Tensor) -> Tensor:
        self.fed.append(ids)
        return nn.functional.embedding(ids, self.table[0])


def _only_looked_up(model: nn.Module, name: str, module: nn.Embedding, batch: Batch) -> bool:
    """Tell whether the model gives the same with a module in place that does a look-up and has no table to show."""
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    stand_in = _LookUp(module.weight.detach())
    with undisturbed(model), torch.no_grad():
        before = model(**inputs).logits
        try:
            with _replaced(model, name, stand_in):
                after = model(**inputs).logits
        except (RuntimeError, AttributeError, IndexError, TypeError):  # something asked for the table itself
            return False
    once = len(stand_in.fed) == 1 and torch.equal(stand_in.fed[0], inputs["input_ids"])
    return once and torch.equal(before, after)


@contextmanager
def _replaced(model: nn.Module, name: str, module: nn.Module) -> Iterator[None]:
    dense = model.get_submodule(name)
    model.set_submodule(name, module)
    try:
        yield
    finally:
        model.set_submodule(name, dense)
