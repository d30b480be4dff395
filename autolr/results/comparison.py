"""What several ways to search found, at equal budgets: the content of comparison.json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autolr.records import Score


@dataclass(frozen=True)
class Step:
    """One evaluation of a study.

    Attributes:
        seconds: it took.
        examples: it was scored on; 0 where nothing was scored anew.
        ratio: of the budget's quantity to the dense model's.
        value: the objective; None where it was over the budget or stopped.
    """

    seconds: float
    examples: int
    ratio: float
    value: float | None


@dataclass(frozen=True)
class Outcome:
    """What one finished study found.

    Attributes:
        reached: its winner meets everything.
        ratio: of the winner, of the budget's quantity to the dense model's.
        headline: name of the task's first score; of it, on the report part:
        score: the winner's.
        dense: the dense model's.
        share: the first as a share of the second; None where that is 0.
        objective: name of the score that a search of the task goes by, unless it is told another.
        objective_score: the winner's on the report part.
        exponentials: scores that are stated as exponentials, of the winner.
        majority: what the commonest answer alone gives; None where there is no such level.
        trials: that it rests on.
        trace: its evaluations in turn.
    """

    reached: bool
    ratio: float
    headline: str
    score: Score
    dense: Score
    share: float | None
    objective: str
    objective_score: Score
    exponentials: Mapping[str, float]
    majority: float | None
    trials: int
    trace: tuple[Step, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        return {
            "reached": self.reached,
            "ratio": self.ratio,
            self.headline: self.score.to_json(),
            f"dense_{self.headline}": self.dense.to_json(),
            f"{self.headline}_ratio": self.share,
            "majority": self.majority,
            self.objective: self.objective_score.to_json(),
            **self.exponentials,
            "trials": self.trials,
            "trace": [[step.seconds, step.examples, step.ratio, step.value] for step in self.trace],
        }

    def figures(self) -> dict[str, float | None]:
        """Return what is summed up over the seeds, by name."""
        scores = {self.headline: self.score.value, self.objective: self.objective_score.value}
        return {f"{self.headline}_ratio": self.share, **scores, "ratio": self.ratio, **self.exponentials}


@dataclass(frozen=True)
class Row:
    """One study of a comparison.

    Attributes:
        entry: the way to search.
        budget: of the study.
        seed: of the study.
        outcome: what it found; None where the budget cannot be reached.
        reason: why it cannot.
    """

    entry: str
    budget: str
    seed: int
    outcome: Outcome | None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        plain = {"entry": self.entry, "budget": self.budget, "seed": self.seed}
        return plain | ({"reason": self.reason} if self.outcome is None else self.outcome.to_json())


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over the seeds; None for the latter where there is one seed."""

    mean: float
    deviation: float | None


@dataclass(frozen=True)
class Cell:
    """One entry at one budget.

    Attributes:
        seeds: finished.
        reached: how many of these met everything.
        figures: by name.
    """

    seeds: int
    reached: int
    figures: Mapping[str, Spread]

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        figures = {name: [spread.mean, spread.deviation] for name, spread in self.figures.items()}
        return {"seeds": self.seeds, "reached": self.reached, **figures}


@dataclass(frozen=True)
class SearchCurve:
    """What an entry's searches found, evaluation by evaluation.

    Attributes:
        area: dominated after each, as a share of the best entry's at the end, mean over the seeds.
        deviation: over the seeds; None where there is one.
        seconds: spent until then.
        examples: scored until then.
        evaluations: the first after which the mean area is nearly 1; None: never.
    """

    area: tuple[float, ...]
    deviation: tuple[float, ...] | None
    seconds: tuple[float, ...]
    examples: tuple[float, ...]
    evaluations: int | None

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class ComparisonSummary:
    """A comparison, as far as it is finished.

    Attributes:
        task: of all its studies.
        budgets: in their order.
        seeds: in their order.
        trials: of each study.
        rows: one for each study.
        table: entry -> budget -> what its seeds found; None where none did.
        search: entry -> its curve; empty where the entries do not search by the task's objective, or more of it is
            better.
        conditions: all that was asked for, in the form of the YAML file.
    """

    task: str
    budgets: tuple[str, ...]
    seeds: tuple[int, ...]
    trials: int
    rows: tuple[Row, ...]
    table: Mapping[str, Mapping[str, Cell | None]]
    search: Mapping[str, SearchCurve]
    conditions: Mapping[str, Any]

    def outcomes(self, entry: str | None = None, budget: str | None = None) -> list[Outcome]:
        """Return what the studies found that are finished: of an entry at a budget, or of all."""
        return [
            row.outcome
            for row in self.rows
            if row.outcome is not None and entry in (None, row.entry) and budget in (None, row.budget)
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the plain form of comparison.json."""
        return {
            "conditions": dict(self.conditions),
            "rows": [row.to_json() for row in self.rows],
            "table": {
                entry: {budget: None if cell is None else cell.to_json() for budget, cell in cells.items()}
                for entry, cells in self.table.items()
            },
            "search": {entry: curve.to_json() for entry, curve in self.search.items()},
        }
