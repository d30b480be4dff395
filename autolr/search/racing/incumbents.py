"""The candidates of a study that were scored on everything: whom a new one races, and how noisy a score is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from autolr.machine.tensor_cache import read_kept, write_kept
from autolr.problem import LoadedProblem
from autolr.scores import SCORES
from autolr.search.racing.race import COST_TOLERANCE, REFERENCES, Incumbent, Race, example_sizes
from autolr.search.racing.sampling import Array
from autolr.tasks import Scorer
from autolr.tasks.scorer import Answers
from autolr.types import Candidate


@dataclass(frozen=True)
class _Scored:
    """A trial that saw every example: its candidate, its objective's value, whether it keeps budgets and floors."""

    trial: int
    candidate: Candidate
    value: float
    feasible: bool


@dataclass
class Incumbents:
    """The fully scored, compressed trials of a study, and their logits, which are kept in its folder.

    Attributes:
        inputs: the opened inputs.
        scorer: of the search part.
        folder: of the files with the logits.
        rescore: answers a candidate's logits anew, where a file is lost.
    """

    inputs: LoadedProblem
    scorer: Scorer
    folder: Path
    rescore: Callable[[Candidate], Answers]
    _scored: list[_Scored] = field(default_factory=list)
    _logits: dict[int, Answers] = field(default_factory=dict)
    _sizes: Array | None = None

    def keep(self, trial: int, candidate: Candidate, logits: Answers) -> None:
        """Write a trial's logits; before it is told, so that a kill cannot come between."""
        self._logits[trial] = logits
        write_kept(self._file(trial), self._key(candidate), {"logits": logits})

    def add(self, trial: int, candidate: Candidate, value: float, feasible: bool) -> None:
        """Take up a trial that was scored on everything, in the order of the numbers; not the dense model."""
        if candidate.choices:
            self._scored.append(_Scored(trial, candidate, value, feasible))

    def race(self, candidate: Candidate) -> Race | None:
        """Return the race that a candidate has to run, against the best that costs no more in any budget's quantity.

        None where racing is off (with the probes as an objective it is: nothing is known of those of a stopped
        candidate), the first candidates are not all scored, or nothing feasible is as cheap.
        """
        search = self.inputs.spec.search
        if not search.racing or search.probe_axis or not candidate.choices or len(self._scored) < REFERENCES:
            return None
        if len(self.scorer.dense) != len(self.inputs.parts.search):  # one number for all examples
            return None
        sign = SCORES.get(search.objective).sign
        most = [amount * (1 + COST_TOLERANCE) for amount in self._amounts(candidate)]
        cheap = [
            trial
            for trial in self._scored
            if trial.feasible and all(a <= b for a, b in zip(self._amounts(trial.candidate), most, strict=True))
        ]
        if not cheap:
            return None
        best = min(cheap, key=lambda trial: (sign * trial.value, trial.trial))
        if self._sizes is None:
            references = [self._answers(trial) for trial in self._scored[:REFERENCES]]
            self._sizes = example_sizes(self.scorer, search.objective, references)
        return Race(self._sizes, Incumbent(best.trial, self._answers(best)))

    def stderr(self, logits: Answers) -> float:
        """Return the standard error of the objective as far as it differs from the study's first compressed candidate.

        What the examples have in common for all candidates cancels: it moves all scores alike and misleads nobody.
        """
        if not self._scored:
            return 0.0
        name = self.inputs.spec.search.objective
        first = self.scorer.values(self._answers(self._scored[0]))[name].numpy()
        gap = self.scorer.values(logits)[name].numpy() - first
        return float(np.std(gap, ddof=1)) / len(gap) ** 0.5 if len(gap) > 1 else 0.0

    def stderr_of(self, trial: int) -> float:
        """Return the same of a trial that was scored on everything."""
        return self.stderr(self._answers(next(scored for scored in self._scored if scored.trial == trial)))

    def _amounts(self, candidate: Candidate) -> list[float]:
        cost = self.inputs.costs.cost(candidate)
        return [float(cost.get(quantity)) for quantity in self.inputs.limits]

    def _answers(self, scored: _Scored) -> Answers:
        if scored.trial not in self._logits:
            stored = read_kept(self._file(scored.trial), self._key(scored.candidate))
            if stored is None:
                self.keep(scored.trial, scored.candidate, self.rescore(scored.candidate))
            else:
                self._logits[scored.trial] = stored["logits"]
        return self._logits[scored.trial]

    def _file(self, trial: int) -> Path:
        return self.folder / f"{trial}.safetensors"

    def _key(self, candidate: Candidate) -> str:
        return f"{candidate.digest} {self.inputs.parts.search.digest}"
