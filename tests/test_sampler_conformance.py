"""The laws of samplers, for every row of the table and for one of a third party; Optuna's own suite for ours."""

from dataclasses import replace

import numpy as np
import pytest
from optuna.samplers import BaseSampler, QMCSampler
from optuna.testing import pytest_samplers as suite

from autolr.optimization.sampler.base import Sampler
from autolr.optimization.sampler.botorch_sampler import BoTorchSampler
from autolr.optimization.sampler.conformance import check
from autolr.optimization.sampler.maximize import SearchSettings
from autolr.optimization.sampler.registry import SAMPLERS

QUICK = SearchSettings(n_sobol=16, n_offspring=16, n_neighbours=8, n_rounds=2, n_final=4, n_final_rounds=1)
THIRD = Sampler("sobol", lambda seed, info: QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False))


SLOW = {"gp"}  # its models take seconds


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in SAMPLERS.names()]
)
def test_every_row_keeps_the_laws(name: str) -> None:
    check(SAMPLERS.get(name))


class _Fixed(BaseSampler):
    """Proposes what it is told, whatever the space."""

    def __init__(self, value, generator=None):
        self.value, self.generator = value, generator

    def infer_relative_search_space(self, study, trial):
        return {}

    def sample_relative(self, study, trial, search_space):
        return {name: self.value(trial, part) for name, part in search_space.items()}

    def sample_independent(self, study, trial, param_name, param_distribution):
        raise AssertionError("everything is proposed together")


def _choose(part, share):
    return part.choices[int(share * len(part.choices))] if hasattr(part, "choices") else _between(part, share)


def _between(part, share):
    value = part.low + share * (part.high - part.low)
    return part.low + part.step * int((value - part.low) / part.step) if part.step else value


def test_a_third_partys_sampler_keeps_them() -> None:
    """Any sampler of Optuna; what it is told of the search it may ignore."""
    check(replace(THIRD, build=lambda seed, info: _Fixed(lambda trial, part: _choose(part, trial.number % 7 / 7))))


@pytest.mark.parametrize(
    ("value", "batches", "said"),
    [
        (lambda trial, part: _choose(part, 0.5), False, "every trial is"),
        (lambda trial, part: _choose(part, np.random.default_rng().random()), False, "the same seed gave"),
        (lambda trial, part: _choose(part, np.random.rand()), False, "global generator"),
        (lambda trial, part: _choose(part, trial.number % 7 / 7), True, "must have a method propose"),
    ],
)
def test_a_broken_law_is_named(value, batches: bool, said: str) -> None:
    broken = Sampler("mine", lambda seed, info: _Fixed(value), batches=batches)
    with pytest.raises(AssertionError, match=said):
        check(broken, seed=1)


def test_what_is_no_sampler_is_named() -> None:
    with pytest.raises(AssertionError, match="must return a sampler of Optuna, got 'random'"):
        check(Sampler("mine", lambda seed, info: "random"))


class _Repeating(BoTorchSampler):
    def propose(self, study, trial, search_space, count):
        return super().propose(study, trial, search_space, 1) * count


def test_a_batch_that_repeats_itself_is_named() -> None:
    repeating = Sampler("mine", lambda seed, info: _Repeating(seed, 3, settings=QUICK), batches=True, stateless=True)
    with pytest.raises(AssertionError, match="a batch repeats itself"):
        check(repeating)


class _Ours:
    @pytest.fixture
    def sampler(self):
        return lambda: BoTorchSampler(seed=0, n_startup=2, settings=QUICK)


class TestBasic(_Ours, suite.BasicSamplerTestCase):
    test_combination_of_different_distributions_objective = pytest.mark.slow(
        suite.BasicSamplerTestCase.test_combination_of_different_distributions_objective
    )


class TestMultiObjective(_Ours, suite.MultiObjectiveSamplerTestCase):
    pass


@pytest.mark.slow
class TestRelative(_Ours, suite.RelativeSamplerTestCase):
    pass
