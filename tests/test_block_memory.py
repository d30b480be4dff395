"""Blocks before the one that is changed answer from memory, and nothing is different for it."""

import pytest
import torch
from test_neurons import batch_of, made
from tiny import Source, sized

from autolr.forms.swap import compressed
from autolr.model import block_memory
from autolr.model.block_memory import remembered
from autolr.model.units import find_units
from autolr.types import Candidate

NAMES = ("bert", "distilbert", "albert", "llama", "gpt2", "opt", "t5", "bart", "mixtral")


def passes(model, units, remember: bool) -> list[torch.Tensor]:
    """The answers of the dense model and with each unit compressed in turn, on two batches."""
    source = Source(model, {unit.name: unit for unit in units})
    batches = [batch_of(model, 6), batch_of(model, 9)]
    answers = []
    with torch.inference_mode(), remembered(model, units if remember else ()) as memories:
        answers += [model(**batch).logits for batch in batches]
        for unit in units:
            memories.changing(unit)
            with compressed(model, Candidate.of({unit.name: sized("svd", 2)}), source):
                answers += [model(**batch).logits for batch in batches]
    return answers


@pytest.mark.parametrize("name", NAMES)
def test_the_answers_are_those_of_whole_passes_to_the_last_bit(name) -> None:
    model = made(name)
    units = find_units(model).units
    for one, other in zip(passes(model, units, True), passes(model, units, False), strict=True):
        assert torch.equal(one, other)
    assert not any("forward" in vars(module) for module in model.modules())


def test_blocks_before_the_changed_one_do_not_run() -> None:
    model = made("bert")
    units = find_units(model).units
    last = next(unit for unit in units if unit.block == 1)
    runs: list[int] = []
    first = model.get_submodule("bert.encoder.layer.0.output")
    first.register_forward_hook(lambda *_: runs.append(1))
    batch = batch_of(model)
    with torch.inference_mode(), remembered(model, units) as memories:
        model(**batch)
        memories.changing(last)
        model(**batch)
        assert len(runs) == 1
        model(**batch_of(model, 9))  # not seen before
        assert len(runs) == 2
        memories.changing(units[0])
        model(**batch)
        assert len(runs) == 3


def test_what_is_too_much_to_keep_runs_again(monkeypatch) -> None:
    monkeypatch.setattr(block_memory, "MOST_KEPT", 1)
    model = made("bert")
    units = find_units(model).units
    for one, other in zip(passes(model, units, True), passes(model, units, False), strict=True):
        assert torch.equal(one, other)
