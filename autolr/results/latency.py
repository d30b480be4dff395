"""What the clock said of an exported checkpoint, beside what was predicted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LatencyCheck:
    """Times of a checkpoint in processes of its own, taken in turn with the dense model's.

    Attributes:
        ms: median over the processes, milliseconds of one forward pass.
        ratio: median over the processes of its time / the dense model's.
        ratio_range: the lowest and the highest ratio.
        processes: of each process the ratio and the ends of its 95 % interval.
        within: whether the medians meet every latency budget.

    Example:
        >>> check = LatencyCheck(12.0, 0.5, (0.48, 0.52), ((0.5, 0.49, 0.51),), True)
        >>> LatencyCheck.from_json(check.to_json()) == check
        True
    """

    ms: float
    ratio: float
    ratio_range: tuple[float, float]
    processes: tuple[tuple[float, float, float], ...]
    within: bool

    def to_json(self) -> dict[str, Any]:
        """Return the plain form that result.json has."""
        return {
            "ms": self.ms,
            "ratio": self.ratio,
            "ratio_range": list(self.ratio_range),
            "processes": [list(process) for process in self.processes],
            "within": self.within,
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "LatencyCheck":
        """Rebuild it from :meth:`to_json`'s form.

        Raises:
            KeyError, ValueError: the plain form is damaged.
        """
        low, high = plain["ratio_range"]
        processes = tuple((ratio, least, most) for ratio, least, most in plain["processes"])
        return cls(plain["ms"], plain["ratio"], (low, high), processes, plain["within"])
