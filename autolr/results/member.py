"""A member of a study's front: the model that was measured, its cost, its scores, what was found of it later."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from autolr.records import Candidate
from autolr.results.latency import LatencyCheck
from autolr.results.relative_cost import RelativeCost
from autolr.results.scores import Scores, scores_from_json, scores_to_json

FINALISTS = 4
"""Members of the front, the best on the selection part, that are recovered and scored again."""
NEARLY_BEST = 0.01
"""How much of the headline score may be given for what the probes read, where they are an objective."""


@dataclass(frozen=True)
class Variant:
    """A model that can be measured: a candidate, as it was truncated or after a recovery.

    Attributes:
        candidate: what is done to each layer.
        recovery: name of what was done after truncation; None: nothing.

    Example:
        >>> plain, recovered = Variant(Candidate()), Variant(Candidate(), "refit")
        >>> plain.digest == plain.candidate.digest, recovered.digest == plain.digest
        (True, False)
    """

    candidate: Candidate
    recovery: str | None = None

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits that identify the model: the candidate's own where nothing was recovered."""
        if self.recovery is None:
            return self.candidate.digest
        return hashlib.sha256(f"{self.candidate.digest} {self.recovery}".encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Selection:
    """What a member was worth on the selection part, by which the winner is chosen.

    Attributes:
        scores: there, of the variant that counts.
        keeps_floors: they keep every floor.
        before_recovery: what the truncated model scored there, where a recovery was better and counts; else None.
    """

    scores: Scores
    keeps_floors: bool
    before_recovery: Scores | None = None


@dataclass(frozen=True)
class FrontMember:
    """One point of a front.

    Attributes:
        trial: its number.
        origin: what proposed it.
        variant: the model.
        cost: what it costs, and as shares of the dense model's.
        scores: on the search part, of the truncated model; empty where it was solved for and never measured.
        constraints: budget or floor -> by how much it is missed; at most 0 where it is met.
        selection: its scores on the selection part; None before the study has ended.
        latency: its times as a checkpoint; None where it was not timed.
    """

    trial: int
    origin: str
    variant: Variant
    cost: RelativeCost
    scores: Scores
    constraints: Mapping[str, float]
    selection: Selection | None = None
    latency: LatencyCheck | None = None

    def __str__(self) -> str:
        """Return what it is in one line; everything is in ``repr``."""
        ratios = ", ".join(f"{ratio:.3f}x {quantity}" for quantity, ratio in self.cost.ratios.items())
        scores = ", ".join(f"{name} {score.value:.4g} ± {score.stderr:.1g}" for name, score in self.scores.items())
        scored = f"on the search part {scores}" if scores else "not scored"
        return f"trial {self.trial} ({self.origin}): {ratios}; {scored}"

    @property
    def candidate(self) -> Candidate:
        """What is done to each layer."""
        return self.variant.candidate

    @property
    def selected(self) -> Selection:
        """What it was worth on the selection part, of a member that was scored there."""
        assert self.selection is not None, f"trial {self.trial} was not scored on the selection part"
        return self.selection

    def to_json(self) -> dict[str, Any]:
        """Return the plain form that front.json and result.json have; ``digest`` is the candidate's."""
        plain = {
            "trial": self.trial,
            "origin": self.origin,
            "candidate": self.candidate.to_json(),
            "digest": self.candidate.digest,
            "costs": self.cost.to_json(),
            "scores": scores_to_json(self.scores),
            "constraints": dict(self.constraints),
        }
        if self.selection is not None:
            plain |= {"selection": scores_to_json(self.selection.scores), "keeps_floors": self.selection.keeps_floors}
            if self.selection.before_recovery is not None:
                plain["before_refit"] = scores_to_json(self.selection.before_recovery)
        if self.variant.recovery is not None:
            plain |= {"recovery": self.variant.recovery, "variant": self.variant.digest}
        if self.latency is not None:
            plain["latency"] = self.latency.to_json()
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "FrontMember":
        """Rebuild a member from :meth:`to_json`'s form; files from before recoveries had names know refitting alone.

        Raises:
            KeyError, TypeError, ValueError: the plain form is damaged.
        """
        selection = None
        if "selection" in plain:
            before = scores_from_json(plain["before_refit"]) if "before_refit" in plain else None
            selection = Selection(scores_from_json(plain["selection"]), plain["keeps_floors"], before)
        recovery = plain.get("recovery", "refit" if "before_refit" in plain else None)
        return cls(
            trial=plain["trial"],
            origin=plain["origin"],
            variant=Variant(Candidate.from_json(plain["candidate"]), recovery),
            cost=RelativeCost.from_json(plain["costs"]),
            scores=scores_from_json(plain["scores"]),
            constraints=dict(plain["constraints"]),
            selection=selection,
            latency=LatencyCheck.from_json(plain["latency"]) if "latency" in plain else None,
        )
