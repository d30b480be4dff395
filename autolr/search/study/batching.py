"""How many candidates are proposed at once, so that the sampler costs little beside the evaluations."""

from autolr.model.inputs import mean_length
from autolr.problem import Inputs

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


def proposals_at_once(inputs: Inputs) -> int:
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
