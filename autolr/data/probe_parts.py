"""A study's probing tasks: disjoint test sentences for search, selection and report, the same training sentences."""

from collections.abc import Mapping
from pathlib import Path

from autolr.config import DataSpec
from autolr.data.probing import ProbingTask, dealt, load_probing_tasks
from autolr.errors import UsageError

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
        if len(task.test) < 2 * len(PARTS):
            raise UsageError(
                f"probing task {task.name} has {len(task.test)} test sentences; at least {2 * len(PARTS)} are needed, "
                f"to divide them among {', '.join(PARTS)}"
            )
    divided = [_divided(task) for task in tasks]
    return {part: tuple(of_task[index] for of_task in divided) for index, part in enumerate(PARTS)}


def _divided(task: ProbingTask) -> list[ProbingTask]:
    """Return the task once for each part, each with a share of the test sentences and of each class of them."""
    hands = dealt(task.test.labels, len(PARTS))
    return [ProbingTask(task.name, task.classes, task.train, task.test.select(hand)) for hand in hands]
