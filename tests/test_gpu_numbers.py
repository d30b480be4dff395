"""What a GPU computes equals what the CPU computes: statistics, decompositions, layers, checkpoints, refits."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_cases import batch
from checkpoint_cases import build as build_compressed
from test_calibrate import assert_same
from tiny import MATRIX_METHODS, Source, batches, build, given_of, sequences, sized

from autolr.bank import Bank
from autolr.checkpoint.dense import save_dense
from autolr.checkpoint.load import load_checkpoint
from autolr.checkpoint.save import save_checkpoint
from autolr.cost.clock import compare
from autolr.forms import FORMS
from autolr.forms.base import Form, Given, Matrix
from autolr.forms.swap import compressed
from autolr.methods import METHODS
from autolr.methods.conformance import example_stats
from autolr.model.units import find_units
from autolr.recovery.refit import refit
from autolr.statistics.calibrate import SampledCotangents, calibrate, class_cotangents
from autolr.statistics.stream import stream_calibrate
from autolr.types import Candidate, Decomposition, Unit

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
EXAMPLES = sequences(7)
CLOSE = 1e-4
"""Of statistics: sums are float32 within a batch."""
HALVES = {torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""Of outputs: some units in the last place of each, as a share of the largest output."""


def gap(value: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference, as a share of the largest value expected."""
    difference = value.to(CPU, torch.float64) - expected.to(CPU, torch.float64)
    return float(difference.abs().max() / expected.abs().max())


def answers(model: torch.nn.Module) -> torch.Tensor:
    """Return a model's logits on the batch of the checkpoints' tests."""
    with torch.no_grad():
        return model(**{name: tensor.to(model.device) for name, tensor in batch().items()}).logits


def on(device: torch.device, data: list[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
    return [{name: tensor.to(device) for name, tensor in batch.items()} for batch in data]


@pytest.mark.parametrize("family", ["albert", "bert", "gpt2", "llama", "llama-lm-tied"])
@pytest.mark.parametrize("streamed", [False, True])
def test_calibration_equals_the_cpus(family: str, streamed: bool, gpu: torch.device, tmp_path: Path) -> None:
    if streamed and family == "albert":
        pytest.skip("its blocks are one and the same")
    cotangents = SampledCotangents(0) if family.endswith("tied") else class_cotangents
    measured = []
    for device in (CPU, gpu):
        model = build(family).to(device)
        units, data = find_units(model).units, on(device, batches(EXAMPLES, 3))
        made = (
            stream_calibrate(model, units, data, cotangents, tmp_path)
            if streamed
            else calibrate(model, units, data, cotangents)
        )
        measured.append({unit.name: stats for unit, stats in made})
    expected, found = measured
    assert all(stats.in_gram.device.type == gpu.type for stats in found.values())
    assert_same({name: stats.to(CPU) for name, stats in found.items()}, expected, CLOSE)


def reconstructions(decomposition: Decomposition) -> list[torch.Tensor]:
    """Return the products at some ranks, which no sign and no basis of equal singular values changes."""
    ranks = range(1, decomposition.max_rank + 1, 5)
    return [torch.matmul(*(factor.to(CPU) for factor in decomposition.truncate(rank))) for rank in ranks]


@pytest.mark.parametrize("name", MATRIX_METHODS)
@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)])
def test_decompositions_equal_the_cpus(name: str, shape: tuple[int, int], gpu: torch.device) -> None:
    """In float64 on both."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stats, method = example_stats(weight, 200, 0), METHODS.get(name)
    expected = method.decompose(weight, stats)
    found = method.decompose(weight.to(gpu), stats.to(gpu))
    assert found.left.device.type == gpu.type
    assert found.left.dtype == torch.float64
    assert gap(found.singular_values, expected.singular_values) < 1e-9
    for ours, theirs in zip(reconstructions(found), reconstructions(expected), strict=True):
        assert gap(ours, theirs) < 1e-7
    if expected.row_energy is not None:
        assert gap(found.row_energy, expected.row_energy) < 1e-9


def test_a_bank_of_a_model_on_the_gpu_equals_the_cpus(gpu: torch.device, tmp_path: Path) -> None:
    """Statistics and decompositions from disk, and the layers that are made of them, with refits."""
    methods, made = tuple(METHODS.get(name) for name in ("svd", "kfac", "losparse")), []
    for number, device in enumerate((CPU, gpu)):
        model, data = build("bert").to(device), on(device, batches(EXAMPLES, 3))
        units = find_units(model).units
        bank = Bank(tmp_path / str(number), model, units, "key")
        bank.build(methods, lambda missing, model=model, data=data: calibrate(model, missing, data))
        names = [unit.name for unit in units if unit.block >= 0]
        candidate = Candidate.of(
            {name: sized("losparse", 4, 2) if place % 2 else sized("kfac", 4) for place, name in enumerate(names)}
        )
        with compressed(model, candidate, bank), torch.no_grad():
            logits = torch.cat([model(**part).logits for part in data])
        made.append((bank, logits, refit(model, candidate, bank, data)))
    (expected, wanted, refitted), (found, logits, ours) = made
    for unit in expected.units:
        for method in methods:
            theirs, these = (bank.decomposition(unit.name, method.name) for bank in (expected, found))
            assert gap(these.singular_values, theirs.singular_values) < CLOSE
    assert logits.device.type == gpu.type
    assert gap(logits, wanted) < 1e-3
    assert ours.keys() == refitted.keys()
    assert ours
    for name, correction in ours.items():
        assert correction.left.device.type == gpu.type
        assert gap(correction.bias, refitted[name].bias) < 1e-2


def given_on(gpu: torch.device, form: Form) -> Given:
    """What a form is made of: a matrix by losparse, or of a form of several, a pair with 384 neurons by its method."""
    random = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(256, 384, generator=random) / 20, torch.randn(256, generator=random)
    stats = example_stats(weight, 800, 0)
    method = METHODS.get(form.methods[0] if form.methods else "losparse")
    made = method.decompose(weight.double(), stats)
    if method.of == "matrix":
        return given_of(made, weight.to(gpu), stats.mean, bias.to(gpu))
    up, down = Unit("up", "up", 0, 1, 384, 128), Unit("down", "down", 0, 1, 256, 384)
    maker = Matrix(
        up, (torch.randn(384, 128, generator=random) / 20).to(gpu), torch.randn(384, generator=random).to(gpu)
    )
    pair = Unit("pair", "pair", 0, 1, 256, 128, matrices=(up, down))
    return Given(pair, method.name, made, weight.to(gpu), stats.mean, bias.to(gpu), (maker,))


@pytest.mark.parametrize("name", FORMS.names())
@pytest.mark.parametrize("dtype", list(HALVES), ids=str)
def test_layers_in_half_precision_equal_those_in_float32(name: str, dtype: torch.dtype, gpu: torch.device) -> None:
    random, form = torch.Generator().manual_seed(1), FORMS.get(name)
    given = given_on(gpu, form)
    choices, _ = form.options(given, 32)
    for choice in choices[:: max(1, len(choices) // 5)]:
        layers = [form.layers(given, choice, given.weight.to(like)) for like in (torch.float32, dtype)]
        for exact, rounded in zip(*(one.values() for one in layers), strict=True):
            x = torch.randn(3, 17, exact.in_features, generator=random).to(gpu)
            with torch.no_grad():
                expected, found = exact(x), rounded(x.to(dtype))
            assert found.dtype == dtype
            assert gap(found, expected) < HALVES[dtype], choice


@pytest.mark.parametrize("dtype", list(HALVES), ids=str)
def test_a_model_in_half_precision_equals_the_one_in_float32(dtype: torch.dtype, gpu: torch.device) -> None:
    """Compressed, from decompositions of its weights in float32."""
    exact, rounded = build("llama").to(gpu), build("llama").to(gpu, dtype)
    units = {unit.name: unit for unit in find_units(exact).units}
    candidate = Candidate.of({name: sized("svd", 6) for name, unit in units.items() if unit.block >= 0})
    source, [data] = Source(exact, units), on(gpu, batches(EXAMPLES, 7))
    with torch.no_grad(), compressed(exact, candidate, source):
        expected = exact(**data).logits
    with torch.no_grad(), compressed(rounded, candidate, source):
        found = rounded(**data).logits
    assert found.dtype == dtype
    assert gap(found, expected) < 5 * HALVES[dtype]


@pytest.mark.parametrize("case", ["bert-classifier", "gpt2-lm-tied", "llama-lm-untied"])
def test_a_checkpoint_of_a_model_on_the_gpu_is_loaded_on_either_device(
    case: str, gpu: torch.device, tmp_path: Path
) -> None:
    expected, model = answers(build_compressed(case)), build_compressed(case).to(gpu)
    assert gap(answers(model), expected) < CLOSE
    save_checkpoint(model, tmp_path / "compressed")
    save_dense(model, tmp_path / "dense")
    for folder in ("compressed", "dense"):
        loaded = load_checkpoint(tmp_path / folder, compressed=True)
        assert gap(answers(loaded), expected) < CLOSE
        assert gap(answers(loaded.to(gpu)), expected) < CLOSE


def test_times_are_those_of_the_work_on_the_device(gpu: torch.device) -> None:
    """Not those of handing it over: eight times the work takes longer, and the median is what a clock shows."""
    size = 4096 if gpu.type == "cuda" else 256
    small, large = (torch.randn(n, n, device=gpu) for n in (size, 2 * size))
    found = compare(
        {"one": lambda: small @ small, "eight": lambda: large @ large},
        device=gpu,
        threads=1,
        precision=0.1,
        max_seconds=5.0,
    )
    assert 3 < found["eight"].ratio < 20
    by_hand = seconds_by_hand(lambda: large @ large, gpu)
    assert found["eight"].low / 2 < by_hand < 2 * found["eight"].high


def seconds_by_hand(run: Callable[[], object], device: torch.device, number: int = 10) -> float:
    finish = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    run()
    finish()
    started = time.perf_counter()
    for _ in range(number):
        run()
    finish()
    return (time.perf_counter() - started) / number
