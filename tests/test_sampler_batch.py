"""Several proposals at once: what the first is, that the others differ from it, and what they cost."""

import time

import numpy as np
import optuna
import pytest
from optuna.distributions import IntDistribution
from synthetic_allocation import Allocation, run

from autolr.optimization.sampler.acquisition import Acquisition
from autolr.optimization.sampler.botorch_sampler import BoTorchSampler
from autolr.optimization.sampler.history import History
from autolr.optimization.sampler.maximize import MOST_ROUNDS
from autolr.optimization.sampler.registry import build_sampler

SPACE = {name: IntDistribution(0, 9) for name in "abc"}


def finished(n_trials, sampler, m=2):
    """A study of n trials, and the trial that is to be proposed."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["minimize", "maximize"][:m], sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(n_trials):
        trial = study.ask(SPACE)
        values = [abs(trial.params["a"] - 3.0) + trial.params["b"], trial.params["c"] + 0.1 * trial.params["b"]]
        study.tell(trial, values[:m])
    study.sampler = sampler
    return study, study._storage.get_trial(study.ask()._trial_id)


def keys(proposals):
    return [tuple(sorted(params.items())) for params in proposals]


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("n_startup", [4, 50])
def test_the_first_is_the_single_one_and_all_differ(m, n_startup):
    """By the model and during the startup; the same again from another sampler of the same seed."""
    study, trial = finished(12, BoTorchSampler(0, n_startup), m)
    batch = study.sampler.propose(study, trial, SPACE, 6)
    assert batch[0] == study.sampler.sample_relative(study, trial, SPACE)
    known = keys(t.params for t in study.trials if t.params)
    assert len(set(keys(batch)) - set(known)) == 6
    assert batch == BoTorchSampler(0, n_startup).propose(study, trial, SPACE, 6)
    assert batch[:3] == study.sampler.propose(study, trial, SPACE, 3)
    assert batch != BoTorchSampler(1, n_startup).propose(study, trial, SPACE, 6)


def test_a_startup_batch_is_what_single_startup_trials_would_be():
    """The sequence goes on with the trial's number."""
    study, trial = finished(3, BoTorchSampler(0, 9))
    batch = study.sampler.propose(study, trial, SPACE, 3)
    study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    singles = [study.ask(SPACE).params for _ in range(2)]
    assert keys(batch[1:]) == keys(singles)


def test_every_member_is_new():
    """What the caller has already is in no member, neither at the start nor by the model."""
    for n_startup in (4, 50):
        sampler = BoTorchSampler(0, n_startup, is_new=lambda params, _batch: sum(params.values()) % 3 == 0)
        study, trial = finished(12, sampler)
        batch = sampler.propose(study, trial, SPACE, 8)
        assert len(set(keys(batch))) == 8
        assert all(sum(params.values()) % 3 == 0 for params in batch)


def test_a_small_space_gives_what_it_has():
    """Four points, one of them known: three proposals however many are asked for; then one old one."""
    space = {"a": IntDistribution(0, 3)}
    study = optuna.create_study(sampler=BoTorchSampler(0, 1))
    study.add_trial(optuna.create_trial(value=1.0, params={"a": 2}, distributions=space))
    trial = study._storage.get_trial(study.ask()._trial_id)
    batch = study.sampler.propose(study, trial, space, 7)
    assert sorted(params["a"] for params in batch) == [0, 1, 3]
    for params in batch:
        study.add_trial(optuna.create_trial(value=1.0, params=params, distributions=space))
    assert len(study.sampler.propose(study, trial, space, 7)) == 1


def test_a_batch_without_members_is_refused():
    study, trial = finished(2, BoTorchSampler(0))
    with pytest.raises(ValueError, match="got 0"):
        study.sampler.propose(study, trial, SPACE, 0)


def test_members_of_a_batch_cover_the_front():
    """A batch of eight goes to several places: its costs differ by a good share of the range."""
    problem = Allocation.random(6, 0)
    study = run(problem, BoTorchSampler(0, 8), 16)
    trial = study._storage.get_trial(study.ask()._trial_id)
    batch = study.sampler.propose(study, trial, study.trials[0].distributions, 8)
    costs = [problem.evaluate(np.array([params[name] for name in sorted(params)]))[1] for params in batch]
    assert max(costs) - min(costs) > 0.2


@pytest.mark.slow
def test_later_members_are_cheap():
    """At 100 trials in 10 dimensions one costs at most 60 ms of processor time (measured 35 to 50) and half a first."""
    study = run(Allocation.random(10, 0), build_sampler("random", 0), 100)
    sampler, space = BoTorchSampler(0, 8), study.trials[0].distributions
    trial = study._storage.get_trial(study.ask()._trial_id)
    seconds = {}
    for count in (1, 1, 9):  # the first call imports
        began = time.process_time()
        sampler.propose(study, trial, space, count)
        seconds[count] = time.process_time() - began
    assert (seconds[9] - seconds[1]) / 8 < min(0.06, seconds[1] / 2), seconds


def test_a_large_batch_is_chosen_in_a_few_rounds():
    """Twenty for many workers: all different, with the single proposal first, in at most ``MOST_ROUNDS`` rounds."""
    study, trial = finished(30, BoTorchSampler(0, 4))
    pends = []
    pend = Acquisition.pend

    def counted(self, points):
        pends.append(len(points))
        pend(self, points)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Acquisition, "pend", counted)
        batch = study.sampler.propose(study, trial, SPACE, 20)
    assert len(set(keys(batch))) == 20
    assert batch[0] == study.sampler.propose(study, trial, SPACE, 1)[0]
    assert len(pends) <= MOST_ROUNDS - 1
    assert sum(pends) < 20


def test_of_many_trials_the_best_and_the_latest_teach():
    study, trial = finished(60, BoTorchSampler(0, 4))
    history = History.of(study, trial, SPACE)
    few = history.thinned(20)
    ranked = sorted(history.done, key=lambda t: t.values[0])
    assert {t.number for t in ranked[:10]} <= {t.number for t in few.done}
    assert {t.number for t in history.done[-5:]} <= {t.number for t in few.done}
    assert len(few.done) == 20
    assert few.taken == history.taken
    assert history.thinned(1000) is history
