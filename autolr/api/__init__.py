"""The Python API: searching, choosing, exporting and measuring, with objects or with places on disk.

    import autolr

    study = autolr.search(model, tokenizer=tokenizer, train=rows, validation=others, budget="0.5x-flops")
    study.front, study.winner, study.report
    study.export("compressed")
    model, tokenizer = autolr.load("compressed")

Every option of ``autolr search --help`` is an argument, with underscores for dashes. Nothing is printed unless
``progress`` asks for it, and what a call changes of its process, such as torch's number of threads, is put back. Errors
are those of :mod:`autolr.errors`: ``UsageError`` for what cannot be used as given, ``BudgetError`` for a budget out of
reach, ``Stopped`` for work that can be resumed.
"""

from autolr.api.measuring import bench, compare, evaluate, load, probe
from autolr.api.searching import estimate, search
from autolr.api.study import Study
from autolr.api.trimming import trim
from autolr.tasks.own import own_task

__all__ = ["Study", "bench", "compare", "estimate", "evaluate", "load", "own_task", "probe", "search", "trim"]
