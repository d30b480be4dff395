"""Tuning of masks in the compressed model: what it solves, what it leaves alone, and the laws of recoveries."""

import pytest
import torch
from test_masks import EXAMPLES, Records
from tiny import batches, build
from typer.main import get_command

from autolr.cli.main import app
from autolr.errors import UsageError
from autolr.forms import FORMS
from autolr.forms.swap import compressed
from autolr.model.blocks import BlockCall
from autolr.recovery.conformance import check
from autolr.recovery.mask_tuning import MASK_TUNING, tune
from autolr.recovery.output_sum import see_output
from autolr.types import Candidate, Choice
from autolr.workflows.compare import cells, parse_comparison
from autolr.workflows.resolve import resolve

BATCHES = batches(EXAMPLES, 3)
NEURONS, HEADS = FORMS.get("masked-neurons"), FORMS.get("masked-heads")


def candidate_of(source, blocks=(0, 1), neurons=5):
    choices = {}
    for name, unit in source.groups.items():
        if unit.matrices[0].block in blocks:
            form, count = (HEADS, 1) if unit.heads else (NEURONS, neurons)
            choices[name] = form.choice(form.methods[0], count)
    return Candidate.of(choices)


def block_calls(model, block, name):
    """What a layer is fed and what its block adds to its output, (tokens, ...) of all real tokens."""
    fed, sums = [], []
    hooks = [
        block.get_submodule(name).register_forward_hook(lambda _m, args, y: fed.append((args[0], y))),
        block.get_submodule(name.replace("dense", "LayerNorm")).register_forward_pre_hook(
            lambda _m, args: sums.append(args[0])
        ),
    ]
    with torch.no_grad():
        for batch in BATCHES:
            model(**batch)
    for hook in hooks:
        hook.remove()
    live = [batch["attention_mask"].bool() for batch in BATCHES]
    x = torch.cat([x[mask] for (x, _), mask in zip(fed, live, strict=True)]).double()
    y = torch.cat([y[mask] for (_, y), mask in zip(fed, live, strict=True)]).double()
    return x, y, torch.cat([z[mask] for z, mask in zip(sums, live, strict=True)]).double()


@pytest.mark.parametrize("kind", ["neurons", "heads"])
def test_a_layer_is_scaled_as_a_dense_solve_over_all_tokens_would(kind):
    """In the first block of BERT, whose other layers are compressed, on what the compressed model feeds it."""
    model = build("bert")
    source = Records(model)
    candidate = candidate_of(source, blocks=(0,), neurons=12)
    group = next(unit for unit in source.groups.values() if unit.of == kind and unit.matrices[0].block == 0)
    name = group.modules[-1]
    inner = name.partition("layer.0.")[2]
    block = model.get_submodule(name.removesuffix(f".{inner}"))
    _, _, wanted = block_calls(model, block, inner)
    found = tune(model, candidate, source, BATCHES)
    before = {other: each for other, each in found.items() if "attention" in other and other != name}
    with compressed(model, candidate, source):
        for other, correction in before.items():  # tuned already when the feed-forward pair's turn comes
            MASK_TUNING.apply(model, {f"{other}/left": correction.left, f"{other}/bias": correction.bias})
        layer = model.get_submodule(name)
        x, y, seen = block_calls(model, block, inner)
        weight = layer.linear.weight.detach().double()
    target = wanted - (seen - y)
    x, target = x - x.mean(0), target - target.mean(0)
    width = group.heads.read if group.heads else 1
    each = (x[:, None] * weight).unflatten(2, (-1, width)).sum(3)  # (tokens, out, masks)
    scales = torch.linalg.lstsq(each.flatten(0, 1), target.flatten()).solution
    scaled = weight * scales.repeat_interleave(width)
    gaps = [float((x @ matrix.double().mT - target).square().sum()) for matrix in (scaled, found[name].left, weight)]
    torch.testing.assert_close(found[name].left.double(), scaled, rtol=0, atol=5e-3 * float(scaled.abs().max()))
    assert gaps[1] < gaps[2]


def test_tuning_is_a_recovery():
    model = build("bert")
    source = Records(model)
    check(MASK_TUNING, model, candidate_of(source), source, BATCHES)


def test_candidates_without_masks_are_not_tuned():
    model = build("bert")
    source = Records(model)
    name = next(name for name, unit in source.groups.items() if unit.of == "neurons")
    other = Candidate.of({name: Choice.of("neurons", "obs", neurons=5)})
    assert tune(model, other, source, BATCHES) == {}


LAYERS = {
    "bert": ("bert.encoder.layer.0", "attention.output.dense", "output.dense"),
    "gpt2": ("transformer.h.0", "attn.c_proj", "mlp.c_proj"),
    "llama": ("model.layers.0", "self_attn.o_proj", "mlp.down_proj"),
}


@pytest.mark.parametrize("family", LAYERS)
def test_what_a_layer_is_added_to_is_the_residual(family):
    """With norms after the sums, as in BERT, and before the layers, as in the others."""
    model = build(family)
    place, attention, pair = LAYERS[family]
    calls = []
    block = model.get_submodule(place)
    hook = block.register_forward_pre_hook(
        lambda _m, args, kwargs: calls.append(BlockCall.of(args, kwargs)), with_kwargs=True
    )
    with torch.no_grad():
        model(**BATCHES[0])
        hook.remove()
        [(hidden, call)] = calls
        first, second = see_output(block, attention, call, hidden), see_output(block, pair, call, hidden)
    torch.testing.assert_close(first.beside, hidden, rtol=1e-5, atol=1e-5)
    added = block.attention.output.LayerNorm(hidden + first.output) if family == "bert" else hidden + first.output
    torch.testing.assert_close(second.beside, added, rtol=1e-5, atol=1e-5)


def test_the_published_scheme_brings_its_tuning_unless_another_recovery_is_named():
    assert resolve({"budget": "0.5x-flops", "space": "kwon"}).search.recovery == "mask-tuning"
    assert resolve({"budget": "0.5x-flops", "space": "kwon", "recovery": "refit"}).search.recovery == "refit"
    assert resolve({"budget": "0.5x-flops"}).search.recovery == "refit"


def test_an_entry_of_a_comparison_gets_the_recovery_of_its_space_or_its_own(tmp_path):
    entries = [
        {"name": "published", "space": "kwon"},
        {"name": "mixed", "space": "kwon", "recovery": "refit"},
        {"name": "ours"},
    ]
    comparison = parse_comparison({"budgets": ["0.5x-flops"], "entries": entries}, "here", tmp_path)
    found = [cell.spec.search.recovery for cell in cells(comparison, tmp_path)]
    assert found == ["mask-tuning", "refit", "refit"]
    with pytest.raises(UsageError, match="unknown recovery 'mask-tunning'"):
        parse_comparison(
            {"budgets": ["0.5x-flops"], "entries": [entries[0] | {"recovery": "mask-tunning"}]}, "", tmp_path
        )


def test_the_command_line_leaves_the_recovery_to_the_space():
    [parameter] = [each for each in get_command(app).commands["search"].params if each.name == "recovery"]
    assert parameter.default is None
