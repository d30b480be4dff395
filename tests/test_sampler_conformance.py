"""Optuna's own conformance suite for samplers, with the model in use from the second trial on."""

import pytest
from optuna.testing import pytest_samplers as suite

from autolr.search.sampler.botorch_sampler import BoTorchSampler
from autolr.search.sampler.maximize import SearchSettings

QUICK = SearchSettings(n_sobol=16, n_offspring=16, n_neighbours=8, n_rounds=2, n_final=4, n_final_rounds=1)


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
