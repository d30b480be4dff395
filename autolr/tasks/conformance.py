"""The laws every task obeys, as one function, so that a third-party task can be tested with one call."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from autolr.data.parts import PARTS, Data
from autolr.scores import AGREEMENT, DIVERGENCE, TaskKind
from autolr.spec.study import StudySpec
from autolr.tasks.base import Task
from autolr.tasks.scorer import Scorer

_CLOSE = 1e-4
"""Share of the largest value by which batches of another size may move another."""


def check(kind: TaskKind, spec: StudySpec, model: Any, tokenizer: Any, *, size: int = 8) -> Task:
    """Run a task through the laws, on a small model and its data; the task must be in the table.

    The laws: it builds a task; the four parts have examples, and equal contents give equal digests; batches hold every
    example once, in the order that the task says; vectors for the Fisher information are as many as it says, of the
    logits' shape, and finite; the scorer gives every score of the task, within its bounds, on some examples as on all,
    again the same, and the same from what is stored; the comparer finds no divergence of the dense model from itself,
    and some of another model; the model is left as it was.

    Args:
        kind: the task to test.
        spec: a specification with this task and its data.
        model: a dense model that it can be built for, in eval mode.
        tokenizer: the model's, with a padding token.
        size: examples in a batch.

    Returns:
        The task that was built.

    Raises:
        AssertionError: a law is broken; the message names the law and the figure.
    """
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    task = kind.builder(spec, model, tokenizer, "the model")
    label = f"task {kind.name}"
    assert isinstance(task, Task), f"{label} lacks methods of autolr.tasks.Task"
    assert task.noun == kind.noun, f"{label}: its noun is {task.noun!r}, its record's {kind.noun!r}"
    parts, again = task.load_parts(spec), task.load_parts(spec)
    assert parts.digests() == again.digests(), f"{label}: the parts differ from one reading to the next"
    for name in PARTS:
        assert len(getattr(parts, name)) > 0, f"{label}: the {name} part has no example"
    data = parts.search
    _check_batches(task, data, size, label)
    _check_cotangents(task, model, data, size, label)
    _check_scorer(task, kind, model, data, size, label)
    _check_comparer(task, model, data, size, label)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{label} changed the model's {name}"
    return task


def _check_batches(task: Task, data: Data, size: int, label: str) -> None:
    batches, order = task.batches(data, size, "cpu"), task.order(data)
    assert sorted(order) == list(range(len(data))), f"{label}: the order of the batches is not one of all examples"
    rows = sum(len(batch["input_ids"]) for batch in batches)
    assert rows // len(data) * len(data) == rows >= len(data), f"{label}: {len(data)} examples, {rows} rows"
    some = order[: max(1, len(data) // 2)]
    assert task.order(data.select(some)) == list(range(len(some))), f"{label}: chosen examples lose their order"
    assert 0 <= task.cut(data) <= len(data), f"{label}: {task.cut(data)} of {len(data)} examples are cut"


def _check_cotangents(task: Task, model: Any, data: Data, size: int, label: str) -> None:
    batch = {name: tensor for name, tensor in task.batches(data, size, "cpu")[0].items() if name != "labels"}
    with torch.no_grad():
        logits = model(**batch).logits
    vectors = task.cotangents(logits, batch["attention_mask"].bool())
    assert len(vectors) == task.backward_passes, f"{label}: {len(vectors)} vectors, not {task.backward_passes}"
    for vector in vectors:
        assert vector.shape == logits.shape, f"{label}: a vector of shape {tuple(vector.shape)} for logits"
        assert bool(torch.isfinite(vector).all()), f"{label}: a vector for the Fisher information is not finite"


def _check_scorer(task: Task, kind: TaskKind, model: Any, data: Data, size: int, label: str) -> None:
    batches, order = task.batches(data, size, "cpu"), task.order(data)
    scorer = task.scorer(model, data, batches)
    scores = scorer.compare(scorer.dense)
    wanted = {score.name for score in kind.given() if score.exponential_of is None}
    assert set(scores) == wanted, f"{label} gives {sorted(scores)}, its record says {sorted(wanted)}"
    for name, score in scores.items():
        low, high = kind.score(name).bounds
        assert low <= score.value <= high, f"{label}: {name} is {score.value}, outside [{low:g}, {high:g}]"
    _check_same(scorer, scorer.answers(model, batches), f"{label}: the same model scores otherwise again")
    stored = task.stored_scorer(data, batches, scorer.kept())
    _check_same(scorer, stored.dense, f"{label}: what is stored gives other scores", stored)
    whole = len(scorer.dense) == 1 != len(data)
    assert whole or len(scorer.dense) == len(data), f"{label}: {len(scorer.dense)} answers to {len(data)} examples"
    if whole:
        return
    rows = torch.arange(0, len(data), 2)
    few = task.batches(data.select(order[row] for row in rows.tolist()), size, "cpu")
    part, total = scorer.values(scorer.answers(model, few, rows), rows), scorer.values(scorer.dense)
    for name, values in part.items():
        expected = total[name][rows]
        close = _CLOSE * float(expected.abs().max().clamp(min=1.0))
        assert bool(((values - expected).abs() <= close).all()), f"{label}: {name} of some examples is not that of all"


def _check_same(scorer: Scorer, answers: torch.Tensor, complaint: str, other: Scorer | None = None) -> None:
    again = (other or scorer).values(answers)
    for name, values in scorer.values(scorer.dense).items():
        assert torch.allclose(values, again[name], atol=_CLOSE), f"{complaint}: {name}"


def _check_comparer(task: Task, model: Any, data: Data, size: int, label: str) -> None:
    batches = task.batches(data, size, "cpu")
    comparer = task.comparer(model, data, batches)
    own = comparer.compare(comparer.dense)
    for needed in (DIVERGENCE.name, AGREEMENT.name):
        assert needed in own, f"{label}: its comparer gives no {needed}"
    assert abs(own[DIVERGENCE.name].value) < _CLOSE, f"{label}: the dense model diverges from itself"
    assert own[AGREEMENT.name].value == 1.0, f"{label}: the dense model does not agree with itself"
    changed = comparer.score(_disturbed(model))[DIVERGENCE.name].value
    assert changed > 0.0, f"{label}: another model does not diverge from the dense one"


def _disturbed(model: nn.Module) -> nn.Module:
    other, random = copy.deepcopy(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for matrix in _matrices(other):
            matrix.add_(0.3 * matrix.std() * torch.randn(matrix.shape, generator=random).to(matrix))
    return other


def _matrices(model: nn.Module) -> Sequence[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.dim() > 1]
