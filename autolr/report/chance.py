"""Whether a model is better than always giving the commonest answer."""

from collections.abc import Mapping
from typing import Any


def at_chance(accuracy: Mapping[str, Any], majority: float) -> bool:
    """Tell whether an accuracy is not distinguishably above the share of the commonest label: by two standard errors.

    Example:
        >>> at_chance({"value": 0.35, "stderr": 0.02}, 0.34), at_chance({"value": 0.80, "stderr": 0.02}, 0.34)
        (True, False)
    """
    return bool(accuracy["value"] <= majority + 2 * accuracy["stderr"])
