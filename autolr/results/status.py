"""How far a study is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Failure:
    """A trial that failed.

    Attributes:
        trial: its number.
        reason: the error's text.
    """

    trial: int
    reason: str


@dataclass(frozen=True)
class StudyStatus:
    """How far a study is.

    Attributes:
        study: its folder.
        trials: how many are complete, stopped, failed, running, waiting.
        wanted: trials that the search is to have.
        finished: it has the trials that are wanted, and its result is of all of them.
        running: a process of this machine is at work on it.
        budgets: as the user wrote them.
        floors: as the user wrote them.
        front: numbers of the trials on the front, by rising cost.
        winner: the trial that was chosen; None before the study has ended.
        trial_seconds: spent on trials, all workers together.
        failures: the trials that failed.
    """

    study: str
    trials: Mapping[str, int]
    wanted: int
    finished: bool
    running: bool
    budgets: tuple[str, ...]
    floors: tuple[str, ...]
    front: tuple[int, ...]
    winner: int | None
    trial_seconds: float
    failures: tuple[Failure, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the plain form that ``autolr status --json`` prints."""
        return {
            "study": self.study,
            "trials": dict(self.trials),
            "wanted": self.wanted,
            "finished": self.finished,
            "running": self.running,
            "budgets": list(self.budgets),
            "floors": list(self.floors),
            "front": list(self.front),
            "winner": self.winner,
            "trial_seconds": self.trial_seconds,
            "failures": [{"trial": failure.trial, "reason": failure.reason} for failure in self.failures],
        }
