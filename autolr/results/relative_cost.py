"""A cost beside the dense model's, in the form that every file of a study has it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autolr.records import Conditions, Cost

RATIO_DIGITS = 6
"""Digits after the point of a stored ratio."""


@dataclass(frozen=True)
class RelativeCost:
    """A candidate's cost, and what share of the dense model's it is.

    Attributes:
        amounts: quantity -> amount: FLOPs, parameters, bytes, milliseconds.
        ratios: quantity -> amount / the dense model's, rounded to ``RATIO_DIGITS``.
        conditions: that the amounts hold under.
    """

    amounts: Mapping[str, int | float]
    ratios: Mapping[str, float]
    conditions: Conditions

    @classmethod
    def of(cls, cost: Cost, dense: Cost) -> "RelativeCost":
        """Return a cost relative to the dense model's."""
        ratios = cost.ratios(dense)
        return cls(
            {quantity: cost.get(quantity) for quantity in ratios},
            {quantity: round(ratio, RATIO_DIGITS) for quantity, ratio in ratios.items()},
            cost.conditions,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the stored form: ``{"absolute": …, "ratio": …, "conditions": …}``."""
        return {"absolute": dict(self.amounts), "ratio": dict(self.ratios), "conditions": asdict(self.conditions)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "RelativeCost":
        """Rebuild it from :meth:`to_json`'s form.

        Raises:
            KeyError, TypeError: the plain form is damaged.
        """
        return cls(dict(plain["absolute"]), dict(plain["ratio"]), Conditions.from_plain(plain["conditions"]))
