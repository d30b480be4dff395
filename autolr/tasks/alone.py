"""Whether a task's answers depend on the batches they are asked in."""

from torch import nn

from autolr.data.parts import Data
from autolr.model.alone import LOOKED_AT, check_same, spread
from autolr.model.inputs import input_device
from autolr.tasks.base import Task
from autolr.tasks.scorer import Answers


def check_task(model: nn.Module, task: Task, data: Data, size: int, source: str) -> None:
    """Refuse a model that answers an example alone otherwise than beside a longer one.

    Args:
        model: the dense model.
        task: what it is asked to do.
        data: some of its examples.
        size: examples in a batch; with one there is nothing to check, nor where the task makes batches of its own.
        source: where the model came from, for the message.

    Raises:
        UsageError: the answers differ by more than rounding.
    """
    if size == 1 or not task.batched:
        return
    few = data.select(range(min(len(data), LOOKED_AT)))
    order = task.order(few)
    chosen = few.select(order[place] for place in spread(len(order)))
    where = input_device(model)
    batches = task.batches(chosen, size, where)
    if all(bool(batch["attention_mask"].all()) for batch in batches):
        return  # nothing is padded
    alone = [batch for row in range(len(chosen)) for batch in task.batches(chosen.select([row]), 1, where)]

    def ask(asked: nn.Module) -> tuple[Answers, Answers]:
        return task.scorer(asked, chosen, alone).dense, task.scorer(asked, chosen, batches).dense

    check_same(source, model, ask)
