"""What a study as a whole holds beside its trials: attributes of the Optuna study. Read without torch."""

from dataclasses import asdict

import optuna

from autolr.errors import UsageError
from autolr.records import Conditions, Cost

DENSE_COST = "dense_cost"
"""What the dense model costs: ratios and other budgets refer to it."""
WARM_START = "warm start"
"""The points that it took from another study."""
FINGERPRINT = "fingerprint"
"""In a database: what its results depend on."""


def store_dense_cost(study: optuna.Study, dense: Cost) -> None:
    """Keep the dense model's cost in the study, once."""
    if DENSE_COST not in study.user_attrs:
        amounts = {quantity: dense.get(quantity) for quantity in dense.quantities}
        study.set_user_attr(DENSE_COST, {"amounts": amounts, "conditions": asdict(dense.conditions)})


def stored_dense_cost(study: optuna.Study) -> Cost:
    """Return the dense model's cost as the search kept it in the study.

    Raises:
        UsageError: it is lost.
    """
    if DENSE_COST not in study.user_attrs:
        raise UsageError("the dense model's cost is not in the study; resume the study, which puts it there once more")
    stored = study.user_attrs[DENSE_COST]
    return Cost.from_amounts(stored["amounts"], Conditions.from_plain(stored["conditions"]))
