"""The content of result.json: what a study came to."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from autolr.results.member import FrontMember
from autolr.results.report import Report


@dataclass(frozen=True)
class StudyResult:
    """The outcome of a study.

    Attributes:
        winner: the chosen trial.
        reached: it meets every budget and floor.
        members: the front's members (the nearest trials where there is none), each with its scores on the selection
            part, by rising cost.
        report: the winner's and the dense model's scores on the report part.
        trials: how many it rests on.
        checkpoint: the winner's, relative to the study's folder; None where none was wanted.
    """

    winner: int
    reached: bool
    members: tuple[FrontMember, ...]
    report: Report
    trials: int
    checkpoint: str | None

    @cached_property
    def winning(self) -> FrontMember:
        """The member that was chosen."""
        return self.member(self.winner)

    def member(self, trial: int) -> FrontMember:
        """Return the member of a number.

        Raises:
            KeyError: there is none.
        """
        for member in self.members:
            if member.trial == trial:
                return member
        raise KeyError(trial)

    def to_json(self) -> dict[str, Any]:
        """Return the plain form of result.json."""
        return {
            "winner": self.winner,
            "reached": self.reached,
            "members": [member.to_json() for member in self.members],
            "report": self.report.to_json(),
            "trials": self.trials,
            "checkpoint": self.checkpoint,
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "StudyResult":
        """Rebuild a result from :meth:`to_json`'s form, or from a file that an earlier version wrote.

        Raises:
            KeyError, TypeError, ValueError: the plain form is damaged.
        """
        return cls(
            winner=plain["winner"],
            reached=plain["reached"],
            members=tuple(FrontMember.from_json(member) for member in plain["members"]),
            report=Report.from_json(plain["report"]),
            trials=plain["trials"],
            checkpoint=plain["checkpoint"],
        )
