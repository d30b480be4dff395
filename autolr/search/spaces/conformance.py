"""The laws every search space obeys, as one function, so that a third-party space can be tested with one call."""

import optuna

from autolr.errors import BudgetError
from autolr.records import Candidate
from autolr.search.optuna_access import takes
from autolr.search.spaces import Space

_POINTS = 20


def check(space: Space, *, seed: int = 0, trials: int = 40) -> None:
    """Run a space through the laws.

    The laws: parameters have names and distributions, always the same; every seed gives each parameter a value that its
    distribution contains, and so says where to begin; a point decodes to a candidate, or to a budget that it cannot
    meet; the same point gives the same candidate, and decoding changes nothing of the point.

    Args:
        space: the space to test.
        seed: of the random points, and of the space's own seeds.
        trials: of the study that the seeds are for.

    Raises:
        AssertionError: a law is broken; the message names the law and the point.

    Example:
        >>> from autolr.search.spaces.rules import RuleSpace
        >>> check(RuleSpace("nothing", Candidate()))
    """
    assert isinstance(space, Space), f"{space!r} lacks a method of autolr.search.spaces.Space"
    distributions = space.distributions()
    assert distributions == space.distributions(), "the parameters differ from one question to the next"
    seeds = space.seeds(seed, trials)
    assert seeds, "there is no point to begin with"
    for origin, point in seeds.items():
        _check_point(space, distributions, dict(point), f"seed {origin!r}")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for number in range(_POINTS):
        _check_point(space, distributions, dict(study.ask(distributions).params), f"random point {number}")


def _check_point(
    space: Space,
    distributions: dict[str, optuna.distributions.BaseDistribution],
    point: dict[str, float | int | str],
    label: str,
) -> None:
    assert point.keys() == distributions.keys(), f"{label} has {sorted(point)}, the space {sorted(distributions)}"
    for name, distribution in distributions.items():
        inside = takes(distribution, point[name])
        assert inside, f"{label}: {name} = {point[name]!r} is outside of {distribution}"
    before = dict(point)
    try:
        found = space.decode(point)
    except BudgetError:
        return
    assert isinstance(found, Candidate), f"{label} decodes to {found!r}"
    assert found == space.decode(point), f"{label} decodes to one candidate and then to another"
    assert point == before, f"{label} is changed by decoding"
