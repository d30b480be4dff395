"""The dense model's cost, as the study keeps it: what ratios and other budgets refer to. Read without torch."""

import optuna

from autolr.errors import UsageError
from autolr.limits import Budget
from autolr.records import Conditions, Cost

DENSE_COST = "dense_cost"
"""The study's attribute that holds it."""


def stored_dense_cost(study: optuna.Study) -> Cost:
    """Return what the search kept in the study.

    Raises:
        UsageError: it is lost.
    """
    if DENSE_COST not in study.user_attrs:
        raise UsageError("the dense model's cost is not in the study; autolr resume puts it there once more")
    stored = study.user_attrs[DENSE_COST]
    return Cost.from_amounts(stored["amounts"], Conditions.from_plain(stored["conditions"]))


def check_priced(budget: Budget, dense: Cost) -> None:
    """Raise where a budget is of a quantity that was not measured: a time, in a study without one.

    Raises:
        UsageError: naming the quantities that are known.
    """
    if budget.quantity not in dense.quantities:
        raise UsageError(
            f"budget {budget.text}: this study did not measure {budget.quantity}; known are "
            f"{', '.join(dense.quantities)}"
        )
