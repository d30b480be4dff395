"""The laws every sampler obeys, as one function, so that a third-party sampler can be tested with one call."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from autolr.optimization.optuna_access import StudyOfSpace, as_stored, takes
from autolr.optimization.sampler.base import BatchSampler, Sampler, SpaceInfo
from autolr.optimization.sampler.encoding import Encoding, Params
from autolr.optimization.sampler.fixed_space import SpaceSampler, suggested
from autolr.optimization.sampler.history import ESTIMATE

Direction = Literal["minimize", "maximize"]
STUDIES: Mapping[str, tuple[Mapping[str, BaseDistribution], Sequence[Direction]]] = {
    "numbers, two objectives": (
        {
            "scale": FloatDistribution(0.1, 10.0, log=True),
            "depth": FloatDistribution(-1.0, 1.0),
            "rank": IntDistribution(8, 64, step=8),
        },
        ("minimize", "maximize"),
    ),
    "a choice and a number": (
        {"method": CategoricalDistribution(("svd", "afm", None)), "rank": IntDistribution(1, 99)},
        ("minimize",),
    ),
    # With one best point: where an acquisition is flat, rounding decides which of its points is the highest.
    "one number": ({"x": FloatDistribution(0.0, 1.0)}, ("minimize",)),
}
"""Spaces and objectives that the laws are tried on."""
TRIALS, STARTUP, TOGETHER = 8, 3, 3
"""Trials of a study; of them before a model is used; proposals of a batch."""
_FAILS, _STOPPED = 3, 5
"""Which of them fails; which is stopped early, with an estimate."""


def check(sampler: Sampler, *, seed: int = 0) -> None:
    """Run a sampler through the laws, over several spaces, with one objective and with two, under a constraint.

    The laws: what is built is a sampler of Optuna; a study with trials beside its space, failed, stopped, running and
    waiting ones runs to its end; every proposal is a point of the space; the same seed gives the same proposals, though
    the sampler is built anew for each trial; the trials are not all the same; NumPy's global generator is left alone; a
    sampler that proposes in batches gives different points, at least one and at most as many as were asked for, and the
    same first one whatever their number.

    Args:
        sampler: the sampler to test.
        seed: of the studies.

    Raises:
        AssertionError: a law is broken; the message names the law, the case and what was seen.

    Example:
        >>> from autolr.optimization.sampler.registry import SAMPLERS
        >>> check(SAMPLERS.get("random"))
    """
    for name, (space, directions) in STUDIES.items():
        info, case = SpaceInfo(space, STARTUP), f"sampler {sampler.name}, space of {name}"
        built = sampler.build(seed, info)
        assert isinstance(built, BaseSampler), f"{case}: build must return a sampler of Optuna, got {built!r}"
        batches = isinstance(built, BatchSampler)
        assert batches or not sampler.batches, f"{case}: it proposes in batches, so it must have a method propose"
        before = _global_generator()
        study, points = _run(sampler, info, directions, seed)
        assert _global_generator() == before, f"{case}: it draws from NumPy's global generator, or seeds it"
        for params in points:
            for parameter, distribution in space.items():
                value = params[parameter]
                assert takes(distribution, value), f"{case}: {parameter} = {value!r} is outside {distribution}"
        again = _run(sampler, info, directions, seed)[1]
        assert again == points, f"{case}: the same seed gave {again} after {points}"
        assert any(params != points[0] for params in points), f"{case}: every trial is {points[0]}"
        if sampler.batches:
            _check_batches(case, sampler, info, study, seed)


def _run(
    sampler: Sampler, info: SpaceInfo, directions: Sequence[Direction], seed: int
) -> tuple[optuna.Study, list[Params]]:
    """Run a study, one trial always under way while the next is asked for; return it and what was proposed."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    encoding, points = Encoding(info.space), list[Params]()
    study = optuna.create_study(directions=directions, sampler=SpaceSampler(sampler, info, seed, lambda: TOGETHER))
    study.add_trial(optuna.create_trial(values=[0.0] * len(directions)))  # as the dense model: without parameters
    under_way = None
    for index in range(TRIALS):
        trial = study.ask()
        points.append(suggested(trial, info.space))
        if under_way is not None:
            _tell(study, under_way, encoding.encode([points[-2]]).mean().item(), index)
        under_way = trial
    optuna.logging.set_verbosity(verbosity)
    return study, points


def _tell(study: optuna.Study, trial: optuna.Trial, size: float, index: int) -> None:
    values = [(size - 0.3) ** 2, size][: len(study.directions)]
    trial.set_constraint("size", size - 0.6)
    if index == _FAILS:
        study.tell(trial, state=TrialState.FAIL)
    elif index == _STOPPED:
        trial.set_user_attr(ESTIMATE, {"values": values, "stderr": [0.1] * len(values)})
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, values)


def _check_batches(case: str, sampler: Sampler, info: SpaceInfo, study: optuna.Study, seed: int) -> None:
    view, trial = StudyOfSpace(study, frozenset(info.space)), as_stored(study.ask())
    single, several = (
        cast(BatchSampler, sampler.build(seed, info)).propose(view, trial, dict(info.space), count)
        for count in (1, TOGETHER)
    )
    assert len(single) == 1, f"{case}: one proposal was asked for, got {single}"
    assert 1 <= len(several) <= TOGETHER, f"{case}: {TOGETHER} proposals were asked for, got {several}"
    assert several[0] == single[0], f"{case}: the first of a batch is {several[0]}, alone it is {single[0]}"
    assert all(a != b for i, a in enumerate(several) for b in several[:i]), f"{case}: a batch repeats itself: {several}"


def _global_generator() -> tuple[bytes, int]:
    """Return the state of NumPy's global generator."""
    state: Any = np.random.get_state(legacy=False)["state"]
    return state["key"].tobytes(), int(state["pos"])
