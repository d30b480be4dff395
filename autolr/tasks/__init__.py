"""What a model is asked to do: which data it is given, how they become batches, how its answers are scored.

The table is :data:`autolr.scores.TASKS`. How to add a task: derive from :class:`ExampleTask`, or write all of
:class:`Task`; put it in a :class:`autolr.scores.TaskKind` with its scores, and name that in the entry-point group
``autolr.tasks``. Then run :func:`autolr.tasks.conformance.check` on it.
"""

from autolr.tasks.base import Task
from autolr.tasks.choose import task_for
from autolr.tasks.examples import ExampleTask
from autolr.tasks.own import own_task
from autolr.tasks.scorer import Scorer, mean_score

__all__ = ["ExampleTask", "Scorer", "Task", "mean_score", "own_task", "task_for"]
