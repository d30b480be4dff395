"""A trial's file, trials/<n>.json: its candidate and measurements, and all else that the study holds of it.

So the study can be rebuilt from these files. Those written before parameters were in them give a trial back without.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any

from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from autolr.optimization.study.trial_record import ORIGIN, FailureRecord, TrialRecord
from autolr.records import Candidate
from autolr.scores import PROBE
from autolr.spec.study import StudySpec

STATES = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
_OWN = {"trial", "state", "values", "constraints", "origin", "params", "distributions", "attributes"}
"""Keys that are no attributes of the trial; of a failed one its candidate and seconds are none either."""


def scored_content(trial: FrozenTrial, record: TrialRecord, sampler: str) -> dict[str, Any]:
    """Return what the file of a trial that was scored holds.

    Args:
        trial: as it is in the study.
        record: what is told of it.
        sampler: that proposed it, where it has no other origin.
    """
    told = record.to_json()
    head = {"trial": record.number, **told, "constraints": dict(record.constraints), "origin": record.origin or sampler}
    state, values = ("stopped", None) if record.stopped else ("complete", list(record.values))
    return {**head, "state": state, "values": values, **_held(trial, told)}


def failed_content(trial: FrozenTrial, record: FailureRecord, sampler: str) -> dict[str, Any]:
    """Return what the file of a trial that failed holds; see :func:`scored_content`."""
    told = record.to_json()
    candidate, seconds = record.candidate.to_json(), {"propose": record.seconds}
    origin = trial.user_attrs.get(ORIGIN, sampler)
    head = {"trial": record.number, **told, "candidate": candidate, "seconds": seconds, "constraints": {}}
    held = _held(trial, {*told, "candidate", "seconds"})
    return {**head, "origin": origin, "state": "failed", "values": None, **held}


def _held(trial: FrozenTrial, told: Collection[str]) -> dict[str, Any]:
    """Return what the study holds of a trial besides what it is told."""
    distributions = {name: json.loads(distribution_to_json(part)) for name, part in trial.distributions.items()}
    attributes = {name: value for name, value in trial.user_attrs.items() if name not in told}
    return {"params": trial.params, "distributions": distributions, "attributes": attributes}


def restored_trial(content: Mapping[str, Any], number: int, spec: StudySpec) -> FrozenTrial:
    """Return the trial that a file's content describes; its times are those of now.

    Args:
        content: of the file.
        number: of the trial, as the file's name says.
        spec: the study's.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: the content is damaged.
    """
    if content["trial"] != number:
        raise ValueError(f"it is the file of trial {content['trial']}")
    state = STATES[content.get("state", "stopped" if "stopped_by" in content else "complete")]
    if Candidate.from_json(content["candidate"]).digest != content["digest"]:
        raise ValueError("its candidate is not the one of its digest")
    own = _OWN | ({"candidate", "seconds"} if state == TrialState.FAIL else set())
    attributes = {name: value for name, value in content.items() if name not in own}
    origin = {} if content["origin"] == spec.search.sampler else {ORIGIN: content["origin"]}
    distributions = {
        name: json_to_distribution(json.dumps(part)) for name, part in content.get("distributions", {}).items()
    }
    return create_trial(
        state=state,
        values=_values(content, number, spec) if state == TrialState.COMPLETE else None,
        params=dict(content.get("params", {})),
        distributions=distributions,
        user_attrs=attributes | content.get("attributes", origin),
        constraints=content["constraints"],
    )


def _values(content: Mapping[str, Any], number: int, spec: StudySpec) -> list[float]:
    """Return the objectives of a complete trial; old files have them only among its scores and costs."""
    record = TrialRecord.from_json(number, content, content["constraints"], tuple(content.get("values", ())))
    measured = [record.scores[spec.search.objective].value, record.cost.ratios[spec.parsed_budgets[0].quantity]]
    axis = [record.scores[PROBE.name].value] if spec.search.probe_axis else []
    values = list(record.values) or measured + axis
    if values[: len(measured)] != measured:
        raise ValueError("its values are not those of its scores and costs")
    return values
