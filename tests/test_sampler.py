"""What the sampler promises to a study: legality, sameness, novelty, constraints, pending trials, quality."""

import multiprocessing

import numpy as np
import optuna
import pytest
from synthetic_allocation import Allocation, run

from autolr.errors import UsageError
from autolr.optimization.sampler.base import SpaceInfo
from autolr.optimization.sampler.botorch_sampler import BoTorchSampler
from autolr.optimization.sampler.registry import SAMPLERS, build_sampler


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def mixed(trial):
    x = trial.suggest_float("x", 0.0, 1.0)
    lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
    k = trial.suggest_int("k", 0, 6, step=2)
    c = trial.suggest_categorical("c", ["a", "b"])
    loss = (x - 0.3) ** 2 + (np.log10(lr) + 3) ** 2 / 4 + (c == "b") + 0.1 * k
    return loss, k + x, -loss * k


def objective(m):
    return lambda trial: mixed(trial)[:m] if m > 1 else mixed(trial)[0]


def study_of(m, sampler, n_trials, storage=None):
    directions = ["minimize", "minimize", "maximize"][:m]
    study = optuna.create_study(
        directions=directions, sampler=sampler, storage=storage, study_name="s", load_if_exists=True
    )
    study.optimize(objective(m), n_trials=n_trials)
    return study


def params(study):
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize("m", [1, 2, 3])
def test_objectives_and_types(m):
    """One to three objectives of either direction over every type: legal, never the same point twice."""
    study = study_of(m, BoTorchSampler(0, n_startup=4), 9)
    assert all(t.state == optuna.trial.TrialState.COMPLETE for t in study.trials)
    assert len({str(p) for p in params(study)}) == 9


def test_four_objectives_are_refused():
    """The limit is said, with what was seen."""
    study = optuna.create_study(directions=["minimize"] * 4, sampler=BoTorchSampler(0))
    study.add_trial(optuna.create_trial(values=[0] * 4, params={"x": 0.1}, distributions={"x": FLOAT}))
    with pytest.raises(ValueError, match="has 4"):
        study.ask().suggest_float("x", 0, 1)


FLOAT = optuna.distributions.FloatDistribution(0, 1)


def test_a_resumed_study_is_the_uninterrupted_one(tmp_path):
    """Another process that opens the storage continues exactly as the first would have."""
    whole = params(study_of(2, BoTorchSampler(7, n_startup=3), 8))
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "j")))
    study_of(2, BoTorchSampler(7, n_startup=3), 5, storage)
    assert params(study_of(2, BoTorchSampler(7, n_startup=3), 3, storage)) == whole


def _in_process(seed):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return params(study_of(2, BoTorchSampler(seed, n_startup=3), 6))


def test_the_same_seed_gives_the_same_study_in_another_process():
    """And another seed another one."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(_in_process, (3,))
    assert there == _in_process(3) != _in_process(4)


def test_only_new_candidates_are_proposed():
    """What the caller has already is not proposed, neither at the start nor by the model."""
    space = {name: optuna.distributions.IntDistribution(0, 5) for name in "ab"}
    sampler = BoTorchSampler(0, n_startup=4, is_new=lambda p, _batch: (p["a"] + p["b"]) % 2 == 0)
    study = optuna.create_study(sampler=sampler)
    study.add_trial(optuna.create_trial(value=5.0, params={"a": 1, "b": 0}, distributions=space))
    for _ in range(12):
        trial = study.ask(space)
        study.tell(trial, abs(trial.params["a"] - 3) + trial.params["b"])
    assert all(sum(t.params.values()) % 2 == 0 for t in study.trials[1:])


def test_an_exhausted_space_still_gets_an_answer():
    """Three points, five trials: each point once, then the best again rather than an error."""
    study = optuna.create_study(sampler=BoTorchSampler(0, n_startup=1))
    study.optimize(lambda t: t.suggest_int("x", 0, 2), n_trials=5)
    assert {t.params["x"] for t in study.trials[:3]} == {0, 1, 2}


def test_failed_points_are_not_proposed_again():
    """A point that failed teaches nothing but is left out; the study goes on."""
    study = optuna.create_study(sampler=BoTorchSampler(0, n_startup=2))
    space = {"x": optuna.distributions.IntDistribution(0, 7)}
    for i in range(8):
        trial = study.ask(space)
        if i % 2:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, trial.params["x"])
    assert len({t.params["x"] for t in study.trials[1:]}) >= 6  # the first trial's space is not known before it ends


def test_pending_trials_are_spread():
    """Four trials asked for without an answer, and one enqueued: five different points."""
    study = optuna.create_study(directions=["minimize"] * 2, sampler=BoTorchSampler(1, n_startup=5))
    space = {name: optuna.distributions.IntDistribution(0, 3) for name in "abc"}
    for _ in range(6):
        trial = study.ask(space)
        study.tell(trial, [sum(trial.params.values()), -trial.params["a"]])
    study.enqueue_trial({"a": 0, "b": 0, "c": 0})
    asked = [study.ask(space).params for _ in range(5)]
    assert len({str(p) for p in asked}) == 5


def test_startup_counts_enqueued_trials_and_fills_the_space():
    """Enqueued trials run first; startup points after them are a Sobol sequence: each half of a range is used."""
    study = optuna.create_study(sampler=BoTorchSampler(0, n_startup=9))
    study.enqueue_trial({"a": 0, "b": 7})
    space = {name: optuna.distributions.IntDistribution(0, 7) for name in "ab"}
    for _ in range(9):
        trial = study.ask(space)
        study.tell(trial, trial.params["a"])
    assert study.trials[0].params == {"a": 0, "b": 7}
    for name in "ab":
        assert sorted(np.bincount([t.params[name] // 4 for t in study.trials[1:]])) in ([4, 4], [3, 5])


def test_constraints_are_learned():
    """The unconstrained optimum is forbidden; the proposals end up feasible and at the border."""

    def constrained(trial):
        x, y = trial.suggest_int("x", 0, 50), trial.suggest_int("y", 0, 50)
        trial.set_constraint("sum", 40.0 - x - y)
        return x + 2 * y

    study = optuna.create_study(sampler=BoTorchSampler(0, n_startup=6))
    study.optimize(constrained, n_trials=18)
    assert study.best_value <= 44


@pytest.mark.parametrize("m", [1, 2])
def test_the_feasible_region_is_found_from_outside(m):
    """Nothing of the startup is feasible, by far; the model still leads to what is."""

    def narrow(trial):
        x, y = trial.suggest_int("x", 0, 40), trial.suggest_int("y", 0, 40)
        trial.set_constraint("far", abs(x - 37) + abs(y - 3) - 4.0)
        return [float(x + y), float(x - y)][:m]

    study = optuna.create_study(directions=["minimize"] * m, sampler=BoTorchSampler(0, n_startup=6))
    study.optimize(narrow, n_trials=16)
    feasible = [t.constraints["far"] <= 0 for t in study.trials]
    assert not any(feasible[:6])
    assert any(feasible)


def test_divergences_and_infinities_do_not_stop_the_search():
    """Some values are infinite or absurdly large; the optimum of the rest is found all the same."""

    def diverging(trial):
        x, y = trial.suggest_int("x", 0, 30), trial.suggest_int("y", 0, 30)
        if x > 25:
            return float("inf")
        return 1e9 if y > 25 else float((x - 9) ** 2 + (y - 17) ** 2)

    study = optuna.create_study(sampler=BoTorchSampler(2, n_startup=6))
    study.optimize(diverging, n_trials=26)
    assert study.best_value <= 4


def test_standard_errors_are_read():
    """With a large stated error on the apparent best, it is believed less: the proposal changes."""

    def proposals(stderr):
        study = optuna.create_study(sampler=BoTorchSampler(0, n_startup=5, noise_attr="stderr"))
        for i, x in enumerate([0.0, 0.25, 0.5, 0.75, 1.0]):
            study.add_trial(
                optuna.create_trial(
                    value=[3.0, 2.0, -4.0, 2.0, 1.0][i],
                    params={"x": x},
                    distributions={"x": FLOAT},
                    user_attrs={"stderr": [stderr if i == 2 else 0.0]},
                )
            )
        return study.ask({"x": FLOAT}).params["x"]

    assert abs(proposals(0.0) - 0.5) < 0.2 < abs(proposals(50.0) - 0.5)


@pytest.mark.parametrize("name", sorted(SAMPLERS.names()))
def test_every_name_makes_a_sampler(name):
    """The table's samplers all run a study."""
    study = optuna.create_study(sampler=build_sampler(name, 0, SpaceInfo(n_startup=3)))
    study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=4)
    assert len(study.trials) == 4


def test_an_unknown_name_is_answered_with_the_nearest():
    """A mistyped sampler is a usage error that names the right one."""
    with pytest.raises(UsageError, match="did you mean botorch"):
        build_sampler("botroch", seed=0)


def test_allocation_small():
    """12 layers, 40 evaluations: the front that random search and TPE come nowhere near."""
    problem = Allocation.random(12, seed=0)
    fractions = {
        name: problem.fraction(run(problem, build_sampler(name, 0, SpaceInfo(n_startup=12)), 40))
        for name in ("botorch", "tpe", "random")
    }
    assert fractions["botorch"] > 0.85, fractions
    assert max(fractions["tpe"], fractions["random"]) < 0.75, fractions


@pytest.mark.slow
def test_allocation_full():
    """24 layers, 100 evaluations, 12 of them startup, five problems: 0.95 of what is attainable (measured 0.959)."""
    fractions = []
    for seed in range(5):
        problem = Allocation.random(24, seed)
        fractions.append(problem.fraction(run(problem, build_sampler("botorch", seed, SpaceInfo(n_startup=12)), 100)))
    assert np.mean(fractions) >= 0.95, fractions
