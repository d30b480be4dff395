"""The content of front.json: the members of a study's front, or the trials that come nearest."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autolr.results.member import FrontMember


@dataclass(frozen=True)
class Front:
    """A study's front.

    Attributes:
        objectives: names of what the search optimised; none where the members were picked by something else.
        members: by rising cost; none where no trial meets every budget and floor.
        nearest: the trials that come nearest, where there is no member.
        budgets: as the user wrote them.
        floors: as the user wrote them.
        winner: the trial that was chosen; None before the study has ended.
    """

    objectives: tuple[str, ...]
    members: tuple[FrontMember, ...]
    nearest: tuple[FrontMember, ...] = ()
    budgets: tuple[str, ...] = ()
    floors: tuple[str, ...] = ()
    winner: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the plain form of front.json."""
        plain: dict[str, Any] = {
            "objectives": list(self.objectives),
            "budgets": list(self.budgets),
            "floors": list(self.floors),
            "scored_on": "search part",
            "members": [member.to_json() for member in self.members],
        }
        if not self.members:
            plain["nearest"] = [member.to_json() for member in self.nearest]
        if self.winner is not None:
            plain["winner"] = self.winner
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Front":
        """Rebuild a front from :meth:`to_json`'s form.

        Raises:
            KeyError, TypeError, ValueError: the plain form is damaged.
        """
        return cls(
            objectives=tuple(plain["objectives"] or ()),
            members=tuple(FrontMember.from_json(member) for member in plain["members"]),
            nearest=tuple(FrontMember.from_json(member) for member in plain.get("nearest", ())),
            budgets=tuple(plain["budgets"]),
            floors=tuple(plain["floors"]),
            winner=plain.get("winner"),
        )
