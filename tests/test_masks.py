"""Masks of neurons and heads: their Fisher information, which stay, what scales them, and what is built of that."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nli_fixture import write_inputs
from tiny import batches, build, sequences
from typer.testing import CliRunner

from autolr.bank import Bank, masked_readers
from autolr.cli.main import app
from autolr.errors import BudgetError, FactorizationError
from autolr.forms import FORMS
from autolr.forms.swap import compressed
from autolr.methods import get_methods
from autolr.methods.masks import Masks, masks_of, rearranged, tuned
from autolr.model.attention import find_attentions
from autolr.model.feed_forward import find_feed_forwards
from autolr.model.units import find_units, unit_weight
from autolr.optimization.spaces.mask_search import search_masks
from autolr.statistics.calibrate import calibrate, class_cotangents, pass_count
from autolr.statistics.stream import stream_calibrate
from autolr.types import Candidate

EXAMPLES = sequences(5)
FISHERS = get_methods(["fisher", "fisher-heads"])


def groups_of(model):
    """The matrices of a model, then its feed-forward pairs and attentions."""
    units, batch = find_units(model).units, batches(EXAMPLES, 2)[0]
    return units, (*find_feed_forwards(model, units, batch), *find_attentions(model, units, batch))


def statistics(model, units, masks=(), size=3):
    return {unit.name: stats for unit, stats in calibrate(model, units, batches(EXAMPLES, size), masks=masks)}


def gradients_of_masks(model, reader, width):
    """Fisher information of explicit masks, by autograd of each example and of each label the model could draw."""
    n, total = reader.in_features // width, 0.0
    for tokens in EXAMPLES:
        mask = torch.ones(n, dtype=torch.float64, requires_grad=True)

        def masked(_module, args, mask=mask):
            return (args[0] * mask.repeat_interleave(width),)

        hook = model.get_submodule(reader.name).register_forward_pre_hook(masked)
        log_p = model(input_ids=torch.tensor([tokens])).logits[0].log_softmax(-1)
        hook.remove()
        for label, p in enumerate(log_p.detach().exp()):
            (d,) = torch.autograd.grad(-log_p[label], mask, retain_graph=True)
            total = total + p * torch.outer(d, d)
    return total / len(EXAMPLES)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "albert"])
def test_the_fisher_of_masks_is_that_of_explicit_masks_by_autograd(family):
    """With padding, GPT-2's transposed weights, gates, grouped-query attention and shared blocks."""
    model = build(family)
    units, groups = groups_of(model)
    assert groups
    found = statistics(model, units, masked_readers(groups, FISHERS))
    exact = build(family).double()
    for group in groups:
        reader, width = group.matrices[-1], group.heads.read if group.heads else 1
        fisher = masks_of(torch.eye(reader.in_features).double(), found[reader.name], "fisher", width).fisher
        wanted = gradients_of_masks(exact, reader, width)
        torch.testing.assert_close(fisher, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))


def test_masks_are_measured_only_where_they_are_asked_for(tmp_path):
    model = build("bert")
    units, groups = groups_of(model)
    asked = masked_readers(groups, FISHERS)
    assert asked == {group.modules[-1] for group in groups}
    assert masked_readers(groups, get_methods(["obs", "obs-heads"])) == frozenset()
    without, found = statistics(model, units), statistics(model, units, asked)
    streamed = dict(stream_calibrate(model, units, batches(EXAMPLES, 3), class_cotangents, tmp_path, masks=asked))
    for unit, stats in streamed.items():
        one, other = found[unit.name], without[unit.name]
        assert other.mask_gram is None
        assert (one.mask_gram is not None) == (unit.name in asked) == (stats.mask_gram is not None)
        if one.mask_gram is not None:
            torch.testing.assert_close(stats.mask_gram, one.mask_gram, rtol=1e-4, atol=1e-9)
        for name in ("mean", "in_gram", "mean_abs", "fisher_in", "out_gram"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
    largest = max(2 * 8 * unit.in_features**2 for unit in units)
    assert pass_count(units, largest, masks=asked) > pass_count(units, largest)


def test_a_bank_without_masks_is_measured_again_only_at_their_readers(tmp_path):
    model = build("bert")
    units, groups = groups_of(model)
    bank = Bank(tmp_path / "bank", model, (*units, *groups), "key")
    measured = []

    def measure(missing):
        measured.append([unit.name for unit in missing])
        asked = masked_readers(groups, methods)
        return calibrate(model, missing, batches(EXAMPLES, 3), masks=asked)

    methods = get_methods(["kfac", "obs", "obs-heads"])
    bank.build(methods, measure)
    before = {group.name: bank.decomposition(group.name, "obs") for group in groups if group.of == "neurons"}
    methods = get_methods(["kfac", "obs", "obs-heads", "fisher", "fisher-heads"])
    assert not bank.complete(methods)
    computed = bank.build(methods, measure)
    assert set(measured[1]) == {group.modules[-1] for group in groups}
    assert {kind for kind, _ in computed} == {"statistics", "fisher", "fisher-heads"}
    assert bank.complete(methods)
    assert bank.build(methods, measure) == []
    for name, order in before.items():
        assert torch.equal(bank.decomposition(name, "obs").order, order.order)


def test_a_method_of_masks_asks_for_their_gradients():
    model = build("bert")
    units, groups = groups_of(model)
    found = statistics(model, units)
    stats = [found[matrix.name] for matrix in groups[0].matrices]
    weights = [torch.ones(matrix.out_features, matrix.in_features).double() for matrix in groups[0].matrices]
    with pytest.raises(FactorizationError, match="fisher needs calibration statistics"):
        FISHERS[0].decompose(weights, stats)


def published_swaps(gradients, count):
    """The authors' rearrangement, on the gradients themselves: (examples, masks) -> what is left out."""
    order = gradients.square().sum(0).argsort().tolist()
    gone = order[:count]
    for entering in order[count:]:
        gone.append(entering)
        vectors = gradients[:, gone]
        without = (vectors.sum(1, keepdim=True) - vectors).square().sum(0)
        del gone[int(without.argmin())]
    return sorted(gone)


@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 1000))
@settings(max_examples=60)
def test_swaps_are_the_published_ones_and_never_lose_more(n, examples, seed):
    gradients = torch.randn(examples, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    fisher = gradients.mT @ gradients
    for count in range(n + 1):
        gone = rearranged(fisher, count)
        least = fisher.diagonal().argsort()[:count].tolist()
        lost, before = (float(fisher[at][:, at].sum()) for at in (gone, least))
        assert len(set(gone)) == count
        assert lost <= before + 1e-9 * float(fisher.abs().sum())
        if 0 < count < n:
            published = published_swaps(gradients, count)
            assert float(fisher[published][:, published].sum()) == pytest.approx(lost, rel=1e-6, abs=1e-9)


@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 1000), st.data())
@settings(max_examples=40)
def test_scales_are_the_least_squares_solution(n, width, seed, data):
    """Against a dense solve over all tokens and outputs, the ridge as rows of its own."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(200, n * width, generator=random, dtype=torch.float64) + 1.0
    weight = torch.randn(4, n * width, generator=random, dtype=torch.float64)
    centred = x - x.mean(0)
    each = torch.stack([centred[:, part] @ weight[:, part].mT for part in torch.arange(n * width).view(n, width)])
    gram = torch.einsum("ato,bto->ab", each, each) / len(x)
    stays = torch.tensor(sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1))))
    design = torch.cat([each[stays].flatten(1).mT / len(x) ** 0.5, torch.eye(len(stays)).double() * 0.1**0.5])
    target = torch.cat([each.sum(0).flatten() / len(x) ** 0.5, torch.ones(len(stays)).double() * 0.1**0.5])
    wanted = torch.linalg.lstsq(design, target).solution
    found = tuned(gram, stays, 0.1 / float(gram.diagonal().mean()))
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


def prices(heads, neurons):
    return 3 * heads.total() + neurons.total()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("limit", [11, 14, 20, 100])
def test_the_search_of_masks_finds_the_best_total(seed, limit):
    """Against every combination of numbers, of each unit its best masks."""
    random = np.random.default_rng(seed)
    heads = {"a": random.exponential(size=3), "b": random.exponential(size=2)}
    neurons = {"c": random.exponential(size=4), "d": 0.3 * random.exponential(size=4)}

    def total(counts):
        importance = heads | neurons
        return sum(np.sort(importance[name])[::-1][:count].sum() for name, count in counts.items())

    best = max(
        total(dict(zip("abcd", counts, strict=True)))
        for counts in product(range(1, 4), range(1, 3), range(1, 5), range(1, 5))
        if 3 * sum(counts[:2]) + sum(counts[2:]) <= limit
    )
    found = search_masks(heads, neurons, lambda h, n: prices(h, n) <= limit)
    assert prices(*found) <= limit
    assert total(found[0] | found[1]) == pytest.approx(best)


def test_a_budget_below_a_head_and_a_neuron_of_each_layer_is_refused():
    with pytest.raises(BudgetError, match="one head and one neuron"):
        search_masks({"a": np.ones(2)}, {"c": np.ones(3)}, lambda h, n: prices(h, n) <= 3)


def test_layers_without_heads_are_searched_by_their_neurons_alone():
    heads, neurons = search_masks({}, {"c": np.array([1.0, 5.0, 3.0])}, lambda h, n: prices(h, n) <= 2)
    assert (dict(heads), dict(neurons)) == ({}, {"c": 2})


class Records:
    """The records of a tiny model's masks, as a bank gives them."""

    def __init__(self, model):
        units, groups = groups_of(model)
        self.groups = {group.name: group for group in groups}
        self.measured = statistics(model, units, masked_readers(groups, FISHERS))
        self.model = model

    def unit(self, name):
        return self.groups[name]

    def mean(self, name):
        return self.measured[name].mean

    def stats(self, name):
        return self.measured[name]

    def decomposition(self, name, _method) -> Masks:
        reader, heads = self.groups[name].matrices[-1], self.groups[name].heads
        weight = unit_weight(self.model, reader).double()
        return masks_of(weight, self.measured[reader.name], "fisher", heads.read if heads else 1)


@pytest.mark.parametrize(("form", "kind", "count"), [("masked-neurons", "neurons", 7), ("masked-heads", "heads", 1)])
def test_a_masked_layer_is_the_dense_one_with_masks_at_its_inputs(form, kind, count):
    model = build("bert")
    source = Records(model)
    group = next(group for group in source.groups.values() if group.of == kind)
    reader, form = group.matrices[-1], FORMS.get(form)
    record = source.decomposition(group.name, "")
    masks = torch.zeros(len(record.fisher)).double()
    masks[record.selected(count * record.width)] = record.scales(count * record.width)
    masks = masks.repeat_interleave(record.width)
    batch = batches(EXAMPLES, len(EXAMPLES))[0]
    mean = source.mean(reader.name)
    module = model.get_submodule(reader.name)
    shift = module.weight.detach().double() @ (mean * (1 - masks))  # its output is exact on the mean input
    before = module.register_forward_pre_hook(lambda _module, args: (args[0] * masks.float(),))
    after = module.register_forward_hook(lambda _module, _args, output: output + shift.float())
    with torch.no_grad():
        wanted = model(**batch).logits
        before.remove()
        after.remove()
        candidate = Candidate.of({group.name: form.choice(form.methods[0], count)})
        with compressed(model, candidate, source):
            found = model(**batch).logits
        assert not torch.allclose(found, model(**batch).logits, atol=1e-3)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_study_of_masks_with_other_forms_is_told_which_it_needs(tmp_path: Path):
    options = [text for pair in write_inputs(tmp_path).items() for text in pair]
    asked = ["search", *options, "--space", "kwon", "--form", "low-rank", "--budget", "0.5x-flops"]
    result = CliRunner().invoke(app, [*asked, "--study", str(tmp_path / "study"), "--calibration-examples", "8"])
    assert result.exit_code == 2
    assert "--form masked-neurons --form masked-heads (got low-rank)" in " ".join(result.output.split())
