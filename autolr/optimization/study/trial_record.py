"""What a study stores of a trial that was scored: a record, and the JSON that it is in the study and in its file.

Read without torch. The JSON is that of the trial's user attributes; number, values and constraints are Optuna's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from optuna.trial import FrozenTrial

from autolr.optimization.sampler.history import ESTIMATE, STDERR
from autolr.records import Candidate, Score
from autolr.results.relative_cost import RelativeCost

ORIGIN = "origin"
"""Attribute of a trial that the sampler did not propose: where its candidate comes from."""
OWNER, DEATHS = "owner", "deaths"
"""Attributes of a trial of a database: who runs it; how often its owner died."""
SURPLUS = "surplus"
"""Attribute of a trial that one process of several claimed once too often; it was never run."""
REASON = "reason"
"""Attribute of a failed trial: why."""
REQUIRED = frozenset({"candidate", "digest", "costs", "scores"})
"""Attributes of every trial that was scored."""


@dataclass(frozen=True)
class TrialRecord:
    """A trial that was scored: on everything, or until a race stopped it.

    Attributes:
        number: of the trial.
        candidate: what was evaluated.
        digest: of the candidate, as it was stored.
        cost: of the candidate.
        scores: by name; estimates where it was stopped.
        seconds: spent on each step: ``propose``, ``compress``, ``score``, and ``probe`` where there are probes.
        constraints: budget or floor -> a number that is at most 0 where it is met.
        values: of the study's objectives; estimates where it was stopped.
        errors: their standard errors, as far as trials differ; empty in studies that did not store them.
        origin: where the candidate comes from; None: the sampler proposed it.
        stopped_by: the trial that was better with confidence; None: it was scored on everything.
        same_as: the trial of the same candidate whose scores it has; None: it was evaluated itself.

    Example:
        >>> from autolr.records import Conditions
        >>> cost = RelativeCost({"flops": 50}, {"flops": 0.5}, Conditions(1, 128, "float32"))
        >>> record = TrialRecord(3, Candidate(), Candidate().digest, cost, {"loss": Score(2.0, 0.1, 9)},
        ...     {"score": 1.5}, {"0.6x-flops": -0.1}, (2.0, 0.5), (0.1, 0.0), origin="dense")
        >>> record.feasible, list(record.to_json())
        (True, ['candidate', 'digest', 'costs', 'scores', 'seconds', 'stderr'])
    """

    number: int
    candidate: Candidate
    digest: str
    cost: RelativeCost
    scores: Mapping[str, Score]
    seconds: Mapping[str, float]
    constraints: Mapping[str, float]
    values: tuple[float, ...]
    errors: tuple[float, ...] = ()
    origin: str | None = None
    stopped_by: int | None = None
    same_as: int | None = None

    @property
    def feasible(self) -> bool:
        """Whether it meets every budget and floor."""
        return all(excess <= 0 for excess in self.constraints.values())

    @property
    def stopped(self) -> bool:
        """Whether a race stopped it before everything was scored."""
        return self.stopped_by is not None

    def to_json(self) -> dict[str, Any]:
        """Return the attributes that the study is told of it."""
        plain: dict[str, Any] = {
            "candidate": self.candidate.to_json(),
            "digest": self.digest,
            "costs": self.cost.to_json(),
            "scores": {name: score.to_json() for name, score in self.scores.items()},
            "seconds": dict(self.seconds),
        }
        if self.stopped_by is not None:
            plain["stopped_by"] = self.stopped_by
        if self.same_as is not None:
            plain["same_as"] = self.same_as
        if self.stopped:
            plain[ESTIMATE] = {"values": list(self.values), "stderr": list(self.errors)}
        elif self.errors:
            plain[STDERR] = list(self.errors)
        return plain

    @classmethod
    def from_json(
        cls, number: int, attributes: Mapping[str, Any], constraints: Mapping[str, float], values: tuple[float, ...]
    ) -> "TrialRecord":
        """Rebuild a record.

        Args:
            number: of the trial.
            attributes: all user attributes of the trial; the first keys of its file are the same.
            constraints: of the trial.
            values: that the study was told; none of a stopped trial, whose attributes hold its estimates.
        """
        estimate = attributes.get(ESTIMATE)
        return cls(
            number,
            Candidate.from_json(attributes["candidate"]),
            attributes["digest"],
            RelativeCost.from_json(attributes["costs"]),
            {name: Score.from_json(score) for name, score in attributes["scores"].items()},
            attributes.get("seconds", {}),
            constraints,
            values if estimate is None else tuple(estimate["values"]),
            tuple(attributes.get(STDERR, ()) if estimate is None else estimate["stderr"]),
            attributes.get(ORIGIN),
            attributes.get("stopped_by"),
            attributes.get("same_as"),
        )

    @classmethod
    def of(cls, trial: FrozenTrial) -> "TrialRecord":
        """Return the record of an Optuna trial that is complete or was stopped."""
        return cls.from_json(trial.number, trial.user_attrs, trial.constraints, tuple(trial.values or ()))

    def copied(self, number: int, seconds: Mapping[str, float], origin: str | None) -> "TrialRecord":
        """Return the record of another trial with the same candidate, which is not evaluated once more."""
        return replace(self, number=number, seconds=seconds, origin=origin, same_as=self.number)


@dataclass(frozen=True)
class FailureRecord:
    """A trial that could not be evaluated.

    Attributes:
        number: of the trial.
        candidate: what was to be evaluated.
        reason: why it was not.
        seconds: that the proposal took.
    """

    number: int
    candidate: Candidate
    reason: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the attributes that the study is told of it."""
        return {REASON: self.reason, "digest": self.candidate.digest}
