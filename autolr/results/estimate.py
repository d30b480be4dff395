"""What a search would reach and take, before anything is spent."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autolr.records import Conditions


@dataclass(frozen=True)
class BudgetEstimate:
    """What a budget asks for, and what is possible.

    Attributes:
        budget: as the user wrote it.
        quantity: what it limits.
        dense: the dense model's amount: FLOPs, parameters, bytes, milliseconds.
        limit: the largest amount allowed.
        lowest: the smallest amount that any candidate has.
        predicted_divergence: of the best candidate within it by the error curves, nats per example; None where the
            study has not calibrated yet.

    Example:
        >>> half = BudgetEstimate("0.5x-flops", "flops", 200, 100.0, 20)
        >>> half.ratio, half.lowest_ratio, half.reachable
        (0.5, 0.1, True)
    """

    budget: str
    quantity: str
    dense: int | float
    limit: float
    lowest: int | float
    predicted_divergence: float | None = None

    @property
    def ratio(self) -> float:
        """The limit as a share of the dense model's amount."""
        return self.limit / self.dense

    @property
    def lowest_ratio(self) -> float:
        """The smallest amount as a share of the dense model's."""
        return self.lowest / self.dense

    @property
    def reachable(self) -> bool:
        """Whether any candidate meets it."""
        return self.lowest <= self.limit

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        told = {"ratio": self.ratio, "lowest_ratio": self.lowest_ratio, "reachable": self.reachable}
        return {**asdict(self), **told}


@dataclass(frozen=True)
class LatencyEstimate:
    """How well latency is predicted.

    Attributes:
        dense_ms: of the dense model, milliseconds of one forward pass.
        median_error: of whole models that were timed, predicted against measured, as a share.
        worst_error: the largest of these.
        conditions: that the times hold under.
    """

    dense_ms: float
    median_error: float
    worst_error: float
    conditions: Conditions

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        return asdict(self)


@dataclass(frozen=True)
class Estimate:
    """What a search would reach and take.

    Attributes:
        model: what would be compressed.
        layers: how many layers can be.
        left_dense: layer -> why it stays dense.
        budgets: as they were asked for.
        seconds: stage -> seconds on this device; ``total`` is their sum. Starting, the rehearsal, proposing, exporting,
            and timing for a budget in time are not in it.
        disk_bytes: of the bank and one checkpoint.
        passing_bytes: on disk while a model is calibrated block by block; none otherwise.
        latency: where a budget is a time; else None.
    """

    model: str
    layers: int
    left_dense: Mapping[str, str]
    budgets: tuple[BudgetEstimate, ...]
    seconds: Mapping[str, float]
    disk_bytes: int
    passing_bytes: int
    latency: LatencyEstimate | None = None

    @property
    def reachable(self) -> bool:
        """Whether each budget, taken by itself, can be met."""
        return all(budget.reachable for budget in self.budgets)

    def to_json(self) -> dict[str, Any]:
        """Return the plain form that ``autolr estimate --json`` prints."""
        return {
            "model": self.model,
            "layers": self.layers,
            "latency": None if self.latency is None else self.latency.to_json(),
            "left_dense": dict(self.left_dense),
            "budgets": [budget.to_json() for budget in self.budgets],
            "seconds": dict(self.seconds),
            "disk_bytes": self.disk_bytes,
            "passing_bytes": self.passing_bytes,
        }
