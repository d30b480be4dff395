"""The samplers a study can be run with, by name."""

from collections.abc import Callable
from typing import Any, Literal

from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

from autolr.errors import UsageError, nearest
from autolr.search.sampler.botorch_sampler import BoTorchSampler

__all__ = ["SAMPLERS", "BoTorchSampler", "SamplerName", "check_sampler", "make_sampler"]

SamplerName = Literal["botorch", "gp", "tpe", "nsga2", "random"]

#: Name -> ``(seed, n_startup) -> sampler``; NSGA-II's population has ``n_startup``.
SAMPLERS: dict[str, Callable[[int, int], BaseSampler]] = {
    "botorch": BoTorchSampler,
    "gp": lambda seed, n_startup: GPSampler(seed=seed, n_startup_trials=n_startup),
    "tpe": lambda seed, n_startup: TPESampler(seed=seed, n_startup_trials=n_startup, multivariate=True),
    "nsga2": lambda seed, n_startup: NSGAIISampler(seed=seed, population_size=max(n_startup, 2)),
    "random": lambda seed, _startup: RandomSampler(seed=seed),
}


def make_sampler(name: SamplerName | str, seed: int, n_startup: int = 16, **own: Any) -> BaseSampler:
    """Make a sampler by its name.

    Args:
        name: a key of :data:`SAMPLERS`.
        seed: of everything random; only ``botorch`` also continues a resumed study exactly.
        n_startup: finished trials before a model is used.
        own: further arguments of :class:`~autolr.search.sampler.botorch_sampler.BoTorchSampler`; the others do without.

    Raises:
        UsageError: there is no sampler of that name.

    Example:
        >>> str(make_sampler("random", seed=0))
        'RandomSampler'
    """
    check_sampler(name)
    return BoTorchSampler(seed, n_startup, **own) if name == "botorch" else SAMPLERS[name](seed, n_startup)


def check_sampler(name: str) -> None:
    """Raise unless there is a sampler of this name.

    Raises:
        UsageError: with the nearest name.
    """
    if name not in SAMPLERS:
        raise UsageError(f"there is no sampler {name!r}; {nearest(name, SAMPLERS)}")
