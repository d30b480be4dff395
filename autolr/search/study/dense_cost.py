"""The dense model's cost, as the study keeps it: what ratios and other budgets refer to. Read without torch."""

import optuna

from autolr.errors import UsageError
from autolr.records import Conditions, Cost

DENSE_COST = "dense_cost"
"""The study's attribute that holds it."""


def stored_dense_cost(study: optuna.Study) -> Cost:
    """Return what the search kept in the study.

    Raises:
        UsageError: it is lost.
    """
    if DENSE_COST not in study.user_attrs:
        raise UsageError("the dense model's cost is not in the study; resume the study, which puts it there once more")
    stored = study.user_attrs[DENSE_COST]
    return Cost.from_amounts(stored["amounts"], Conditions.from_plain(stored["conditions"]))
