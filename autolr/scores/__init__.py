"""What is measured of a model, as tables: the scores, and the tasks with the scores that each gives.

They are read without torch, since a specification is checked against them. How to add a score of classification: write
a function of the answers, the dense model's answers and the labels, put it in a :class:`ScoreKind`, and name that in
the entry-point group ``autolr.scores``::

    [project.entry-points."autolr.scores"]
    brier = "mypackage.brier:SCORE"

Then run :func:`autolr.scores.conformance.check` on it. A task of one's own brings its own scores; see
:mod:`autolr.tasks`.
"""

from autolr.scores.built_in import ACCURACY, AGREEMENT, DIVERGENCE, LOSS, PERPLEXITY, PROBE
from autolr.scores.kind import ScoreKind
from autolr.scores.tables import LM, NLI, SCORES, TASKS, add_task, forget_task
from autolr.scores.task_kind import TaskKind

__all__ = [
    "ACCURACY",
    "AGREEMENT",
    "DIVERGENCE",
    "LM",
    "LOSS",
    "NLI",
    "PERPLEXITY",
    "PROBE",
    "SCORES",
    "TASKS",
    "ScoreKind",
    "TaskKind",
    "add_task",
    "forget_task",
]
