"""A study's claim: what the winner and the dense model score on data that nothing was chosen on."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp
from typing import Any

from autolr.records import Score
from autolr.results.latency import LatencyCheck
from autolr.results.scores import Scores, scores_from_json, scores_to_json
from autolr.scores import ACCURACY, SCORES

_DIFFERENCE = "_difference"
"""Ending of a key that holds the paired difference of one score alone; all of them are under ``differences``."""
_HEADLINE = ACCURACY.name
"""Of files that do not name it."""


@dataclass(frozen=True)
class Difference:
    """A difference of two measured numbers, with its standard error."""

    value: float
    stderr: float

    def to_json(self) -> dict[str, float]:
        """Return the plain form."""
        return {"value": self.value, "stderr": self.stderr}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Difference":
        """Rebuild it from :meth:`to_json`'s form."""
        return cls(plain["value"], plain["stderr"])


@dataclass(frozen=True)
class ProbeScores:
    """What probes read in one model.

    Attributes:
        mean: accuracy over all tasks.
        tasks: accuracy by task.
    """

    mean: Score
    tasks: Scores

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        return {"mean": self.mean.to_json(), "tasks": scores_to_json(self.tasks)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "ProbeScores":
        """Rebuild it from :meth:`to_json`'s form."""
        return cls(Score.from_json(plain["mean"]), scores_from_json(plain["tasks"]))


@dataclass(frozen=True)
class ProbeReport:
    """What probes read in both models.

    Attributes:
        dense: in the dense model.
        compressed: in the winner.
        difference: of the means, compressed − dense, paired.
    """

    dense: ProbeScores
    compressed: ProbeScores
    difference: Difference

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        return {
            "dense": self.dense.to_json(),
            "compressed": self.compressed.to_json(),
            "difference": self.difference.to_json(),
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "ProbeReport":
        """Rebuild it from :meth:`to_json`'s form."""
        dense, compressed = ProbeScores.from_json(plain["dense"]), ProbeScores.from_json(plain["compressed"])
        return cls(dense, compressed, Difference.from_json(plain["difference"]))


@dataclass(frozen=True)
class RecoveryNote:
    """What was done to the winner's layers after truncation, in words.

    Attributes:
        name: of the recovery.
        layers: how many it changed.
        did: what was done to them, such as "refitted by least squares on calibration data".
        trains: it trained the model.
    """

    name: str
    layers: int
    did: str
    trains: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        return {"name": self.name, "layers": self.layers, "did": self.did, "trains": self.trains}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "RecoveryNote":
        """Rebuild it from :meth:`to_json`'s form."""
        return cls(plain["name"], plain["layers"], plain["did"], plain["trains"])


_REFITTED = "refitted by least squares"
"""What a file says without words that counts the layers of a refit."""


@dataclass(frozen=True)
class Report:
    """Scores on the report part, on which nothing is chosen.

    Attributes:
        data: where it is from.
        dense: scores of the dense model.
        compressed: scores of the winner as exported.
        differences: compressed − dense, paired, of the scores that are counted example by example.
        majority: the headline's value of always giving the commonest answer; None where there is none.
        headline: the score that is stated first and as a share of the dense model's.
        search: what the winner as exported scores on the search part; none in files from before it was measured.
        optimism: score -> what the winner loses on the report part less what it loses on the search part: above zero
            the search part flatters; none in files from before it was measured.
        probes: what probes read; None in a study without.
        recovery: what was done after truncation; None: nothing.
        latency: the winner's times; None in a study without a budget in time.
        overlap: how many examples of the report part were also calibrated or chosen on; 0 in files from before they
            were counted.
    """

    data: str
    dense: Scores
    compressed: Scores
    differences: Scores
    majority: float | None
    headline: str
    search: Scores | None = None
    optimism: Mapping[str, Difference] | None = None
    probes: ProbeReport | None = None
    recovery: RecoveryNote | None = None
    latency: LatencyCheck | None = None
    overlap: int = 0

    def share(self, name: str) -> float | None:
        """Return the winner's score as a share of the dense model's; None where that is 0."""
        dense = self.dense[name].value
        return self.compressed[name].value / dense if dense else None

    @property
    def unseen(self) -> str:
        """What its data were not used for, in words, with how many of them were all the same."""
        said = "that nothing was chosen on"
        if not self.overlap:
            return said
        return f"{said}, of which {self.overlap} are also among those calibrated or chosen on"

    @property
    def exponentials(self) -> dict[str, dict[str, float]]:
        """Of scores that are commonly stated as their exponential: its name -> that of both models."""
        both = {"dense": self.dense, "compressed": self.compressed}
        return {
            kind.name: {which: exp(scores[kind.measured].value) for which, scores in both.items()}
            for kind in SCORES
            if kind.exponential_of in self.compressed
        }

    def to_json(self) -> dict[str, Any]:
        """Return the plain form that result.json has."""
        plain: dict[str, Any] = {
            "data": self.data,
            "dense": scores_to_json(self.dense),
            "compressed": scores_to_json(self.compressed),
        }
        if self.search is not None:
            plain["search"] = scores_to_json(self.search)
        plain["differences"] = scores_to_json(self.differences)
        plain["headline"] = self.headline
        plain[f"{self.headline}{_DIFFERENCE}"] = self.differences[self.headline].to_json()
        plain[f"{self.headline}_ratio"] = self.share(self.headline)
        if self.probes is not None:
            plain["probes"] = self.probes.to_json()
        for name, values in self.exponentials.items():
            measured = SCORES.get(name).measured
            plain |= {name: values, f"{measured}{_DIFFERENCE}": self.differences[measured].to_json()}
        if self.optimism is not None:
            plain["optimism"] = {name: gap.to_json() for name, gap in self.optimism.items()}
        plain["refitted"] = self.recovery.layers if self.recovery is not None else 0
        if self.recovery is not None:
            plain["recovery"] = self.recovery.to_json()
        plain["majority"] = self.majority
        if self.latency is not None:
            plain["latency"] = self.latency.to_json()
        if self.overlap:
            plain["overlap"] = self.overlap
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Report":
        """Rebuild a report from :meth:`to_json`'s form, or from a file that an earlier version wrote.

        Raises:
            KeyError, TypeError, ValueError: the plain form is damaged.
        """
        single = {key.removesuffix(_DIFFERENCE): plain[key] for key in plain if key.endswith(_DIFFERENCE)}
        return cls(
            data=plain["data"],
            dense=scores_from_json(plain["dense"]),
            compressed=scores_from_json(plain["compressed"]),
            differences=scores_from_json(plain.get("differences", single)),
            majority=plain["majority"],
            headline=plain.get("headline", _HEADLINE),
            search=scores_from_json(plain["search"]) if "search" in plain else None,
            optimism=_optimism(plain["optimism"]) if "optimism" in plain else None,
            probes=ProbeReport.from_json(plain["probes"]) if "probes" in plain else None,
            recovery=_recovery(plain),
            latency=LatencyCheck.from_json(plain["latency"]) if "latency" in plain else None,
            overlap=plain.get("overlap", 0),
        )


def _optimism(plain: Mapping[str, Any]) -> dict[str, Difference]:
    return {name: Difference.from_json(gap) for name, gap in plain.items()}


def _recovery(plain: Mapping[str, Any]) -> RecoveryNote | None:
    if "recovery" in plain:
        return RecoveryNote.from_json(plain["recovery"])
    count = plain.get("refitted", 0)
    return RecoveryNote("refit", count, _REFITTED) if count else None
