"""How much a refit computes, how often, and in how much memory: nothing of it changes what comes out."""

import json
import shutil
from collections import Counter

import pytest
import torch
from nli_fixture import write_inputs
from test_compress import prepared, random_candidate
from tiny import batches, sequences, sized

from autolr.checkpoint.runtime.layers import LowRankLinear
from autolr.errors import AutolrError, UsageError
from autolr.optimization.study.folder import StudyFolder
from autolr.progress import Silent
from autolr.recovery import hidden_states, stack_calls
from autolr.recovery import refit as refit_module
from autolr.recovery.block_refit import AnswerMemory
from autolr.recovery.hidden_states import HiddenStates, Room
from autolr.recovery.kept import Kept
from autolr.recovery.moments import Moments, gram_of
from autolr.recovery.observed import INPUT
from autolr.recovery.refit import REFIT, refit, refit_together
from autolr.spec.study import make_spec
from autolr.types import Candidate
from autolr.workflows import finalists
from autolr.workflows.search import run_search

DATA = batches(sequences(24), 8)


def equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name in found:
        torch.testing.assert_close(vars(found[name]), vars(wanted[name]), rtol=0, atol=0)


def partial(source, number, block):
    """A candidate of single layers of a block."""
    names = [name for name, unit in source.units.items() if unit.block == block][:number]
    return Candidate.of({name: sized("svd", 3) for name in names})


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "gemma2"])
def test_candidates_refitted_together_are_as_by_themselves(family):
    model, source = prepared(family)
    several = [random_candidate(source), partial(source, 2, 0), Candidate(), partial(source, 1, 1)]
    together = refit_together(model, several, source, DATA)
    assert not together[2]
    for candidate, found in zip(several, together, strict=True):
        equal(found, refit(model, candidate, source, DATA))


@torch.no_grad()
def test_the_dense_model_runs_once_for_all_candidates_and_a_compressed_layer_once_for_each(monkeypatch):
    model, source = prepared("bert")
    dense, small = Counter(), Counter()
    names = {id(module.weight): name for name, module in model.named_modules() if name in source.units}
    linear, low_rank = torch.nn.Linear.forward, LowRankLinear.forward

    def dense_forward(layer, x):
        dense[names.get(id(layer.weight))] += len(x)
        return linear(layer, x)

    def small_forward(layer, x):
        small[layer] += 1  # which keeps the layer, so that no other has its place in memory
        return low_rank(layer, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", dense_forward)
    monkeypatch.setattr(LowRankLinear, "forward", small_forward)
    refit_together(model, [random_candidate(source, seed=seed) for seed in range(3)], source, DATA)
    rows = sum(len(batch["input_ids"]) for batch in DATA)
    examples = 2 * len(DATA[0]["input_ids"])  # of the first batch, for what is read and in which order
    runs = [count for name, count in dense.items() if name is not None]
    assert len(runs) == len(source.units)
    assert max(runs) < rows + examples + 20
    assert set(small.values()) == {len(DATA)}


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_model_that_cannot_be_run_without_its_blocks_has_the_same_refit(family, monkeypatch):
    model, source = prepared(family)
    candidate, runs = random_candidate(source, seed=2), []
    plain = refit(model, candidate, source, DATA)
    real = stack_calls._run
    monkeypatch.setattr(stack_calls, "_run", lambda *args: runs.append(1) or real(*args))
    equal(refit(model, candidate, source, DATA), plain)
    assert len(runs) == 1

    def refuse(*_):
        raise UsageError("the blocks give more than their hidden states")

    monkeypatch.setattr(stack_calls.Stack, "of", refuse)
    equal(refit(model, candidate, source, DATA), plain)
    assert len(runs) == 1 + len(DATA)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_hidden_states_in_files_give_the_same_refit(family, monkeypatch):
    model, source = prepared(family)
    candidate = random_candidate(source, seed=2)
    plain = refit(model, candidate, source, DATA)
    in_files = []
    real = hidden_states._in_file
    monkeypatch.setattr(hidden_states, "_in_file", lambda x: in_files.append(1) or real(x))
    monkeypatch.setattr(refit_module, "Room", lambda: Room(limit=0))
    equal(refit(model, candidate, source, DATA), plain)
    assert len(in_files) == 2 * len(DATA)


def test_hidden_states_for_which_the_disk_has_no_room_are_refused(monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=3)
    monkeypatch.setattr(hidden_states.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(AutolrError, match=r"0\.0 GB are free .* set TMPDIR .* --no-refit"):
        HiddenStates(Room(limit=0)).append(torch.zeros(1, 2, 2))


def test_an_answer_that_was_written_into_is_computed_again():
    memory, calls = AnswerMemory(), []
    layer = torch.nn.Identity()
    layer.forward = lambda x: calls.append(1) or 2 * x
    memory.serve("layer", layer)
    x = torch.ones(3)
    assert layer(x) is layer(x)
    assert len(calls) == 1
    layer(x).add_(1)
    assert torch.equal(layer(x), 2 * x)
    assert len(calls) == 2


def test_answers_are_let_go_with_their_block(monkeypatch):
    model, source = prepared("bert")
    before, memories = AnswerMemory.__init__, []

    def noted(memory):
        assert all(not earlier._answers for earlier in memories)
        memories.append(memory)
        before(memory)

    monkeypatch.setattr(AnswerMemory, "__init__", noted)
    refit(model, random_candidate(source), source, DATA)
    assert len(memories) == 2
    assert not memories[-1]._answers


@pytest.mark.parametrize("wide", [False, True], ids=["from its answers", "from its inputs"])
def test_moments_keep_their_digits_where_the_mean_is_large(wide):
    random = torch.Generator().manual_seed(0)
    x = 300 + torch.randn(600, 5, generator=random)
    dense = 200 + x + torch.randn(600, 5, generator=random)
    weight, bias = torch.randn(7, 5, generator=random), torch.randn(7, generator=random)
    y = dense.double() @ weight.double().mT + bias.double()
    moments = Moments()
    for start in range(0, 600, 200):
        part = slice(start, start + 200)
        moments.add(x[part], {INPUT: dense[part]} if wide else {"up": y[part].float()})
    layer = LowRankLinear(5, 7, rank=2)
    found = moments.of("up", layer, weight, bias, Kept.of(layer))
    both = torch.cat([x.double(), y], 1).mT.cov(correction=0)
    torch.testing.assert_close(found.covariance, both[:5, :5], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.cross, both[5:, :5], rtol=1e-4, atol=2e-4)
    torch.testing.assert_close(found.mean, x.double().mean(0))
    torch.testing.assert_close(found.offset, y.mean(0))


def test_a_gram_matrix_computed_in_strips_is_the_product():
    x = torch.randn(50, 300, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gram_of(x), x.mT @ x, rtol=1e-4, atol=1e-4)
    assert torch.equal(gram_of(x), gram_of(x).mT)


def test_finalists_that_cannot_be_recovered_together_are_recovered_one_by_one(tmp_path, monkeypatch):
    options = write_inputs(tmp_path / "inputs")
    data = {name.removeprefix("--"): value for name, value in options.items() if name != "--model"}
    plain = {
        "model": options["--model"],
        "data": data | {"search_examples": 40, "selection_examples": 40},
        "budgets": ["0.5x-flops"],
        "trials": 6,
        "search": {"methods": ["kfac"], "multiple": 2},
    }
    folder = StudyFolder(tmp_path / "study")

    def failing(*_):
        raise AutolrError("one of them")

    changed = REFIT.__class__(**{**vars(REFIT), "compute_together": failing})
    monkeypatch.setattr(finalists, "recovery_of", lambda _: changed)
    result = run_search(make_spec(plain, "test"), folder, Silent())
    kept = {file.stem for file in (folder.bank / "refit").iterdir() if file.suffix == ".safetensors"}
    assert len(kept) >= 1
    assert json.loads(folder.result_file.read_text())["winner"] == result.winner
