"""A task made of a plain function that scores a model, for notebooks and scripts."""

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, signature
from typing import Any

from torch import nn

from autolr.data.examples import Example
from autolr.errors import UsageError
from autolr.scores import ScoreKind, TaskKind, add_task
from autolr.tasks.example_scorer import Values
from autolr.tasks.examples import ExampleTask, Text


def own_task(
    name: str,
    score: Callable[..., Values | Mapping[str, Values]],
    scores: Sequence[ScoreKind] | ScoreKind,
    text: Callable[[Example], Text] | None = None,
    **described: Any,
) -> TaskKind:
    """Make a task of a function and make it known in this process, where the same name may be given again.

    Args:
        name: of the task.
        score: ``score(model, examples)``, or ``score(model)`` where it has data of its own: then it says the same on
            every part, and nothing it is chosen by is new when it is reported. Returns a value for each example, or one
            number, or such by name of the score where there are several; see :meth:`ExampleTask.score`.
        scores: what it gives; the first is the objective and the headline unless ``described`` says otherwise.
        text: the text or pair of texts of an example; None: its text column, or premise and hypothesis.
        described: other fields of :class:`autolr.scores.TaskKind`, such as ``objective`` and ``noun``.

    Raises:
        UsageError: the function takes another number of arguments.
        AutolrError: the name, or that of a score, is in use.

    Example:
        >>> kind = own_task("short-answers", lambda model: 0.5, ScoreKind("shortness", "larger"))
        >>> kind.objective
        'shortness'
        >>> from autolr.scores import forget_task
        >>> forget_task(kind.name)
    """
    kinds = (scores,) if isinstance(scores, ScoreKind) else tuple(scores)
    takes_examples = _positional(score) > 1

    class OwnTask(ExampleTask):
        def score(self, model: nn.Module, examples: Sequence[Example]) -> Mapping[str, Values]:
            given = score(model, examples) if takes_examples else score(model)
            return given if isinstance(given, Mapping) else {kinds[0].name: given}

        def text(self, example: Example) -> Text:
            return super().text(example) if text is None else text(example)

    return add_task(TaskKind(name, build=OwnTask, scores=kinds, **described))


def _positional(score: Callable[..., Any]) -> int:
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [one for one in signature(score).parameters.values() if one.kind in kinds]
    required = [one for one in parameters if one.default is Parameter.empty]
    if not 1 <= len(required) <= 2:
        raise UsageError(
            f"a task's function must take a model, or a model and examples, got {len(required)} arguments: "
            f"{', '.join(one.name for one in required)}"
        )
    return len(required)
