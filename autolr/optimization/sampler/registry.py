"""The samplers that a study can be run with, by name.

A package adds one with an entry point that names a :class:`~autolr.optimization.sampler.base.Sampler`::

    [project.entry-points."autolr.samplers"]
    sobol = "mypackage.sobol:SAMPLER"

:func:`autolr.optimization.sampler.conformance.check` tests it.
"""

from collections.abc import Iterator

from optuna.samplers import BaseSampler

from autolr.optimization.sampler.base import Sampler, SpaceInfo
from autolr.registry import Registry


def _built_in() -> Iterator[Sampler]:
    from autolr.optimization.sampler import botorch_sampler, optuna_samplers

    yield botorch_sampler.SAMPLER
    yield from optuna_samplers.SAMPLERS


SAMPLERS = Registry("sampler", Sampler, _built_in)


def build_sampler(name: str, seed: int, info: SpaceInfo | None = None) -> BaseSampler:
    """Build a sampler by its name, for a study without a space that is known beforehand.

    Args:
        name: of :data:`SAMPLERS`.
        seed: of everything random.
        info: what it is told of the search.

    Raises:
        UsageError: there is no sampler of that name.

    Example:
        >>> str(build_sampler("random", seed=0))
        'RandomSampler'
    """
    return SAMPLERS.get(name).build(seed, info or SpaceInfo())
