"""What stopped trials and standard errors teach."""

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from autolr.optimization.sampler.botorch_sampler import BoTorchSampler
from autolr.optimization.sampler.history import ESTIMATE, STDERR, History
from autolr.optimization.sampler.outcome_transforms import utilities

SPACE = {"x": FloatDistribution(0, 1)}
GRID = np.linspace(-0.5, 0.5, 41)[:, None]
KNOWN = [(0.0, 3.0), (0.2, 2.5), (0.35, 1.0), (0.6, 0.5), (0.8, 2.0), (1.0, 2.8)]


def study_of(extra=None, known=KNOWN):
    study = optuna.create_study(sampler=BoTorchSampler(0, n_startup=3))
    study.add_trials([complete(x, value) for x, value in known] + ([extra] if extra else []))
    return study


def complete(x, value, stderr=None):
    attrs = {} if stderr is None else {STDERR: [stderr]}
    return optuna.create_trial(value=value, params={"x": x}, distributions=SPACE, user_attrs=attrs)


def stopped(x, value=None, stderr=0.0, constraints=None):
    attrs = {} if value is None else {ESTIMATE: {"values": [value], "stderr": [stderr]}}
    trial = optuna.create_trial(state=TrialState.PRUNED, params={"x": x}, distributions=SPACE, user_attrs=attrs)
    for name, slack in (constraints or {}).items():
        trial.set_constraint(name, slack)
    return trial


def history_of(study):
    return History.of(study, study._storage.get_trial(study.ask()._trial_id), SPACE)


def acquisition(study):
    history = history_of(study)
    return study.sampler._acquisition(history, history.observed(), 0)


def posterior(extra=None):
    """Mean and deviation over the grid of the objective's process, (2, 41)."""
    return np.stack(acquisition(study_of(extra))._surrogates[0].marginal(GRID))


@pytest.mark.parametrize("value", [-40.0, 1.0, 1e9])
@pytest.mark.parametrize("make", [stopped, complete])
def test_a_vague_value_changes_nothing(make, value):
    """However far out it is: its error is a thousand times larger."""
    np.testing.assert_allclose(posterior(make(0.5, value, 1e3 * abs(value))), posterior(), atol=0.01)


def test_a_sharp_estimate_is_an_observation():
    """The posterior is the one a completed trial of that value gives, and not the one without it."""
    exact = posterior(complete(0.5, -1.0))
    np.testing.assert_allclose(posterior(stopped(0.5, -1.0, 1e-9)), exact, atol=1e-6)
    assert np.abs(exact - posterior()).max() > 0.5


def test_errors_of_completed_trials_are_read_by_default():
    """A completed trial with a standard error teaches what a stopped one with that error does."""
    noisy = posterior(complete(0.5, -1.0, 0.7))
    np.testing.assert_allclose(noisy, posterior(stopped(0.5, -1.0, 0.7)), atol=1e-9)
    assert np.abs(noisy - posterior(complete(0.5, -1.0))).max() > 0.1


def test_without_an_estimate_a_stopped_trial_teaches_nothing():
    """Only its point is left out."""
    np.testing.assert_array_equal(posterior(stopped(0.5)), posterior())
    assert len(history_of(study_of(stopped(0.5))).taken) == len(KNOWN) + 1


@pytest.mark.parametrize("known", [False, True])
def test_a_study_of_stopped_trials_goes_on(known):
    """All without an estimate: startup points for ever. All with one: the model is used."""
    study = study_of(known=[])
    study.add_trials([stopped(i / 6, abs(i - 2.0) if known else None, 0.1) for i in range(6)])
    assert set(study.sampler.infer_relative_search_space(study, study.trials[0])) == {"x"}
    assert len(history_of(study).done) == (6 if known else 0)
    assert study.ask(SPACE).params["x"] not in [i / 6 for i in range(6)]


def test_constraints_of_stopped_trials_are_read():
    """The estimate comes with constraints as a completed trial's values do."""
    history = history_of(study_of(stopped(0.5, 1.0, 0.1, {"cost": 2.0})))
    assert history.feasible().tolist() == [True] * 6 + [False]
    rows, values = history.constraints()["cost"]
    assert (rows, values.tolist()) == ([6], [2.0])


def test_vague_values_leave_the_scale_alone():
    """Fences, mean and deviation are of the clear values; a vague one far out keeps its full error."""
    values, stderr = np.array([[0.0], [1.0], [2.0], [3.0], [1e6]]), np.array([[0.0], [0.0], [0.0], [0.0], [1e6]])
    y, noise = utilities(values, np.array([True]), stderr)
    np.testing.assert_array_equal(y[:4], utilities(values[:4], np.array([True]))[0])
    assert (noise[:4] == 0).all()
    assert noise[4, 0] == 1e8


def test_errors_of_completed_trials_leave_the_corner_where_it_is():
    """All but the first carry an error as large as in practice, half a deviation."""
    plain, noisy = study_of(known=[]), study_of(known=[])
    values = [(i / 8, (i - 3.0) ** 2) for i in range(8)]
    plain.add_trials([complete(x, value) for x, value in values])
    noisy.add_trials([complete(x, value, 0.0 if x == 0 else 3.0) for x, value in values])
    corners = [float(acquisition(study)._reference[0]) for study in (plain, noisy)]
    assert corners[1] == pytest.approx(corners[0], abs=0.3)


def test_vague_values_do_not_place_the_corner():
    """The hypervolume's corner is below the worst of the exact values."""
    none, vague, sharp = (
        float(acquisition(study_of(extra))._reference[0])
        for extra in (None, stopped(0.5, 5.0, 1.0), stopped(0.5, 5.0, 0.0))
    )
    assert vague == pytest.approx(none, abs=1.0)
    assert sharp < vague - 0.5
