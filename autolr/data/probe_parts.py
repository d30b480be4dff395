"""A study's probing tasks: disjoint test sentences for search, selection and report, the same training sentences."""

from collections.abc import Mapping
from pathlib import Path

from autolr.config import DataSpec
from autolr.data.probing import ProbingTask, Sentences, load_probing_tasks
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
    return {part: tuple(_part(task, index) for task in tasks) for index, part in enumerate(PARTS)}


def _part(task: ProbingTask, index: int) -> ProbingTask:
    """Return the task with every third of its test sentences, from the index on."""
    mine = slice(index, None, len(PARTS))
    test = Sentences(task.test.texts[mine], task.test.labels[mine])
    return ProbingTask(task.name, task.classes, task.train, test)
