"""Costs are arithmetic on one measurement; here they are counted and summed on the really compressed models."""

import pytest
import torch
from tiny import PAD, VOCABULARY, Source, build, sized
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autolr.cost import measure_costs
from autolr.errors import UsageError
from autolr.forms.swap import compressed
from autolr.methods.weighted_svd import weighted_svd
from autolr.model.units import find_units, unit_weight
from autolr.types import QUANTITIES, Candidate, Conditions, Decomposition

FAMILIES = ["bert", "roberta", "distilbert", "deberta", "albert", "gpt2", "gpt2-lm", "llama", "llama-lm-tied", "opt"]
BATCH, LENGTH = 3, 7


class AnyRows(Source):
    """Decompositions whose rows can be kept, by plain SVD: what a candidate computes does not matter here."""

    def decomposition(self, name, method):
        weight = unit_weight(self.model, self.units[name]).double()
        found, ones = weighted_svd(weight), torch.ones(len(weight), dtype=torch.float64)
        return Decomposition(found.left, found.singular_values, found.right, weight.square().sum(1), ones)


def measured(model, batch=BATCH, length=LENGTH):
    """Count every matrix product of a forward pass, every parameter and every byte."""
    ids = torch.randint(4, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    parameters, buffers = list(model.parameters()), list(model.buffers())
    tables = {id(m.weight): m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
    return {
        "flops": counter.get_total_flops(),
        "params": sum(p.numel() for p in parameters),
        "nonembedding-params": sum(p.numel() for p in parameters) - sum(t.numel() for t in tables.values()),
        "memory": sum(t.untyped_storage().nbytes() for t in [*parameters, *buffers]),
    }


def prepared(family, **options):
    model = build(family)
    units = find_units(model, **options).units
    return model, AnyRows(model, {unit.name: unit for unit in units})


def candidates(units, seed=0):
    """All at rank 0; all at a rank with rows; all rows kept; each unit at random or dense."""
    names = list(units)
    yield Candidate.of({name: sized("any", 0) for name in names})
    yield Candidate.of({name: sized("any", 5, 3) for name in names})
    yield Candidate.of({name: sized("any", 0, units[name].out_features) for name in names})
    random = torch.Generator().manual_seed(seed)
    for _ in range(3):
        chosen = {}
        for name in names:
            rank, rows, skip = torch.randint(0, 12, (3,), generator=random).tolist()
            if skip > 3:
                chosen[name] = sized("any", rank, rows if rows > 5 else 0)
        yield Candidate.of(chosen)


def costs_of(cost):
    return {quantity: cost.get(quantity) for quantity in QUANTITIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cost_of_a_candidate_is_what_the_compressed_model_costs(family):
    """FLOPs by torch's counter, parameters and bytes by summing: exactly, with rank 0, kept rows and without bias."""
    model, source = prepared(family)
    table = measure_costs(model, tuple(source.units.values()), BATCH, LENGTH)
    assert costs_of(table.dense) == measured(model)
    assert table.cost(Candidate()) == table.dense
    for candidate in candidates(source.units):
        with compressed(model, candidate, source):
            assert costs_of(table.cost(candidate)) == measured(model)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 20), (5, 3)])
def test_costs_hold_at_every_batch_and_length(family, batch, length):
    """Also where some products do not grow with the batch, as the projections of DeBERTa's relative positions."""
    model, source = prepared(family)
    table = measure_costs(model, tuple(source.units.values()), batch, length)
    *_, candidate = candidates(source.units)
    assert costs_of(table.dense) == measured(model, batch, length)
    with compressed(model, candidate, source):
        assert costs_of(table.cost(candidate)) == measured(model, batch, length)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_flops_are_linear_in_the_batch(family):
    model, source = prepared(family)
    units = tuple(source.units.values())
    *_, candidate = candidates(source.units)
    one = measure_costs(model, units, 1, LENGTH).cost(candidate)
    for batch in (2, 64):
        many = measure_costs(model, units, batch, LENGTH).cost(candidate)
        assert many.flops == batch * one.flops
        assert (many.params, many.memory) == (one.params, one.memory)
        assert many.conditions == Conditions(batch, LENGTH, "float32")


def test_layers_that_run_once_a_sequence_and_heads_are_counted_as_often_as_they_run():
    model, source = prepared("bert", include=["*pooler*", "*layer.0.output.dense"])
    table = measure_costs(model, tuple(source.units.values()), BATCH, LENGTH)
    assert table.rows == {"bert.encoder.layer.0.output.dense": BATCH * LENGTH, "bert.pooler.dense": BATCH}
    candidate = Candidate.of({name: sized("any", 2) for name in source.units})
    with compressed(model, candidate, source):
        assert costs_of(table.cost(candidate)) == measured(model)


def test_shared_layers_are_paid_once_in_parameters_and_at_every_run_in_flops():
    """ALBERT runs its one block twice."""
    model, source = prepared("albert")
    table = measure_costs(model, tuple(source.units.values()), BATCH, LENGTH)
    assert set(table.rows.values()) == {2 * BATCH * LENGTH}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_memory_is_counted_in_the_weights_dtype(dtype):
    """Row indices stay int64."""
    model, source = prepared("bert")
    model.to(dtype)
    table = measure_costs(model, tuple(source.units.values()), BATCH, LENGTH)
    assert table.dense.conditions.dtype == str(dtype).removeprefix("torch.")
    for candidate in candidates(source.units):
        with compressed(model, candidate, source):
            assert costs_of(table.cost(candidate)) == measured(model)


def test_ratios_are_compressed_over_dense():
    model, source = prepared("bert")
    table = measure_costs(model, tuple(source.units.values()), BATCH, LENGTH)
    assert table.dense.ratios(table.dense) == dict.fromkeys(QUANTITIES, 1.0)
    candidate, *_ = candidates(source.units)
    ratios = table.cost(candidate).ratios(table.dense)
    assert ratios["flops"] == table.cost(candidate).flops / table.dense.flops
    assert 0 < ratios["nonembedding-params"] < ratios["params"] < 1


@pytest.mark.parametrize(("family", "usable"), [("bert", 24), ("gpt2", 24), ("llama", 24), ("roberta", 22)])
def test_a_sequence_longer_than_the_positions_is_refused(family, usable):
    """RoBERTa's table of 24 positions starts behind its padding index 1: 22 tokens fit."""
    model, source = prepared(family)
    units = tuple(source.units.values())
    assert measure_costs(model, units, 1, usable).dense.conditions.seq_len == usable
    with pytest.raises(UsageError, match=rf"--seq-len {usable + 1} is longer than the model's {usable} positions"):
        measure_costs(model, units, 1, usable + 1)


@pytest.mark.parametrize("family", ["bert", "albert", "llama"])
def test_measuring_leaves_no_hooks(family):
    model, source = prepared(family)
    measure_costs(model, tuple(source.units.values()), 2, 5)
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(UsageError):
        measure_costs(model, tuple(source.units.values()), 2, 10**6)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_token_that_is_the_padding_token_is_not_what_costs_are_measured_on():
    """Some decoders refuse or shorten a batch of padding."""
    model, source = prepared("roberta")
    seen = []
    model.roberta.embeddings.word_embeddings.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    measure_costs(model, tuple(source.units.values()), 2, 5)
    assert not any((ids == PAD).any() for ids in seen)
