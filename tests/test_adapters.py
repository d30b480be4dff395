"""PEFT on compressed models: what the model card says to target works, from the first step to the merged checkpoint."""

import peft
import pytest
import torch
from checkpoint_cases import BUILDERS, batch, output
from tiny import sized
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

from autolr.checkpoint.formats import FORMATS
from autolr.checkpoint.load import load_checkpoint
from autolr.checkpoint.runtime.layers import LowRankLinear
from autolr.checkpoint.save import compressed_layers, save_checkpoint
from autolr.records import Candidate, Conditions
from autolr.report.card import model_card
from autolr.results import FrontMember, RelativeCost, Variant

LINEAR = (torch.nn.Linear, Conv1D)
AUTO = {
    "bert-classifier": AutoModelForSequenceClassification,
    "llama-lm-untied": AutoModelForCausalLM,
    "gpt2-lm-tied": AutoModelForCausalLM,
}


@pytest.fixture(scope="module", params=AUTO)
def export(request, tmp_path_factory):
    """(How to load a checkpoint, its model card)."""
    torch.manual_seed(0)
    model = BUILDERS[request.param]().eval()
    linears = [(name, module) for name, module in model.base_model.named_modules() if isinstance(module, LINEAR)]
    for number, (name, dense) in enumerate(linears):
        out_features, in_features = dense.weight.shape if isinstance(dense, torch.nn.Linear) else dense.weight.T.shape
        layer = LowRankLinear(in_features, out_features, rank=0 if number == 1 else 3)
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        if number % 4 != 2:
            model.base_model.set_submodule(name, layer)
    candidate = {name: sized("kfac", layer.rank) for name, layer in compressed_layers(model).items()}
    directory = tmp_path_factory.mktemp("export")
    card = written(candidate)
    save_checkpoint(model, directory, card=card)
    return lambda: AUTO[request.param].from_pretrained(directory), card


def written(choices, format="hf"):
    cost = RelativeCost({}, {}, Conditions(1, 8, "float32"))
    member = FrontMember(1, "a seed", Variant(Candidate.of(choices)), cost, {}, {})
    return model_card("dense", member, None, None, "divergence", "Load it.", FORMATS.get(format).keeps_layers)


def told(card):
    """The configurations of adapters in a card."""
    return [line.partition("  #")[0] for line in card.splitlines() if line.startswith("LoraConfig(")]


def adapted_layers(model):
    return {name for name, module in model.named_modules() if isinstance(module, peft.tuners.lora.LoraLayer)}


@pytest.mark.parametrize("number", range(3))
def test_what_the_card_tells_to_target_trains_saves_loads_and_merges(export, number, tmp_path):
    load, card = export
    config = eval(told(card)[number], {"LoraConfig": peft.LoraConfig})  # noqa: S307  # what a person would type
    torch.manual_seed(0)
    adapted = peft.get_peft_model(load(), config)
    assert any(name.endswith(".left") for name in adapted_layers(adapted))
    before = output(adapted.eval())
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        adapted(**batch()).logits.float().square().mean().backward()
        optimizer.step()
    after = output(adapted)
    assert not torch.allclose(after, before, atol=1e-3)
    adapted.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(load(), tmp_path / "adapter").eval()
    assert torch.equal(output(again), after)
    again.merge_and_unload().save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(output(load_checkpoint(tmp_path / "merged")), after, atol=1e-4, rtol=1e-3)


def test_each_target_reaches_the_layers_it_says(export):
    load, card = export
    every, factors, named = (
        adapted_layers(peft.get_peft_model(load(), eval(line, {"LoraConfig": peft.LoraConfig})))  # noqa: S307
        for line in told(card)
    )
    low_rank = {name for name, layer in compressed_layers(load()).items() if layer.rank}
    reached = {name.removeprefix("base_model.model.").rpartition(".")[0] for name in factors}
    assert reached == low_rank
    assert all(name.endswith((".left", ".right")) for name in factors)
    assert any(not name.endswith((".left", ".right", ".rows")) for name in every)
    assert named <= factors
    assert len({name.split(".")[-2] for name in named}) == 2


def test_the_name_of_a_low_rank_layer_is_refused_as_the_card_says(export):
    """Where this fails PEFT has learned more, and the card should say so."""
    load, card = export
    model = load()
    name = next(name for name, layer in sorted(compressed_layers(model).items()) if layer.rank).rpartition(".")[2]
    assert f'`["{name}"]`, is refused as not supported' in card
    with pytest.raises(ValueError, match="not supported"):
        peft.get_peft_model(model, peft.LoraConfig(target_modules=[name]))


def test_a_card_without_low_rank_layers_tells_nothing_of_adapters():
    """A dense export, rewrites alone, or biases alone."""
    assert not told(written({}))
    assert not told(written({"query": sized("kfac", 4)}, "dense"))
    assert not told(written({"query": sized("kfac", 0)}))
    assert len(told(written({"query": sized("kfac", 4)}))) == 3
