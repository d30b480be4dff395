"""The candidates that a study begins with: dense as trial 0, the knapsack's, uniform ones, another study's best."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import optuna
from optuna.trial import TrialState

from autolr.problem import LoadedProblem
from autolr.records import Candidate
from autolr.search.preparation import Prepared
from autolr.search.sampler.encoding import Params
from autolr.search.study.proposals import Proposals
from autolr.search.study.study_attributes import WARM_START
from autolr.search.study.transfer import warm_points
from autolr.search.study.trial_record import ORIGIN


class FirstCandidate(NamedTuple):
    """A candidate that is evaluated whatever the sampler proposes; without parameters it lies outside the space."""

    origin: str
    params: Params
    candidate: Candidate


def enqueue_first_candidates(
    study: optuna.Study, inputs: LoadedProblem, prepared: Prepared, proposals: Proposals
) -> int:
    """Put the first candidates into the queue, once each; return how many different ones there are.

    Args:
        study: Optuna's.
        inputs: the opened inputs.
        prepared: the space with its seeds, and the candidates outside it.
        proposals: decodes parameters.
    """
    trials = [t for t in study.get_trials(deepcopy=False) if t.state != TrialState.FAIL]
    present = {t.user_attrs.get(ORIGIN) for t in trials}
    room = inputs.spec.trials - len(trials)
    digests: set[str] = set()
    for first in _first_candidates(study, inputs, prepared, proposals):
        new = first.candidate.digest not in digests
        digests.add(first.candidate.digest)
        if new and first.origin not in present and room > 0:
            # without parameters it is not of this space, or the space is of a single point
            content = {} if first.params else {"candidate": first.candidate.to_json()}
            study.enqueue_trial(first.params, user_attrs={ORIGIN: first.origin, **content})
            room -= 1
    return len(digests)


def _first_candidates(
    study: optuna.Study, inputs: LoadedProblem, prepared: Prepared, proposals: Proposals
) -> Iterator[FirstCandidate]:
    spec, space = inputs.spec, prepared.space
    outside = [FirstCandidate(name, {}, candidate) for name, candidate in prepared.fixed.items()]
    seeds = space.seeds(spec.seed, spec.trials)
    if spec.search.warm_start is not None:
        if WARM_START not in study.user_attrs:  # once: the other study may go on, or be deleted
            study.set_user_attr(WARM_START, warm_points(Path(spec.search.warm_start), space.distributions()))
        seeds = study.user_attrs[WARM_START] | seeds
    inside = [FirstCandidate(name, params, proposals.decode(params)) for name, params in seeds.items()]
    yield from [*outside[:1], *inside[:1], *outside[1:], *inside[1:]]
