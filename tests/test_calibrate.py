"""Calibration against brute force: one example at a time, a loop over the classes, gradients of weights by autograd."""

from collections import Counter
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from tiny import PAD, VOCABULARY, batches, build, sequences
from torch import nn

from autolr.errors import AutolrError, UsageError
from autolr.methods.weighted_svd import psd_power
from autolr.model.units import find_units, unit_weight
from autolr.statistics.calibrate import calibrate, class_cotangents, pass_count
from autolr.types import Unit

FIELDS = ("mean", "in_gram", "mean_abs", "fisher_in", "out_gram")
EXAMPLES = sequences(7)
LAST_BLOCK = {  # units of the last block that a classifier reads at one position only, and that position
    "bert": ("first", ["attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense"]),
    "roberta": ("first", ["attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense"]),
    "distilbert": ("first", ["attention.q_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2"]),
    "gpt2": ("last", ["attn.c_proj", "mlp.c_fc", "mlp.c_proj"]),
    "llama": (
        "last",
        ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"],
    ),
    "albert": ("first", []),
}


def measure(model, units, data, **options):
    return {unit.name: stats for unit, stats in calibrate(model, units, data, **options)}


def positions(family, unit, length):
    """The positions of a sequence that count for a unit."""
    where, roles = LAST_BLOCK[family]
    if unit.block == unit.n_blocks - 1 and unit.role in roles:
        return [0] if where == "first" else [length - 1]
    return list(range(length))


@dataclass
class Sums:
    tokens: int = 0
    mean: object = 0.0
    mean_abs: object = 0.0
    in_gram: object = 0.0
    out_gram: object = 0.0
    fisher_in: object = 0.0


def brute_force(family, model, units, examples):
    """Every statistic by its definition, in float64, without padding, hooks on one module at a time or batching."""
    model = build(family).double()  # its own copy: the model under test is not touched
    sums = {unit.name: Sums() for unit in units}
    for tokens in examples:
        calls = {unit.name: [] for unit in units}
        hooks = [
            model.get_submodule(name).register_forward_hook(lambda _m, args, y, c=c: c.append((args[0], y)))
            for name, c in calls.items()
        ]
        logits = model(input_ids=torch.tensor([tokens]), attention_mask=torch.ones(1, len(tokens))).logits[0]
        for hook in hooks:
            hook.remove()
        log_p = logits.log_softmax(-1)
        for unit in units:
            total, rows = sums[unit.name], positions(family, unit, len(tokens))
            for x, _ in calls[unit.name]:
                for position in rows:
                    vector = x.reshape(-1, x.shape[-1])[position].detach()
                    total.tokens += 1
                    total.mean = total.mean + vector
                    total.mean_abs = total.mean_abs + vector.abs()
                    total.in_gram = total.in_gram + torch.outer(vector, vector)
            weight = model.get_submodule(unit.name).weight
            for label, p in enumerate(log_p.detach().exp()):  # the loss on each label the model could draw
                of_weight, *of_outputs = torch.autograd.grad(
                    -log_p[label], [weight, *(y for _, y in calls[unit.name])], retain_graph=True
                )
                of_weight = of_weight.mT if unit.transposed else of_weight
                total.fisher_in = total.fisher_in + p * of_weight.square().sum(0)
                for g in of_outputs:
                    for vector in g.reshape(-1, g.shape[-1]):
                        total.out_gram = total.out_gram + p * torch.outer(vector, vector)
    return {
        name: {
            "n_tokens": t.tokens,
            "mean": t.mean / t.tokens,
            "in_gram": t.in_gram / t.tokens,
            "mean_abs": t.mean_abs / t.tokens,
            "fisher_in": t.fisher_in / len(examples),
            "out_gram": t.out_gram / t.tokens,
        }
        for name, t in sums.items()
    }


def assert_same(found, expected, tolerance=2e-5):
    """Every statistic of every unit agrees, relative to its largest entry."""
    assert list(found) == list(expected)
    for name, stats in found.items():
        wanted = expected[name] if isinstance(expected[name], dict) else vars(expected[name])
        assert stats.n_tokens == wanted["n_tokens"], name
        for field in FIELDS:
            value, other = getattr(stats, field), wanted[field]
            assert value.dtype == torch.float64
            gap = float((value - other).abs().max() / other.abs().max())
            assert gap < tolerance, f"{field} of {name} is off by {gap:.1e}"


@pytest.mark.parametrize("family", sorted(LAST_BLOCK))
def test_every_statistic_equals_its_definition(family):
    """Including which positions count in the last block, GPT-2's transposed weights, grouped keys and shared layers."""
    model = build(family)
    units = find_units(model).units
    found = measure(model, units, batches(EXAMPLES, 3))
    assert_same(found, brute_force(family, model, units, EXAMPLES))
    assert {stats.n_examples for stats in found.values()} == {len(EXAMPLES)}


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize(("family", "side"), [("bert", "right"), ("llama", "left"), ("llama", "right")])
def test_neither_batching_nor_padding_changes_a_statistic(family, side, size):
    """Rotary positions are relative, so a decoder may be padded on the left."""
    model = build(family)
    units = find_units(model).units
    assert_same(measure(model, units, batches(EXAMPLES, size, side)), brute_force(family, model, units, EXAMPLES))


@pytest.mark.parametrize("family", sorted(set(LAST_BLOCK) - {"albert"}))
def test_the_last_block_counts_one_position_for_each_sequence(family):
    """Where a classifier reads one position, queries, attention outputs and FFN of the last block have one token."""
    model = build(family)
    units = find_units(model).units
    found = measure(model, units, batches(EXAMPLES, 3), cotangents=None)
    everywhere = sum(map(len, EXAMPLES))
    seen = Counter(stats.n_tokens for stats in found.values())
    n_read_once = len(LAST_BLOCK[family][1])
    assert seen == {everywhere: len(units) - n_read_once, len(EXAMPLES): n_read_once}


def test_moments_alone_are_the_same_and_leave_gradients_out():
    model = build("bert")
    units = find_units(model).units
    both = measure(model, units, batches(EXAMPLES, 3))
    for name, stats in measure(model, units, batches(EXAMPLES, 3), cotangents=None).items():
        assert stats.fisher_in is None
        assert stats.out_gram is None
        assert torch.equal(stats.in_gram, both[name].in_gram)


def test_a_layer_that_runs_once_a_sequence_has_one_token_each():
    """A pooler brought in by --include, also where every sequence is padded on the left."""
    model = build("roberta")
    units = find_units(model, include=["classifier.dense"]).units
    (stats,) = measure(model, units, batches(EXAMPLES, 3, "left")).values()
    assert stats.n_tokens == stats.n_examples == len(EXAMPLES)


def test_sequences_of_one_token_do_not_decide_which_positions_count():
    """In a first batch of one-token sequences first, last and all positions are the same; then all count."""
    model = build("bert")
    units = find_units(model).units
    short = [{"input_ids": torch.tensor([[5, PAD], [6, PAD]]), "attention_mask": torch.tensor([[1, 0], [1, 0]])}]
    found = measure(model, units, [*short, *batches(EXAMPLES, 3)], cotangents=None)
    assert found["bert.encoder.layer.0.output.dense"].n_tokens == 2 + sum(map(len, EXAMPLES))


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_cotangents_span_the_fisher_information_of_a_softmax(classes):
    """Σ_k q_k q_kᵀ = Σ_c p_c (e_c − p)(e_c − p)ᵀ with one vector fewer than classes."""
    logits = 3 * torch.randn(4, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vectors = class_cotangents(logits)
    assert len(vectors) == classes - 1
    for row, p in enumerate(logits.softmax(-1)):
        scores = torch.eye(classes, dtype=torch.float64) - p
        expected = sum(p[c] * torch.outer(scores[c], scores[c]) for c in range(classes))
        torch.testing.assert_close(sum(torch.outer(q[row], q[row]) for q in vectors), expected, atol=1e-14, rtol=0)


def test_cotangents_of_a_certain_model_vanish_and_stay_finite():
    vectors = class_cotangents(torch.tensor([[1000.0, 0.0, -1000.0]]))
    assert all(torch.isfinite(q).all() and q.abs().max() < 1e-6 for q in vectors)


@pytest.mark.parametrize("memory", [1, 20_000, 40_000])
def test_several_passes_give_identical_statistics(memory):
    """A memory limit splits the units into passes over the same batches; no bit of any statistic changes."""
    model = build("bert")
    units = find_units(model).units
    shares = []
    whole = measure(model, units, batches(EXAMPLES, 3))
    split = measure(model, units, batches(EXAMPLES, 3), memory=memory, progress=shares.append)
    assert pass_count(units) == 1
    assert pass_count(units, memory) > 1
    assert len(shares) == pass_count(units, memory) * 3
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert list(split) == [unit.name for unit in units]
    for name, stats in split.items():
        assert (stats.n_tokens, stats.n_examples) == (whole[name].n_tokens, whole[name].n_examples)
        assert all(torch.equal(getattr(stats, field), getattr(whole[name], field)) for field in FIELDS)


def state_of(model):
    """What calibration may not leave behind: modes, requires_grad, gradients, hooks and weights."""
    return {
        "modes": [module.training for module in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grads": [p.grad is None for p in model.parameters()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()],
        "weights": [p.detach().clone().flatten().tolist() for p in model.parameters()],
    }


@pytest.fixture
def mixed():
    """A model in training mode with a frozen embedding and one part in evaluation mode."""
    model = build("bert").train()
    model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    model.bert.encoder.layer[0].eval()
    return model


def test_nothing_of_the_model_is_changed_after_success(mixed):
    before = state_of(mixed)
    measure(mixed, find_units(mixed).units, batches(EXAMPLES, 3))
    assert state_of(mixed) == before


def test_nothing_of_the_model_is_changed_after_an_exception(mixed):
    """A token that does not exist in the second batch, an interrupted consumer, a stopping listener."""
    before = state_of(mixed)
    units = find_units(mixed).units
    good, bad = batches(EXAMPLES, 4)
    bad["input_ids"][0, 0] = VOCABULARY + 7
    with pytest.raises(IndexError):
        measure(mixed, units, [good, bad])
    assert state_of(mixed) == before

    measuring = calibrate(mixed, units, [good])
    next(measuring)
    measuring.close()
    assert state_of(mixed) == before

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(mixed, units, [good], progress=stop)
    assert state_of(mixed) == before


def test_dropout_is_off_while_measuring(mixed):
    """Statistics of a model in training mode are those of the model in evaluation mode."""
    units = find_units(mixed).units
    assert mixed.config.hidden_dropout_prob > 0
    assert_same(measure(mixed, units, batches(EXAMPLES, 3)), measure(build("bert"), units, batches(EXAMPLES, 3)), 1e-12)


def test_labels_are_not_read():
    model = build("bert")
    units = find_units(model).units
    data = batches(EXAMPLES, 3)
    labelled = [{**batch, "labels": torch.full((len(batch["input_ids"]),), 99)} for batch in data]
    assert_same(measure(model, units, labelled), measure(model, units, data), 1e-12)


def test_no_batches_is_a_usage_error():
    model = build("bert")
    with pytest.raises(UsageError, match="at least one batch"):
        measure(model, find_units(model).units, [])


def test_a_layer_that_is_never_run_is_named():
    model = build("bert")
    model.spare = nn.ModuleList([nn.Linear(16, 16)])
    with pytest.raises(AutolrError, match=r"spare\.0 was never reached by the calibration data"):
        measure(model, find_units(model).units, batches(EXAMPLES, 3))


def test_a_model_without_finite_outputs_is_refused():
    model = build("bert")
    model.classifier.bias.data[0] = float("nan")
    with pytest.raises(AutolrError, match="output is NaN or infinite on 3 of 3 calibration examples"):
        measure(model, find_units(model).units, batches(EXAMPLES, 3))


def test_statistics_that_are_not_finite_name_the_layer():
    """Activations whose squares overflow float32 although the model's outputs are finite."""
    model = build("bert")
    layer = model.bert.encoder.layer[0]
    layer.intermediate.dense.weight.data *= 1e28
    layer.output.dense.weight.data.zero_()
    with pytest.raises(
        AutolrError, match=r"statistics of bert\.encoder\.layer\.0\.output\.dense \(in_gram\) are not fin"
    ):
        measure(model, find_units(model).units, batches(EXAMPLES, 3))


def test_layers_fed_from_elsewhere_are_refused_together_and_leaving_them_out_as_told_works():
    """DeBERTa also projects its relative positions by queries and keys; the message's globs exclude just those."""
    model = build("deberta")
    data = batches(EXAMPLES, 3)
    with pytest.raises(UsageError, match=r"cannot be matched to tokens; leave out such layers \(4 in all\)") as caught:
        measure(model, find_units(model).units, data)
    globs = [word.strip("'") for word in str(caught.value).split() if word.startswith("'*")]
    units = find_units(model, exclude=globs).units
    assert len(units) == 8
    assert len(measure(model, units, data)) == 8


class Toy(nn.Module):
    """Embedding, one block of one linear layer, a head; the logits read the first position, or all without a mask."""

    def __init__(self, head_scale=1.0, width=16, offset=0.0, leaky=False):
        super().__init__()
        self.leaky = leaky
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.ModuleList([nn.Linear(width, 20)])
        self.head = nn.Linear(20, 3)
        with torch.no_grad():
            self.embedding.weight.add_(offset)
            self.head.weight.mul_(head_scale)

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids, attention_mask):
        outputs = self.head(self.blocks[0](self.embedding(input_ids)))
        return SimpleNamespace(logits=outputs.mean(1) if self.leaky else outputs[:, 0])


def measured_divergence(model, module, weight, bias, data):
    """KL(before ‖ after) per example, after the module's weight and bias are replaced; all in float64."""
    before = torch.cat([model(**batch).logits for batch in data]).log_softmax(-1)
    old = module.weight.data.clone(), module.bias.data.clone()
    module.weight.data, module.bias.data = weight, bias
    after = torch.cat([model(**batch).logits for batch in data]).log_softmax(-1)
    module.weight.data, module.bias.data = old
    return float((before.exp() * (before - after)).sum(-1).mean())


def predicted_divergence(stats, gap, gram):
    """½ · tokens per example · ‖H^½ ΔW R‖² for R Rᵀ = gram."""
    return 0.5 * stats.tokens_per_example * float((psd_power(stats.out_gram) @ gap @ psd_power(gram)).square().sum())


@torch.no_grad()
def test_kfac_predicts_the_divergence_where_it_is_exact_one_example_one_position():
    """A layer read at one position of one example: H ⊗ C is its Fisher information, so KL = prediction + O(ε³)."""
    model = build("bert")
    data = batches(EXAMPLES[:1], 1)
    (unit,) = [u for u in find_units(model).units if u.name == "bert.encoder.layer.1.output.dense"]
    ((_, stats),) = calibrate(model, [unit], data)
    assert stats.tokens_per_example == 1.0
    gap = torch.randn(16, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = model.double()
    module = model.get_submodule(unit.name)
    ratios = []
    for epsilon in (1e-3, 1e-4):
        moved = measured_divergence(model, module, module.weight + epsilon * gap, module.bias, data)
        ratios.append(moved / predicted_divergence(stats, epsilon * gap, stats.in_gram))
    assert abs(ratios[1] - 1) < 5e-3
    assert abs(ratios[1] - 1) < 0.2 * abs(ratios[0] - 1)  # what is left is of higher order


@torch.no_grad()
def test_kfac_predicts_the_divergence_with_the_bias_corrected_over_many_examples():
    """Where H is the same at every example (a linear head, logits near their bias) Cov and the new bias are exact."""
    torch.manual_seed(0)
    model = Toy(head_scale=1e-3, offset=1.5)
    data = batches(sequences(40), 8)
    unit = Unit("blocks.0", "blocks.0", 0, 1, 20, 16)
    ((_, stats),) = calibrate(model, [unit], data)
    model = model.double()
    layer = model.blocks[0]
    gap = torch.randn(20, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    corrected = measured_divergence(model, layer, layer.weight + gap, layer.bias - gap @ stats.mean, data)
    assert corrected == pytest.approx(predicted_divergence(stats, gap, stats.in_covariance), rel=1e-2)
    left_alone = measured_divergence(model, layer, layer.weight + gap, layer.bias, data)
    assert left_alone == pytest.approx(predicted_divergence(stats, gap, stats.in_gram), rel=1e-2)
    assert left_alone > 1.5 * corrected


def test_padding_counts_nowhere_even_if_the_model_reads_it():
    """A mean over all positions lets gradients reach the padding; the statistics are of the real tokens alone."""
    torch.manual_seed(0)
    model = Toy(leaky=True)
    data = batches(EXAMPLES, 4)
    unit = Unit("blocks.0", "blocks.0", 0, 1, 20, 16)
    ((_, stats),) = calibrate(model, [unit], data)
    fisher = torch.zeros(16)
    for batch in data:
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True):
            x = model.embedding(ids).detach()
            # each position's gradient is the same: that of the head, divided by the length
            q = torch.stack(class_cotangents(model(ids[None], mask[None]).logits))[:, 0]
            g = q @ model.head.weight.detach() / len(ids)
            fisher += torch.stack([torch.outer(row, x[mask].sum(0)).square().sum(0) for row in g]).sum(0)
    torch.testing.assert_close(stats.fisher_in.float(), fisher / len(EXAMPLES), rtol=1e-4, atol=1e-7)
    tokens = torch.cat([model.embedding(torch.tensor(example)).detach() for example in EXAMPLES])
    torch.testing.assert_close(stats.mean.float(), tokens.mean(0), rtol=1e-4, atol=1e-6)


def test_a_covariance_far_smaller_than_the_mean_keeps_its_digits():
    """Inputs of mean 100 and deviation 0.1: in float32 sums of squares nothing of the covariance would be left."""
    torch.manual_seed(0)
    model = Toy()
    with torch.no_grad():
        model.embedding.weight.mul_(0.1).add_(100.0)
    examples = sequences(300)
    unit = Unit("blocks.0", "blocks.0", 0, 1, 20, 16)
    # the layer's output is read at the first position only
    x = torch.stack([model.embedding.weight[tokens[0]].detach() for tokens in examples]).double()
    ((_, stats),) = calibrate(model, [unit], batches(examples, 16), cotangents=None)
    expected = x.mT.cov(correction=0)
    gap = float((stats.in_covariance - expected).abs().max() / expected.abs().max())
    assert gap < 1e-5
    torch.testing.assert_close(stats.mean, x.mean(0), rtol=1e-9, atol=0)


def test_the_model_stays_usable_for_another_precision():
    """A bfloat16 model is calibrated, its sums are float64."""
    model = build("bert").to(torch.bfloat16)
    units = find_units(model).units
    found = measure(model, units, batches(EXAMPLES, 3))
    exact = measure(build("bert"), units, batches(EXAMPLES, 3))
    for name, stats in found.items():
        assert stats.in_gram.dtype == torch.float64
        torch.testing.assert_close(stats.mean_abs, exact[name].mean_abs, rtol=0.1, atol=0.05)


def test_examples_without_a_mask_are_read_whole():
    model = build("bert")
    units = find_units(model).units
    (masked,) = batches([EXAMPLES[1]], 1)
    bare = {"input_ids": masked["input_ids"]}
    assert_same(measure(model, units, [bare]), measure(model, units, [masked]), 1e-9)


def test_weights_come_as_out_by_in_views_of_the_modules_own():
    for family in ("bert", "gpt2"):
        model = build(family)
        for unit in find_units(model).units:
            weight = unit_weight(model, unit)
            assert weight.shape == (unit.out_features, unit.in_features)
            assert weight.data_ptr() == model.get_submodule(unit.name).weight.data_ptr()
    assert replace(unit, block=-1).depth == 1.0


@pytest.mark.slow
def test_kfac_factors_are_those_of_curvlinops():
    """tokens · H ⊗ C is curvlinops' exact K-FAC of the mean loss (Eschenhagen et al. 2023, "expand"), as an operator.

    Runs where curvlinops-for-pytorch is installed; it is no dependency, since it pulls in more than the rest together.
    """
    curvlinops = pytest.importorskip("curvlinops")
    examples = sequences(8, shortest=7, longest=7)  # curvlinops does not know padding
    name = "bert.encoder.layer.0.intermediate.dense"
    units = [unit for unit in find_units(build("bert")).units if unit.name == name]
    ((_, stats),) = calibrate(build("bert"), units, batches(examples, 4))

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = build("bert").double()

        def forward(self, ids):
            return self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits

    function = Logits()
    for parameter in function.parameters():
        parameter.requires_grad_(False)
    weight = function.model.get_submodule(name).weight.requires_grad_(True)
    operator = curvlinops.KFACLinearOperator(
        function,
        nn.CrossEntropyLoss(),
        [weight],
        [(batch["input_ids"], torch.zeros(4, dtype=torch.int64)) for batch in batches(examples, 4)],
        fisher_type=curvlinops.FisherType.TYPE2,
        kfac_approx=curvlinops.KFACType.EXPAND,
        check_deterministic=False,
    )
    vector = torch.randn(24, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    theirs = (operator @ vector.flatten()).reshape(24, 16)
    ours = stats.tokens_per_example * (stats.out_gram @ vector @ stats.in_gram)
    assert float((theirs - ours).abs().max() / theirs.abs().max()) < 1e-5
