"""Calibration block by block against calibration of the whole model at once."""

import copy
import importlib.util
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import test_rarer_architectures as rarer
import torch
from nli_fixture import write_inputs
from test_calibrate import EXAMPLES, FIELDS, state_of
from tiny import batches, build, sequences
from torch import nn

from autolr.bank import Bank
from autolr.errors import AutolrError, UsageError
from autolr.methods import get_methods
from autolr.model.precision import in_float32
from autolr.model.stack import Stack
from autolr.model.units import find_units
from autolr.optimization import preparation
from autolr.optimization.study.folder import StudyFolder
from autolr.problem import open_inputs
from autolr.progress import Silent
from autolr.spec.study import make_spec
from autolr.statistics import stream as streaming
from autolr.statistics.calibrate import SampledCotangents, calibrate, class_cotangents
from autolr.statistics.stream import stream_calibrate, workspace_bytes

FAMILIES = ["bert", "roberta", "distilbert", "gpt2", "llama", "mistral", "opt"]


def measure(model, units, data, folder, cotangents=class_cotangents, **options):
    return {u.name: stats for u, stats in stream_calibrate(model, units, data, cotangents, folder, **options)}


def whole(model, units, data, cotangents=class_cotangents, **options):
    return {u.name: stats for u, stats in calibrate(model, units, data, cotangents, **options)}


def assert_same(found, expected, tolerance=1e-5):
    assert set(found) == set(expected)
    for name, stats in found.items():
        other = expected[name]
        assert (stats.n_tokens, stats.n_examples) == (other.n_tokens, other.n_examples), name
        for field in FIELDS:
            value, wanted = getattr(stats, field), getattr(other, field)
            assert (value is None) == (wanted is None), field
            if wanted is not None:
                assert value.dtype == torch.float64
                gap = float((value - wanted).abs().max() / wanted.abs().max())
                assert gap < tolerance, f"{field} of {name} is off by {gap:.1e}"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cotangents", [class_cotangents, None])
def test_every_statistic_is_that_of_the_whole_model(family, cotangents, tmp_path: Path):
    """Padded batches, three classes, and a last block that the classifier reads at one position."""
    model = build(family)
    units, data = find_units(model).units, batches(EXAMPLES, 3)
    expected = whole(model, units, data, cotangents)
    counts = {stats.n_tokens for stats in expected.values()}
    assert len(counts) == 2, "the last block must count fewer positions"
    assert_same(measure(model, units, data, tmp_path, cotangents), expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side(side, tmp_path: Path):
    model = build("llama")
    units, data = find_units(model).units, batches(EXAMPLES, 4, side)
    assert_same(measure(model, units, data, tmp_path), whole(model, units, data))


@pytest.mark.parametrize("family", ["llama-lm-tied", "llama-lm-untied", "gpt2-lm"])
def test_language_models_with_sampled_gradients(family, tmp_path: Path):
    """The draws depend on the logits' rounding no more than their argmax does, so both measure the same draws."""
    model = build(family)
    units, data = find_units(model).units, batches(EXAMPLES, 3)
    expected = whole(model, units, data, SampledCotangents(5))
    assert_same(measure(model, units, data, tmp_path, SampledCotangents(5)), expected)


@pytest.mark.parametrize(("family", "glob"), [("roberta", "classifier.dense"), ("bert", "bert.pooler.dense")])
def test_layers_behind_the_blocks(family, glob, tmp_path: Path):
    model = build(family)
    units, data = find_units(model, include=[glob, "*.output.dense"]).units, batches(EXAMPLES, 3)
    assert glob in {unit.name for unit in units}
    assert_same(measure(model, units, data, tmp_path), whole(model, units, data))


def with_projection_before():
    """A classifier whose embeddings are projected before the first block."""
    model = build("bert")
    inner, table = model.bert.embeddings.word_embeddings, build("bert", seed=3).bert.embeddings.word_embeddings

    class Projected(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.project = table, nn.Linear(16, 16)

        def forward(self, ids):
            return inner(ids) + self.project(self.table(ids))

    model.bert.embeddings.word_embeddings = Projected()
    model.get_input_embeddings = lambda: table
    return model


def test_layers_before_the_blocks(tmp_path: Path):
    model, name = with_projection_before(), "bert.embeddings.word_embeddings.project"
    units, data = find_units(model, include=[name, "*.query"]).units, batches(EXAMPLES, 3)
    assert name in {unit.name for unit in units}
    assert_same(measure(model, units, data, tmp_path), whole(model, units, data))


@pytest.mark.parametrize("block", [0, 1])
def test_some_units_alone_are_measured_alike(block, tmp_path: Path):
    """As after a kill, when the others' statistics are on disk; nothing is run below the first block that is wanted."""
    model, data = build("llama"), batches(EXAMPLES, 3)
    units = [unit for unit in find_units(model).units if unit.block == block][2:4]
    assert_same(measure(model, units, data, tmp_path), whole(model, units, data))


@pytest.mark.parametrize("memory", [1, 30_000])
def test_little_memory_runs_a_block_several_times(memory, tmp_path: Path):
    model, shares = build("llama"), []
    units, data = find_units(model).units, batches(EXAMPLES, 3)
    found = measure(model, units, data, tmp_path, memory=memory, progress=shares.append)
    for name, stats in measure(model, units, data, tmp_path).items():
        assert all(torch.equal(getattr(stats, field), getattr(found[name], field)) for field in FIELDS)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("family", ["llama", "bert", "gpt2", "gemma2", "llama-lm-tied", "llama-lm-untied"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_two_bytes_are_measured_as_if_they_were_float32(family, dtype, tmp_path: Path):
    model = build(family).to(dtype)
    cotangents = SampledCotangents(0) if "lm" in family else class_cotangents
    before = {name: (tensor.dtype, tensor.data_ptr()) for name, tensor in model.state_dict().items()}
    units, data = find_units(model).units, batches(EXAMPLES, 3)
    expected = whole(copy.deepcopy(model).float(), units, data, cotangents)
    assert_same(measure(model, units, data, tmp_path, cotangents), expected)
    assert {name: (tensor.dtype, tensor.data_ptr()) for name, tensor in model.state_dict().items()} == before


def test_the_order_is_from_the_last_block_to_the_first(tmp_path: Path):
    model = build("llama")
    units = find_units(model).units
    found = list(measure(model, units, batches(EXAMPLES, 3), tmp_path))
    blocks = [next(u.block for u in units if u.name == name) for name in found]
    assert blocks == [1] * 7 + [0] * 7


def test_nothing_is_left_of_it(tmp_path: Path):
    """After success, after an error, and after a consumer that stops half-way."""
    model = build("bert").train()
    model.bert.encoder.layer[0].eval()
    units, data = find_units(model).units, batches(EXAMPLES, 4)
    before = state_of(model)
    measure(model, units, data, tmp_path)
    assert (state_of(model), list(tmp_path.glob("[!.]*"))) == (before, [])

    measuring = stream_calibrate(model, units, data, class_cotangents, tmp_path)
    next(measuring)
    assert list(tmp_path.glob("[!.]*"))
    measuring.close()
    assert (state_of(model), list(tmp_path.glob("[!.]*"))) == (before, [])

    data[1]["input_ids"][0, 0] = 10**6
    with pytest.raises(IndexError):
        measure(model, units, data, tmp_path)
    assert (state_of(model), list(tmp_path.glob("[!.]*"))) == (before, [])
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_the_space_it_takes_is_as_stated_and_asked_for_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = build("llama")
    data, units = batches(EXAMPLES * 8, 3), find_units(model).units
    stated = workspace_bytes(data, model.config.hidden_size, model.config.num_hidden_layers + 1, 1)
    seen = []

    def look(_share: float) -> None:
        seen.append(sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()))

    list(stream_calibrate(model, units, data, class_cotangents, tmp_path, progress=look))
    headers = 150 * len(data) * (model.config.num_hidden_layers + 2)
    one = stated / (model.config.num_hidden_layers + 2)  # stated for one vector, two are backpropagated and a probe
    assert stated - one < max(seen) < stated + 2 * one + headers
    monkeypatch.setattr(streaming, "disk_usage", lambda _: SimpleNamespace(free=stated - 1))
    with pytest.raises(UsageError, match=r"keeps up to 0\.0 GB of hidden states in .* lower --calibration-examples"):
        measure(model, units, data, tmp_path)
    assert not list(tmp_path.glob("[!.]*"))


def test_what_runs_at_once_is_one_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """While a block of a model in bfloat16 runs, no tensor of another block is float32."""
    model = build("llama").to(torch.bfloat16)
    layers, seen = model.model.layers, []

    def look(module, _args):
        seen.append([layer is module for layer in layers if next(layer.parameters()).dtype == torch.float32])

    units, data = find_units(model).units, batches(EXAMPLES, 3)
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    measure(model, units, data, tmp_path)
    assert len(hooks) == 2
    assert max(map(len, seen)) == 1


def test_blocks_that_are_run_several_times_are_refused(tmp_path: Path):
    model = build("albert")
    with pytest.raises(UsageError, match=r"run in the order \[0, 0\], so it cannot be run block by block; leave out"):
        measure(model, find_units(model).units, batches(EXAMPLES, 3), tmp_path)


def test_something_between_two_blocks_is_refused(tmp_path: Path):
    model = build("bert")
    model.bert.encoder.layer[1].register_forward_pre_hook(lambda _module, args: (args[0] + 1.0, *args[1:]))
    with pytest.raises(UsageError, match=r"something stands between two blocks of bert\.encoder\.layer"):
        measure(model, find_units(model).units, batches(EXAMPLES, 3), tmp_path)


def test_an_argument_that_is_computed_from_the_embeddings_is_refused(tmp_path: Path):
    model = build("llama")
    rotary = model.model.rotary_emb.forward

    def dependent(x, **kwargs):
        return tuple(part + 0 * x.mean() for part in rotary(x, **kwargs))

    model.model.rotary_emb.forward = dependent
    with pytest.raises(UsageError, match="computed from the tokens' embeddings"):
        measure(model, find_units(model).units, batches(EXAMPLES, 3), tmp_path)


def test_several_stacks_are_refused(tmp_path: Path):
    model = build("bert")
    model.spare = nn.ModuleList([nn.Linear(16, 16)])
    with pytest.raises(UsageError, match=r"lie in 2 stacks of blocks \['bert\.encoder\.layer', 'spare'\]"):
        measure(model, find_units(model).units, batches(EXAMPLES, 3), tmp_path)


def test_strays_infinities_and_no_data_are_refused_as_by_calibrate(tmp_path: Path):
    deberta = build("deberta")
    with pytest.raises(UsageError, match=r"cannot be matched to tokens; leave out such layers"):
        measure(deberta, find_units(deberta).units, batches(EXAMPLES, 3), tmp_path)
    model = build("bert")
    with pytest.raises(UsageError, match="at least one batch"):
        measure(model, find_units(model).units, [], tmp_path)
    model.classifier.bias.data[0] = float("nan")
    with pytest.raises(AutolrError, match="output is NaN or infinite on 3 of 3"):
        measure(model, find_units(model).units, batches(EXAMPLES, 3), tmp_path)


def test_a_batch_of_one_class_has_no_gradients(tmp_path: Path):
    """One class is certain: there is nothing to backpropagate but the probe."""
    model = build("bert")
    units, data = find_units(model).units, batches(EXAMPLES, 3)
    found = measure(model, units, data, tmp_path, lambda _logits, _mask: [])
    assert_same(found, whole(model, units, data, None))


def test_hidden_states_at_work_stay_those_of_the_model():
    """Entering, every block and leaving give the model's own logits."""
    model = build("llama")
    [batch] = batches(sequences(4), 4)
    stack = Stack.of(model, find_units(model).units, batch)
    with torch.no_grad():
        x = stack.enter(batch)
        for index, block in enumerate(stack.blocks):
            x = stack.call(batch, index).run(block, x)
        with stack.with_hidden(x) as passing:
            torch.testing.assert_close(passing(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("name", ["bloom", "mpt", "gptj", "rembert", "roformer", "qwen3-moe"])
def test_blocks_that_also_return_what_the_model_leaves_alone(name: str, tmp_path: Path):
    """Attention weights, which only a caller may ask for."""
    model = rarer.build(name)
    units, data = find_units(model).units, [rarer.batch()]
    assert_same(measure(model, units, data, tmp_path), whole(model, units, data))


def test_blocks_that_give_each_other_more_than_hidden_states_are_refused(tmp_path: Path):
    """T5's first block computes what relative positions add to the scores of all."""
    model = build("t5-encoder")
    with pytest.raises(UsageError, match=r"encoder\.block give the model more than their hidden states, so it cannot"):
        measure(model, find_units(model).units, batches(EXAMPLES, 3), tmp_path)


def test_tensors_are_put_back_also_after_an_error():
    block = nn.Linear(3, 2).to(torch.bfloat16)
    before = block.weight.data_ptr()
    with suppress(KeyError), in_float32([block]):
        assert block.weight.dtype == torch.float32
        raise KeyError
    assert (block.weight.dtype, block.weight.data_ptr()) == (torch.bfloat16, before)


def test_a_bank_holds_the_same_decompositions(tmp_path: Path):
    """The bank writes statistics in any order; its factors agree up to rounding."""
    model = build("llama-lm-untied")
    units, data = find_units(model).units, batches(EXAMPLES, 3)
    methods, cotangents = get_methods(["svd", "drone"]), SampledCotangents(1)
    banks = [Bank(tmp_path / name, model, units, "key") for name in ("streamed", "whole")]
    computed = banks[0].build(
        methods, lambda missing: stream_calibrate(model, missing, data, cotangents, tmp_path / "streamed")
    )
    banks[1].build(methods, lambda missing: calibrate(model, missing, data, cotangents))
    assert len(computed) == 3 * len(units)
    for unit in units:
        for method in methods:
            found, wanted = (bank.decomposition(unit.name, method.name) for bank in banks)
            top = float(wanted.singular_values[0])
            torch.testing.assert_close(found.singular_values, wanted.singular_values, rtol=1e-4, atol=1e-4 * top)


def test_the_option_calibrates_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = write_inputs(tmp_path / "inputs")
    data = {name.removeprefix("--"): value for name, value in options.items() if name != "--model"}
    plain = {
        "model": options["--model"],
        "data": data,
        "budgets": ["0.5x-flops"],
        "search": {"methods": ["kfac"], "forms": ["low-rank"]},
    }
    stats = {}
    for stream in (True, False):
        inputs = open_inputs(make_spec(plain | {"run": {"stream": stream}}, "test"), Silent())
        with monkeypatch.context() as patch:
            other = "calibrate" if stream else "stream_calibrate"
            patch.setattr(preparation, other, lambda *_, **__: pytest.fail("the other one was asked for"))
            folder = StudyFolder(tmp_path / f"study-{stream}").bank
            bank = preparation.build_bank(inputs, folder, Silent())
        stats[stream] = {unit.name: bank.stats(unit.name) for unit in bank.units}
        assert sorted(path.name for path in folder.glob("[!.]*")) == ["kfac", "statistics"]
    assert_same(stats[True], stats[False])


@pytest.mark.slow
def test_the_peak_of_a_decoder_is_within_the_bound(tmp_path: Path):
    """Weights and one layer's work, times 1.3: the study's measurement, once more."""
    path = Path(__file__).parents[1] / "studies" / "streaming" / "peak.py"
    if not path.is_file():
        pytest.skip("the studies are not part of this distribution")
    spec = importlib.util.spec_from_file_location("peak", path)
    peak = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peak)
    [found] = peak.run(peak.FULL, [("stream", "bfloat16", "returning")])["runs"].values()
    assert 0.5 < found["times_bound"]["resident"] < 1.3
