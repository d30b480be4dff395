"""Outcomes that are computed: they enter the acquisition as they are."""

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from synthetic_allocation import Allocation, run

from autolr.optimization.sampler.botorch_sampler import BoTorchSampler
from autolr.optimization.sampler.encoding import Encoding
from autolr.optimization.sampler.history import History
from autolr.optimization.sampler.maximize import sobol
from autolr.optimization.sampler.outcome_models import DeterministicModel, DeterministicOutcomes

SPACE = {
    "c": CategoricalDistribution(("a", "b", None)),
    "k": IntDistribution(0, 6, step=2),
    "x": FloatDistribution(-1, 1),
}


def test_points_are_what_their_features_say():
    """Features lead back to the point, and many points decode as single ones do."""
    encoding = Encoding(SPACE)
    points = sobol(encoding, 40, seed=0)
    np.testing.assert_allclose(encoding.points(encoding.features(points)), points, atol=1e-12)
    assert encoding.decode_all(points) == [encoding.decode(point) for point in points]


def test_computed_outcomes_are_not_modelled():
    """What is computed has the values told, on the scale of the model, at any point."""
    compute = lambda sets: np.array([[s["k"] + s["x"], s["k"] - 3.0] for s in sets])  # noqa: E731
    computed = DeterministicOutcomes(compute, (1, "size"))
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=BoTorchSampler(0, 4, computed=computed))
    for _ in range(9):
        trial = study.ask(SPACE)
        trial.set_constraint("size", trial.params["k"] - 3.0)
        study.tell(trial, [trial.params["x"] ** 2, trial.params["k"] + trial.params["x"]])
    history = History.of(study, study._storage.get_trial(study.ask()._trial_id), SPACE)
    outcomes = study.sampler._acquisition(history, history.observed(), 0)._surrogates
    assert [isinstance(outcome, DeterministicModel) for outcome in outcomes] == [False, True, True]
    X = history.encoding.features(history.observed())
    told = history.values()[:, 1]
    np.testing.assert_allclose(outcomes[1].marginal(X)[0], (told - told.mean()) / told.std(), atol=1e-9)
    size = history.constraints()["size"][1]
    assert np.corrcoef(outcomes[2].marginal(X)[0], size)[0, 1] > 1 - 1e-9
    assert ((outcomes[2].joint(X)[0] <= 0) == (size <= 0)).all()


def test_a_computed_cost_serves_a_search():
    """12 layers, 30 evaluations: a good front from ten fewer evaluations than the modelled cost is given."""
    problem = Allocation.random(12, seed=0)
    assert problem.fraction(run(problem, BoTorchSampler(0, 10, computed=problem.computed()), 30)) > 0.85
