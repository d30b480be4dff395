"""Times of checkpoints, taken in turn."""

from dataclasses import asdict, dataclass
from typing import Any

from autolr.records import Conditions


@dataclass(frozen=True)
class Timing:
    """The time of one of the things compared.

    Attributes:
        median: seconds.
        low: lower quartile over the rounds, seconds.
        high: upper quartile, seconds.
        ratio: median over the rounds of its time / the first one's.
        ratio_low: lower end of the ratio's 95 % confidence interval.
        ratio_high: its upper end.
        rounds: how many rounds were run.
        settled: the interval is as narrow as was asked for; if not, the machine is too noisy or the time was too short.
    """

    median: float
    low: float
    high: float
    ratio: float
    ratio_low: float
    ratio_high: float
    rounds: int
    settled: bool


@dataclass(frozen=True)
class TimedModel(Timing):
    """The times of one checkpoint; ``model`` is where it lies."""

    model: str


@dataclass(frozen=True)
class Bench:
    """Several checkpoints compared by the clock.

    Attributes:
        conditions: that the times hold under.
        engine: the software that ran them.
        models: in the order given; ratios refer to the first.
    """

    conditions: Conditions
    engine: str
    models: tuple[TimedModel, ...]

    @property
    def settled(self) -> bool:
        """Whether each ratio is known as closely as was asked for."""
        return all(model.settled for model in self.models)

    def to_json(self) -> dict[str, Any]:
        """Return the plain form that ``autolr bench --json`` prints."""
        return {
            **asdict(self),
            "models": [{"model": timed.model, **asdict(timed)} for timed in self.models],
            "settled": self.settled,
        }
