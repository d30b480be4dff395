"""What a trial came to, written to disk and then told to the study: so that a kill cannot come between."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import hypot

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from autolr.problem import LoadedProblem
from autolr.results import RelativeCost
from autolr.scores import PROBE
from autolr.search.optuna_access import as_stored
from autolr.search.racing.incumbents import Incumbents
from autolr.search.study.candidates import Claim
from autolr.search.study.dashboard_notes import note_trial
from autolr.search.study.evaluator import constraints
from autolr.search.study.folder import StudyFolder
from autolr.search.study.trial_file import failed_content, scored_content
from autolr.search.study.trial_record import ORIGIN, FailureRecord, TrialRecord
from autolr.types import Evaluation, Score

SECONDS_DIGITS = 4
"""Digits after the point of stored seconds."""


@dataclass
class Recorder:
    """Writes what the trials of a study came to.

    Attributes:
        study: Optuna's.
        inputs: the opened inputs.
        folder: of the files.
        incumbents: keep the answers of what was scored on everything.
        dense_scores: of the dense model, which floors may be relative to.
    """

    study: optuna.Study
    inputs: LoadedProblem
    folder: StudyFolder
    incumbents: Incumbents
    dense_scores: Mapping[str, Score] = field(default_factory=dict)

    def evaluated(self, claim: Claim, evaluation: Evaluation) -> TrialRecord:
        """Return the record of a trial that was evaluated, and keep its answers on disk."""
        spec, dense, number = self.inputs.spec, self.inputs.costs.dense, claim.trial.number
        cost, scores = RelativeCost.of(evaluation.cost, dense), evaluation.scores
        stopped, error = evaluation.stopped_by is not None, evaluation.stderr
        if evaluation.logits is not None:
            self.incumbents.keep(number, evaluation.candidate, evaluation.logits)
            error = self.incumbents.stderr(evaluation.logits)
        elif evaluation.stopped_by is not None:
            error = hypot(error, self.incumbents.stderr_of(evaluation.stopped_by))
        values = [scores[spec.search.objective].value, cost.ratios[spec.parsed_budgets[0].quantity]]
        errors = [error, 0.0]
        if spec.search.probe_axis:  # then nothing is stopped early
            values.append(scores[PROBE.name].value)
            errors.append(evaluation.probe_stderr)
        floors = () if stopped else spec.parsed_floors  # an estimate decides no floor
        return TrialRecord(
            number=number,
            candidate=evaluation.candidate,
            digest=evaluation.candidate.digest,
            cost=cost,
            scores=scores,
            seconds=_rounded({**evaluation.seconds, "propose": claim.proposed}),
            constraints=constraints(evaluation, spec.parsed_budgets, floors, dense, self.dense_scores),
            values=tuple(values),
            errors=tuple(errors),
            origin=claim.trial.user_attrs.get(ORIGIN),
            stopped_by=evaluation.stopped_by,
        )

    def copied(self, claim: Claim, number: int) -> TrialRecord:
        """Return the record of a trial whose candidate another one, of this number, has scored already."""
        original = TrialRecord.of(self.study.get_trials(deepcopy=False)[number])
        seconds = _rounded({"compress": 0.0, "score": 0.0, "propose": claim.proposed})
        return original.copied(claim.trial.number, seconds, claim.trial.user_attrs.get(ORIGIN))

    def tell(self, claim: Claim, record: TrialRecord) -> bool:
        """Write a record and tell the study; return whether the trial was still this process's.

        In a database another process may have closed the trial, because this one seemed dead: then it is theirs.
        """
        trial = claim.trial
        try:
            for name, content in record.to_json().items():
                trial.set_user_attr(name, content)
            stored = as_stored(trial)
            for name, excess in record.constraints.items():
                if name not in stored.constraints:  # of a trial that is taken up again some may be set
                    trial.set_constraint(name, excess)
            note_trial(trial, record)
            sampler = self.inputs.spec.search.sampler
            self.folder.write_trial(trial.number, scored_content(as_stored(trial), record, sampler))
            if record.stopped:
                self.study.tell(trial, state=TrialState.PRUNED)
            else:
                self.study.tell(trial, list(record.values))
        except UpdateFinishedTrialError:
            return False
        return True

    def failed(self, claim: Claim, reason: str) -> FailureRecord:
        """Write the file of a trial that failed, and return its record, which the study is to be told."""
        trial = claim.trial
        record = FailureRecord(trial.number, claim.candidate, reason, round(claim.proposed, SECONDS_DIGITS))
        content = failed_content(as_stored(trial), record, self.inputs.spec.search.sampler)
        self.folder.write_trial(trial.number, content)
        return record


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, SECONDS_DIGITS) for name, value in seconds.items()}
