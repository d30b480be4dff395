"""What does not fit into a device's memory is scored in halves, once; what does not fit then fails with the reason."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from nli_fixture import write_inputs
from optuna.trial import TrialState
from test_search import spec_of

from autolr.optimization.study.driver import Driver
from autolr.optimization.study.folder import StudyFolder
from autolr.progress import Silent
from autolr.workflows.search import _prepared_driver

EXAMPLES, HALF = 40, 20  # of the search part, which is one batch


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    folder = tmp_path_factory.mktemp("memory")
    (folder / "study").mkdir()
    return _prepared_driver(spec_of(write_inputs(folder / "inputs")), StudyFolder(folder / "study"), Silent())


@contextmanager
def memory_for(model: torch.nn.Module, examples: int) -> Iterator[list[int]]:
    """Let the model run out of memory with more examples at once; give the sizes of the batches that it was given."""
    sizes: list[int] = []

    def look(module: torch.nn.Module, args: tuple, inputs: dict[str, torch.Tensor]) -> None:
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > examples:
            raise torch.OutOfMemoryError(f"no memory for {sizes[-1]} examples")

    hook = model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield sizes
    finally:
        hook.remove()


def scores(driver: Driver, halved: bool = False) -> dict[str, float]:
    candidate = driver.prepared.fixed["uniform kfac"]
    evaluation = driver.objective.evaluate(candidate, lambda: None, halved=halved)
    return {name: score.value for name, score in evaluation.scores.items()}


def test_a_batch_that_does_not_fit_is_scored_in_halves_with_equal_scores(driver: Driver) -> None:
    model = driver.inputs.model
    with memory_for(model, EXAMPLES) as sizes:
        whole = scores(driver)
    assert sizes == [EXAMPLES]
    with memory_for(model, HALF) as sizes:
        assert scores(driver) == pytest.approx(whole, abs=1e-6)
    assert sizes == [EXAMPLES, HALF, HALF]


def test_who_knows_that_it_does_not_fit_does_not_try(driver: Driver) -> None:
    """A worker that was lost over a candidate leaves a task that is run in halves from the first."""
    whole = scores(driver)
    with memory_for(driver.inputs.model, HALF) as sizes:
        assert scores(driver, halved=True) == pytest.approx(whole, abs=1e-6)
    assert sizes == [HALF, HALF]


@pytest.mark.parametrize("halved", [False, True])
def test_half_a_batch_that_does_not_fit_either_is_an_error_and_leaves_the_model_as_it_was(
    driver: Driver, halved: bool
) -> None:
    model = driver.inputs.model
    before = [id(module) for module in model.modules()]
    with memory_for(model, HALF - 1) as sizes, pytest.raises(torch.OutOfMemoryError, match="no memory for 20 examples"):
        scores(driver, halved)
    assert sizes == ([HALF] if halved else [EXAMPLES, HALF])
    assert [id(module) for module in model.modules()] == before


def test_a_trial_that_does_not_fit_fails_and_the_search_goes_on(driver: Driver) -> None:
    queue = driver.queue
    dense = queue.claim()
    driver._step(dense)  # nothing is run for it
    claim = queue.claim()
    with memory_for(driver.inputs.model, HALF - 1):
        driver._step(claim)
    trial = queue.study.trials[claim.trial.number]
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["reason"] == "OutOfMemoryError: no memory for 20 examples"
    following = queue.claim()
    with memory_for(driver.inputs.model, HALF):
        driver._step(following)
    assert queue.study.trials[following.trial.number].state == TrialState.COMPLETE
