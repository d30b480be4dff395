"""A trial's file, trials/<n>.json: its candidate and measurements, and all else that the study holds of it.

So the study can be rebuilt from these files. Those written before parameters were in them give a trial back without.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from autolr.scores import PROBE
from autolr.spec.study import StudySpec
from autolr.types import Candidate

STATES = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
_OWN = {"trial", "state", "values", "constraints", "origin", "params", "distributions", "attributes"}
"""Keys that are no attributes of the trial; of a failed one its candidate and seconds are none either."""


def trial_content(
    trial: FrozenTrial,
    state: str,
    measured: Mapping[str, Any],
    values: Sequence[float] | None,
    limits: Mapping[str, float],
    sampler: str,
) -> dict[str, Any]:
    """Return what a trial's file holds.

    Args:
        trial: as it is in the study.
        state: of ``STATES``, that it ends in.
        measured: the attributes that it is told.
        values: of the objectives; None where it was not scored on everything.
        limits: its constraints.
        sampler: that proposed it, where it has no other origin.
    """
    return {
        "trial": trial.number,
        **measured,
        "constraints": dict(limits),
        "origin": trial.user_attrs.get("origin", sampler),
        "state": state,
        "values": values,
        "params": trial.params,
        "distributions": {name: json.loads(distribution_to_json(one)) for name, one in trial.distributions.items()},
        "attributes": {name: value for name, value in trial.user_attrs.items() if name not in measured},
    }


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
    origin = {} if content["origin"] == spec.search.sampler else {"origin": content["origin"]}
    distributions = {
        name: json_to_distribution(json.dumps(one)) for name, one in content.get("distributions", {}).items()
    }
    return create_trial(
        state=state,
        values=_values(content, spec) if state == TrialState.COMPLETE else None,
        params=dict(content.get("params", {})),
        distributions=distributions,
        user_attrs=attributes | content.get("attributes", origin),
        constraints=content["constraints"],
    )


def _values(content: Mapping[str, Any], spec: StudySpec) -> list[float]:
    scores, ratios = content["scores"], content["costs"]["ratio"]
    known = [scores[spec.search.objective]["value"], ratios[spec.parsed_budgets[0].quantity]]
    axis = [scores[PROBE.name]["value"]] if spec.search.probe_axis else []
    values: list[float] = content.get("values", known + axis)
    if values[: len(known)] != known:
        raise ValueError("its values are not those of its scores and costs")
    return values
