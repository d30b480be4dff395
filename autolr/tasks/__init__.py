"""What a model is asked to do: which data it is given, how they become batches, how its answers are scored."""

from autolr.tasks.base import Task
from autolr.tasks.choose import task_for
from autolr.tasks.scorer import Scorer, mean_score

__all__ = ["Scorer", "Task", "mean_score", "task_for"]
