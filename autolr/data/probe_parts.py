"""A study's probing tasks: disjoint test sentences for search, selection and report, the same training sentences."""

from collections.abc import Mapping
from pathlib import Path

from autolr.data.probing import ProbingTask, dealt, load_probing_tasks
from autolr.errors import UsageError
from autolr.spec.study import DataSpec

PARTS = ("search", "selection", "report")
ProbeParts = Mapping[str, tuple[ProbingTask, ...]]


def load_probe_parts(spec: DataSpec, seed: int) -> ProbeParts:
    """Return each part's tasks; nothing where a study has no probes.

    Raises:
        UsageError: tasks cannot be read, or one has too few test sentences to divide.
    """
    if spec.probes is None:
        return {}
    tasks = [task.take(spec.probe_train, spec.probe_test, seed) for task in load_probing_tasks(Path(spec.probes))]
    for task in tasks:
        distinct = len(set(task.test.texts))
        if distinct < 2 * len(PARTS):
            raise UsageError(
                f"probing task {task.name} has {distinct} different test sentences; at least {2 * len(PARTS)} are "
                f"needed, to divide them among {', '.join(PARTS)}"
            )
    divided = [_divided(task) for task in tasks]
    return {part: tuple(of_task[index] for of_task in divided) for index, part in enumerate(PARTS)}


def _divided(task: ProbingTask) -> list[ProbingTask]:
    """Return the task once for each part, each with a share of the test sentences and of each class of them.

    A sentence that stands there several times is in one part, as often.
    """
    label_of = dict(zip(task.test.texts, task.test.labels, strict=True))
    part_of = {
        text: part
        for part, hand in enumerate(dealt(list(label_of.values()), len(PARTS)))
        for text in (list(label_of)[row] for row in hand)
    }
    rows = [[row for row, text in enumerate(task.test.texts) if part_of[text] == part] for part in range(len(PARTS))]
    return [ProbingTask(task.name, task.classes, task.train, task.test.select(of_part)) for of_part in rows]
