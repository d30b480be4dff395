"""The tables: which scores and which tasks there are."""

from collections.abc import Iterable

from autolr.errors import AutolrError
from autolr.registry import Registry
from autolr.scores.built_in import ACCURACY, AGREEMENT, BUILT_IN, DIVERGENCE, LOSS, PERPLEXITY
from autolr.scores.kind import ScoreKind
from autolr.scores.task_kind import TaskKind

NLI = TaskKind(
    "nli",
    build="autolr.tasks.choose:inference",
    scores=(ACCURACY, AGREEMENT, DIVERGENCE),
    objective=DIVERGENCE.name,
    headline=ACCURACY.name,
    help="whether one sentence follows from another, answered by a classifier or in words",
    noun="pairs",
    commonest="answering the commonest label",
    check="the labels and --label-names",
    left_out="rows without a gold label left out",
    options=("premise_column", "hypothesis_column", "label_column", "label_names", "templates", "words"),
    classes=True,
)
LM = TaskKind(
    "lm",
    build="autolr.tasks.choose:language",
    scores=(LOSS, ACCURACY, AGREEMENT, DIVERGENCE, PERPLEXITY),
    objective=DIVERGENCE.name,
    headline=ACCURACY.name,
    help="the next tokens of text",
    noun="blocks",
    subject="next tokens found: ",
    commonest="naming the commonest token",
    check="the text, the tokenizer and --seq-len",
    left_out="tokens at the end, which fill no block, left out",
    options=("text_column",),
    next_tokens=True,
    pads=False,
)


def _scores() -> Iterable[ScoreKind]:
    """Return the built-in scores and those that tasks bring."""
    rows = {score.name: score for score in BUILT_IN}
    for task in TASKS:
        for score in task.scores:
            if rows.setdefault(score.name, score) != score:
                raise AutolrError(f"task {task.name} brings another score {score.name!r} than the one in use")
    return rows.values()


TASKS: Registry[TaskKind] = Registry("task", TaskKind, lambda: (NLI, LM))
SCORES: Registry[ScoreKind] = Registry("score", ScoreKind, _scores)


def add_task(kind: TaskKind) -> TaskKind:
    """Make a task known in this process alone, under its name, and with it its scores.

    Raises:
        UsageError: it is no task, or its name is no name.
        AutolrError: the name, or that of one of its scores, is in use by another.
    """
    before = TASKS.add(kind)
    SCORES.forget()
    try:
        SCORES.all()
    except AutolrError:
        forget_task(kind.name)
        if before is not None:
            TASKS.add(before)
        raise
    return kind


def forget_task(name: str) -> None:
    """Take away a task that was made known in this process, and its scores."""
    TASKS.remove(name)
    SCORES.forget()
