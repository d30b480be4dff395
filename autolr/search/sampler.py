"""The samplers a study can be run with, by name."""

from collections.abc import Callable
from typing import Literal

from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

from autolr.errors import UsageError, nearest
from autolr.search.botorch_sampler import BoTorchSampler, IsNew

__all__ = ["SAMPLERS", "BoTorchSampler", "SamplerName", "check_sampler", "make_sampler"]

SamplerName = Literal["botorch", "gp", "tpe", "nsga2", "random"]

#: Name -> ``(seed, n_startup, is_new, focus) -> sampler``; only ``botorch`` knows the last two; NSGA-II's population
#: has ``n_startup``.
SAMPLERS: dict[str, Callable[[int, int, IsNew | None, int | None], BaseSampler]] = {
    "botorch": lambda seed, n_startup, is_new, focus: BoTorchSampler(seed, n_startup, is_new, focus=focus),
    "gp": lambda seed, n_startup, _new, _focus: GPSampler(seed=seed, n_startup_trials=n_startup),
    "tpe": lambda seed, n_startup, _new, _focus: TPESampler(seed=seed, n_startup_trials=n_startup, multivariate=True),
    "nsga2": lambda seed, n_startup, _new, _focus: NSGAIISampler(seed=seed, population_size=max(n_startup, 2)),
    "random": lambda seed, _startup, _new, _focus: RandomSampler(seed=seed),
}


def make_sampler(
    name: SamplerName | str,
    seed: int,
    n_startup: int = 16,
    is_new: IsNew | None = None,
    focus: int | None = None,
) -> BaseSampler:
    """Make a sampler by its name.

    Args:
        name: a key of :data:`SAMPLERS`.
        seed: of everything random; only ``botorch`` also continues a resumed study exactly.
        n_startup: finished trials before a model is used.
        is_new: see :class:`~autolr.search.botorch_sampler.BoTorchSampler`.
        focus: likewise.

    Raises:
        UsageError: there is no sampler of that name.

    Example:
        >>> str(make_sampler("random", seed=0))
        'RandomSampler'
    """
    check_sampler(name)
    return SAMPLERS[name](seed, n_startup, is_new, focus)


def check_sampler(name: str) -> None:
    """Raise unless there is a sampler of this name.

    Raises:
        UsageError: with the nearest name.
    """
    if name not in SAMPLERS:
        raise UsageError(f"there is no sampler {name!r}; {nearest(name, SAMPLERS)}")
