"""From the study's trials to candidates: the sampler of the study's space, how many it proposes at once, decoding.

Several candidates are proposed at once where trials are short, so that the sampler costs little beside the evaluations.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from optuna.trial import Trial

from autolr.model.inputs import mean_length
from autolr.problem import LoadedProblem
from autolr.records import Candidate
from autolr.search.sampler.base import SpaceInfo
from autolr.search.sampler.encoding import Params
from autolr.search.sampler.fixed_space import SpaceSampler, suggested
from autolr.search.sampler.registry import SAMPLERS
from autolr.search.spaces import Space
from autolr.search.study.candidates import CandidateIndex
from autolr.search.study.computed_costs import computed_costs

N_STARTUP = 8
"""Trials with parameters before the sampler builds a model; the knapsack's seeds count."""
QUALITY = 0
"""A study is judged by the best quality at its whole budget, one end of the front; quality is its first objective."""
SHARE = 0.1
"""Of a trial's time that its proposal may take."""
FIRST_SECONDS, NEXT_SECONDS = 0.25, 0.04
"""What the first and each later proposal of a batch takes on one core (100 trials, 12 parameters)."""
FLOPS_PER_SECOND = {"cpu": 5e10, "cuda": 2e13}
"""Nominal speed of scoring: nominal, so that the same seed gives the same study on any machine of that kind."""
MOST = 4
"""Proposals at once: each knows the results of the batches before, none those of its own."""
WORKERS_EACH, MANY_WORKERS, MOST_FOR_WORKERS = 4, 64, 64
"""With several workers, one more proposal at once for so many of them; from so many on one for two, and the most then:
what one process can propose limits how many it keeps busy, and what so many run at the same time is unknown anyway."""


@dataclass
class Proposals:
    """Proposes the candidates of one study.

    Attributes:
        inputs: the opened inputs.
        space: of the parameters.
        candidates: which were evaluated: they are not proposed again where the sampler asks.
    """

    inputs: LoadedProblem
    space: Space
    candidates: CandidateIndex
    _decoded: dict[str, Candidate] = field(default_factory=dict)

    def sampler(self, at_once: Callable[[], int]) -> SpaceSampler:
        """Return the sampler of the study.

        Args:
            at_once: returns how many candidates to propose together.
        """
        spec, space = self.inputs.spec, self.space.distributions()
        info = SpaceInfo(space, N_STARTUP, self._is_new, QUALITY, computed_costs(self.space, self.inputs))
        return SpaceSampler(SAMPLERS.get(spec.search.sampler), info, spec.seed, at_once)

    def candidate(self, trial: Trial) -> Candidate:
        """Return what a trial is to evaluate: what it was enqueued with, else what its parameters stand for."""
        if "candidate" in trial.user_attrs:
            return Candidate.from_json(trial.user_attrs["candidate"])
        return self.decode(suggested(trial, self.space.distributions()))

    def decode(self, params: Params) -> Candidate:
        """Return the candidate that parameters stand for, worked out once."""
        key = repr(sorted(params.items()))
        if key not in self._decoded:
            self._decoded[key] = self.space.decode(params)
        return self._decoded[key]

    def _is_new(self, params: Params, batch: Sequence[Params]) -> bool:
        digest = self.decode(params).digest
        return self.candidates.is_new(digest) and digest not in {self.decode(other).digest for other in batch}


def proposals_at_once(inputs: LoadedProblem) -> int:
    """Return the number for a study: the specification's, or one derived from the nominal time of a trial."""
    search = inputs.spec.search
    if search.proposals is not None:
        return search.proposals
    dense = inputs.costs.dense
    flops = (
        dense.flops / (dense.conditions.batch_size * dense.conditions.seq_len) * mean_length(inputs.batches("search"))
    )
    quantity, limit = next(iter(inputs.limits.items()))
    share = min(limit / dense.get(quantity), 1.0) if quantity != "throughput" else 1.0
    speed = FLOPS_PER_SECOND.get(inputs.model.device.type, FLOPS_PER_SECOND["cuda"])
    for_time = needed(len(inputs.parts.search) * flops * share * (0.5 if search.racing else 1.0) / speed)
    return max(for_time, for_workers(inputs.spec.crew.workers))


def for_workers(workers: int) -> int:
    """Return how many proposals at once keep so many workers busy.

    Example:
        >>> for_workers(1), for_workers(8), for_workers(63), for_workers(128)
        (1, 2, 16, 64)
    """
    return min(-(-workers // (2 if workers >= MANY_WORKERS else WORKERS_EACH)), MOST_FOR_WORKERS)


def needed(seconds: float) -> int:
    """Return how many proposals at once keep their mean time below ``SHARE`` of a trial of so many seconds.

    Example:
        >>> needed(10.0), needed(1.0), needed(0.01)
        (1, 4, 4)
    """
    spare = SHARE * seconds - NEXT_SECONDS
    if spare <= 0:
        return MOST
    return min(max(1, -int(-(FIRST_SECONDS - NEXT_SECONDS) // spare)), MOST)
