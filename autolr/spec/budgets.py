"""What a search must keep to: budgets, limits on what a model costs, and quality floors, limits on what it may lose.

A budget is a limit on one quantity: relative to the dense model (``0.5x-latency``, ``50%-params``, ``-30%-flops``) or
absolute (``12ms-latency``, ``400MB-memory``, ``2.5G-flops``). ``2x-throughput`` is another way to write 0.5x-latency.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from math import inf, log

from autolr.errors import UsageError, nearest
from autolr.records import QUANTITIES, Cost
from autolr.scores import SCORES, ScoreKind

_BUDGET = re.compile(
    r"(?P<sign>-?)(?P<number>\d+(?:\.\d+)?|\.\d+)(?P<unit>x|%|[mu]?s|[kKMGT]?B?)-(?P<quantity>[a-z-]+)"
)
_PREFIX = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_MILLISECONDS = {"s": 1e3, "ms": 1.0, "us": 1e-3}
BUDGETED = (*QUANTITIES, "latency")
"""What a budget may limit."""
_EXAMPLES = "0.5x-latency, 12ms-latency, 0.5x-flops, 50%-params, -30%-flops, 400MB-memory"


@dataclass(frozen=True)
class Budget:
    """A limit on one quantity.

    Attributes:
        text: as the user wrote it.
        quantity: one of flops, params, nonembedding-params, memory, latency.
        value: a share of the dense model's in (0, 1], or an absolute number (FLOPs, parameters, bytes, milliseconds).
        relative: which of the two ``value`` is.

    Example:
        >>> Budget.parse("-30%-flops").value, Budget.parse("400MB-memory").value
        (0.7, 400000000.0)
    """

    text: str
    quantity: str
    value: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read a budget.

        Raises:
            UsageError: it is malformed, names an unknown quantity or asks for more than the dense model or for nothing.
        """
        match = _BUDGET.fullmatch(text.strip())
        if match is None:
            raise UsageError(f"malformed budget {text!r}: must be a number, a unit and a quantity, such as {_EXAMPLES}")
        quantity, unit = match["quantity"], match["unit"]
        number = float(match["number"])
        if quantity == "throughput":
            return cls._throughput(text.strip(), number, unit, match["sign"])
        if quantity not in BUDGETED:
            raise UsageError(f"unknown quantity {quantity!r} in budget {text!r}; {nearest(quantity, BUDGETED)}")
        relative = unit in ("x", "%")
        if relative:
            share = number / 100 if unit == "%" else number
            value = round(1 - share if match["sign"] else share, 12)
            if not 0 < value <= 1:
                raise UsageError(f"budget {text!r} is {value:g} of the dense model; it must lie in (0, 1]")
            return cls(text.strip(), quantity, value, True)
        if match["sign"]:
            raise UsageError(f"budget {text!r}: a reduction must be relative, such as -30%-{quantity}")
        if (unit in _MILLISECONDS) != (quantity == "latency"):
            hint = "write 12ms-latency" if quantity == "latency" else "only latency is a time"
            raise UsageError(f"budget {text!r} gives {quantity} in {unit or 'no unit'}; {hint}, or 0.5x-{quantity}")
        if quantity == "latency":
            if number <= 0:
                raise UsageError(f"budget {text!r} allows no time at all; it must be above zero")
            return cls(text.strip(), quantity, number * _MILLISECONDS[unit], False)
        if unit.endswith("B") and quantity != "memory":
            raise UsageError(
                f"budget {text!r} counts {quantity} in bytes; only memory is, write {text.replace('B-', '-')}"
            )
        value = number * _PREFIX[unit.removesuffix("B")]
        if value < 1:
            hint = f"; a share of the dense model is written {match['number']}x-{quantity}" if value > 0 else ""
            raise UsageError(f"budget {text!r} allows {value:g} {quantity}; it must allow at least 1{hint}")
        return cls(text.strip(), quantity, value, False)

    @classmethod
    def _throughput(cls, text: str, number: float, unit: str, sign: str) -> "Budget":
        if unit != "x" or sign or number < 1:
            raise UsageError(
                f"budget {text!r}: throughput is given as a multiple of the dense model's, at least 1, as 2x-throughput"
            )
        return cls(text, "latency", round(1 / number, 12), True)

    def limit(self, dense: Cost) -> float:
        """Return the largest allowed amount of the quantity.

        A share is taken as the decimal that was written: 57 % of 100 is 57, not 56.99999999999999.
        """
        return float(Fraction(repr(self.value)) * Fraction(dense.get(self.quantity))) if self.relative else self.value


@dataclass(frozen=True)
class Floor:
    """A score that is barely acceptable: ``accuracy>=0.98*dense``, ``accuracy>=0.8``, ``perplexity<=1.1*dense``.

    Attributes:
        text: as the user wrote it.
        metric: a score; where less is better, ``value`` is the most that is acceptable.
        value: the threshold, or the share of the dense model's score.
        relative: which of the two ``value`` is.

    Example:
        >>> Floor.parse("accuracy >= 0.98*dense").threshold(0.5)
        0.49
    """

    text: str
    metric: str
    value: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> "Floor":
        """Read a floor.

        Raises:
            UsageError: it is malformed, names an unknown score or one without floors, or a value that the score cannot
                have; of a share of the dense model's score one outside (0, 1], where more is better.
        """
        floored, ceiled = (
            [kind.name for kind in SCORES if kind.limit and kind.better == better] for better in ("larger", "smaller")
        )
        match = re.fullmatch(r"\s*([a-z][a-z0-9_-]*?)\s*([<>]=)\s*(\d*\.?\d+)\s*(\*\s*dense)?\s*", text)
        if match is None:
            raise UsageError(
                f"malformed floor {text!r}: must look like 'accuracy>=0.98*dense' or 'accuracy>=0.8' "
                f"({', '.join(floored)}), or 'perplexity<=1.1*dense' ({', '.join(ceiled)})"
            )
        metric, value, relative = match[1], float(match[3]), match[4] is not None
        if metric not in (*floored, *ceiled):
            raise UsageError(f"unknown metric {metric!r} in floor {text!r}; {nearest(metric, (*floored, *ceiled))}")
        kind = SCORES.get(metric)
        if (match[2] == ">=") != (kind.better == "larger"):
            better = "less" if kind.better == "smaller" else "more"
            raise UsageError(f"floor {text!r}: of {metric} {better} is better; turn the sign round")
        least, most = (0.0, 1.0 if kind.better == "larger" else inf) if relative else kind.bounds
        if not least < value <= most:
            allowed = f"be above {least:g}" if most == inf else f"lie in ({least:g}, {most:g}]"
            raise UsageError(f"floor {text!r} is {value:g}; it must {allowed}")
        return cls(text.strip(), metric, value, relative)

    @property
    def kind(self) -> ScoreKind:
        """The record of the score that it names."""
        return SCORES.get(self.metric)

    @property
    def score(self) -> str:
        """Name of the score that is looked at: a perplexity is the exponential of a loss."""
        return self.kind.measured

    def threshold(self, dense_value: float) -> float:
        """Return the score that is barely acceptable, given the dense model's; of an exponential its logarithm."""
        if self.kind.exponential_of is not None:
            return log(self.value) + (dense_value if self.relative else 0.0)
        return self.value * dense_value if self.relative else self.value

    def shortfall(self, value: float, dense_value: float) -> float:
        """Return by how much a score misses it; ≤ 0 where it is met, also exactly (a share of a share is rounded).

        Example:
            >>> Floor.parse("accuracy>=0.9*dense").shortfall(9 / 50, 10 / 50) <= 0
            True
        """
        gap = self.threshold(dense_value) - value
        return (-gap if self.kind.better == "smaller" else gap) - 1e-9


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
