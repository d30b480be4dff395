"""Whole studies on a GPU: the CPU's front, what does not fit into its memory, and workers that share it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from front_agreement import compared
from nli_fixture import write_inputs, write_model, write_pairs
from test_out_of_memory import memory_for
from test_search import spec_of

from autolr.api import load
from autolr.bank import Bank
from autolr.errors import FactorizationError
from autolr.methods import METHODS
from autolr.model.units import find_units
from autolr.optimization.study.driver import Driver
from autolr.optimization.study.folder import StudyFolder
from autolr.optimization.study.front import front_trials
from autolr.progress import Silent
from autolr.spec.study import StudySpec, make_spec
from autolr.types import Candidate, Score
from autolr.workflows.search import _prepared_driver, run_search

pytestmark = pytest.mark.gpu


def embedded(device: torch.device, **changes: object) -> StudySpec:
    data = {"calibration_examples": 128, "search_examples": 200, "selection_examples": 50}
    plain = {"budgets": ["0.5x-flops"], "trials": 7, "data": data, "run": {"device": str(device), "offline": True}}
    return make_spec({**plain, **changes}, "test")


def rescored(driver: Driver, candidate: Candidate) -> dict[str, Score]:
    """Score a candidate on all of the search part."""
    return dict(driver.objective.evaluate(candidate, lambda: None).scores)


@pytest.fixture(scope="module")
def drivers(gpu: torch.device, tmp_path_factory: pytest.TempPathFactory) -> list[Driver]:
    """The embedded example's study, finished, on the CPU and on the GPU, each with a bank of its own."""
    made = []
    for name, device in (("cpu", torch.device("cpu")), ("gpu", gpu)):
        folder = StudyFolder(tmp_path_factory.mktemp("studies") / name)
        run_search(embedded(device), folder, Silent())
        made.append(_prepared_driver(embedded(device), folder, Silent()))
    return made


def test_a_search_on_the_gpu_finds_the_cpus_front_within_the_scores_errors(drivers: list[Driver]) -> None:
    """Each member of either front is worth on the other device what it is worth on its own, and beats nobody there."""
    found = drivers[1]
    assert found.inputs.model.device.type == found.inputs.spec.run.device.split(":")[0]
    fronts = [front_trials(driver.queue.study) for driver in drivers]
    assert all(fronts)
    for trials, other in zip(fronts, reversed(drivers), strict=True):
        for trial in trials:
            candidate = Candidate.from_json(trial.user_attrs["candidate"])
            scores = {name: Score.from_json(plain) for name, plain in trial.user_attrs["scores"].items()}
            again = rescored(other, candidate)
            for name, score in scores.items():
                assert again[name].value == pytest.approx(score.value, abs=max(score.stderr, 1e-6)), name
    agreement = compared(*([(t.values[1], t.values[0], error(t)) for t in trials] for trials in fronts))
    assert agreement.worst <= 3.0, agreement


def error(trial: object) -> float:
    """Return the standard error of the first objective."""
    return float(trial.user_attrs["stderr"][0])


def test_the_first_candidates_are_the_cpus_and_cost_the_same(drivers: list[Driver]) -> None:
    first = [driver.queue.study.trials[:2] for driver in drivers]
    for ours, theirs in zip(*first, strict=True):
        assert ours.user_attrs["digest"] == theirs.user_attrs["digest"]
        assert ours.user_attrs["costs"]["absolute"] == theirs.user_attrs["costs"]["absolute"]


def test_the_exported_winner_answers_alike_on_both_devices(drivers: list[Driver], gpu: torch.device) -> None:
    _, driver = drivers
    folder = driver.folder.path / json.loads((driver.folder.path / "result.json").read_text())["checkpoint"]
    answers = []
    for device in ("cpu", str(gpu)):
        model, _ = load(folder, device=device)
        batch = {name: tensor.to(model.device) for name, tensor in driver.inputs.batches("search")[0].items()}
        with torch.no_grad():
            answers.append(model(**{key: value for key, value in batch.items() if key != "labels"}).logits.cpu())
    assert torch.allclose(*answers, atol=1e-3)


@pytest.fixture(scope="module")
def wide(gpu: torch.device, tmp_path_factory: pytest.TempPathFactory) -> Driver:
    """A study whose search part is one batch of many megabytes on a GPU."""
    folder, examples = tmp_path_factory.mktemp("wide"), 4000 if gpu.type == "cuda" else 40
    files = {"train": write_pairs(folder / "train.jsonl", 120)}
    for place, part in enumerate(("validation", "test")):
        files[part] = write_pairs(folder / f"{part}.jsonl", 2 * examples, 180 + place * 3 * examples)
    plain = {
        "model": str(write_model(folder / "model", hidden=256)),
        "data": {name: str(path) for name, path in files.items()}
        | {"search_examples": examples, "selection_examples": 40},
        "budgets": ["0.6x-flops"],
        "search": {"methods": ["svd"], "racing": False},
        "run": {"device": str(gpu), "scoring_batch_size": examples, "offline": True},
    }
    (folder / "study").mkdir()
    return _prepared_driver(make_spec(plain, "test"), StudyFolder(folder / "study"), Silent())


@contextmanager
def seen_sizes(model: torch.nn.Module) -> Iterator[list[int]]:
    sizes: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _module, _args, inputs: sizes.append(len(inputs["input_ids"])), with_kwargs=True
    )
    try:
        yield sizes
    finally:
        hook.remove()


def reserved(run: object) -> int:
    """Return the bytes that torch holds of the GPU at the most while something runs."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_reserved()


@contextmanager
def at_most(size: int, device: torch.device) -> Iterator[None]:
    """Let torch have no more than so many bytes of the GPU."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(size / torch.cuda.get_device_properties(device).total_memory, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        torch.cuda.empty_cache()


def test_what_does_not_fit_into_the_gpus_memory_is_scored_in_halves_with_equal_scores(
    wide: Driver, gpu: torch.device
) -> None:
    model, candidate = wide.inputs.model, wide.prepared.fixed["uniform svd"]

    def values(halved: bool = False) -> dict[str, float]:
        evaluation = wide.objective.evaluate(candidate, lambda: None, halved=halved)
        return {name: score.value for name, score in evaluation.scores.items()}

    with seen_sizes(model) as sizes:
        whole = values()
    [rows] = sizes
    if gpu.type == "cuda":
        values(halved=True)  # whatever is set up once is there
        large, small = reserved(values), reserved(lambda: values(halved=True))
        assert large > 1.3 * small, "the batch is too small for this test"
        scarce = at_most((large + small) // 2, gpu)
    else:
        scarce = memory_for(model, rows // 2)
    with seen_sizes(model) as sizes, scarce:
        assert values() == pytest.approx(whole, abs=1e-5)
    assert sizes == [rows, rows // 2, rows // 2]
    assert values() == pytest.approx(whole, abs=1e-5)  # it has its memory back


def test_a_layer_is_decomposed_on_the_cpu_where_the_gpu_has_no_memory_for_it(
    wide: Driver, gpu: torch.device, tmp_path: Path
) -> None:
    method, units = METHODS.get("svd"), find_units(wide.inputs.model).units[:2]
    devices: list[str] = []

    def decompose(weight: torch.Tensor, stats: object) -> object:
        devices.append(weight.device.type)
        if gpu.type != "cuda" and len(devices) % 2:  # a rehearsal: the first attempt fails where it would
            raise torch.OutOfMemoryError("rehearsed")
        return method.decompose(weight, stats)

    watched = replace(method, decompose=decompose)
    plenty, scarce = (Bank(tmp_path / name, wide.inputs.model, units, "key") for name in ("plenty", "scarce"))
    stats = wide.prepared.bank.stats

    def measured(missing: list) -> Iterator:
        return ((unit, stats(unit.name)) for unit in missing)

    plenty.build([method], measured)
    if gpu.type == "cuda":
        torch.cuda.empty_cache()
        with at_most(torch.cuda.memory_reserved(), gpu):
            scarce.build([watched], measured)
    else:
        with pytest.raises(FactorizationError, match=r"svd of .* failed with OutOfMemoryError: rehearsed"):
            scarce.build([watched], measured)  # there is no other device to turn to
        return
    assert "cpu" in devices
    for unit in units:
        ours, theirs = (bank.decomposition(unit.name, "svd") for bank in (scarce, plenty))
        assert torch.allclose(ours.singular_values, theirs.singular_values, rtol=1e-6)


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_that_share_a_gpu_score_as_one_process_does(workers: int, gpu: torch.device, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="several workers need Ray")
    if workers > (os.cpu_count() or 1):
        pytest.skip(f"{workers} workers need as many cores")
    options, share = write_inputs(tmp_path / "inputs"), 0.25 if gpu.type == "cuda" else 0.0
    changes = {"run": {"device": str(gpu), "threads": 1}, "trials": 8}
    folder = StudyFolder(tmp_path / "study")
    spec = spec_of(options, crew={"workers": workers, "gpus_per_worker": share}, **changes)
    affinity = os.sched_getaffinity(0)
    try:
        run_search(spec, folder, Silent(), checkpoint=False)
    finally:
        os.sched_setaffinity(0, affinity)
    (tmp_path / "alone").mkdir()
    alone = _prepared_driver(spec_of(options, **changes), StudyFolder(tmp_path / "alone"), Silent())
    trials = [t for t in folder.load_study().trials if t.state.name == "COMPLETE"]
    assert len(trials) >= 2
    for trial in trials:
        again = rescored(alone, Candidate.from_json(trial.user_attrs["candidate"]))
        for name, plain in trial.user_attrs["scores"].items():
            if name != "divergence":
                assert again[name].value == pytest.approx(plain["value"], abs=1 / 40 + 1e-9)
            else:
                assert again[name].value == pytest.approx(plain["value"], rel=1e-3, abs=1e-5)
