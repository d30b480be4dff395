"""What saving and loading refuse, what they say then, and that a checkpoint is there whole or not at all."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers
from checkpoint_cases import batch, build, output
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM
from transformers.quantizers import auto

from autolr.checkpoint import hook, plugin
from autolr.checkpoint import verify as verify_module
from autolr.checkpoint.dense import homeless_biases, save_dense
from autolr.checkpoint.fold import fold_biases, nearest_to_one
from autolr.checkpoint.load import load_checkpoint
from autolr.checkpoint.runtime.layers import LowRankLinear, LowRankRowsLinear
from autolr.checkpoint.save import save_checkpoint
from autolr.checkpoint.verify import max_difference, verify_roundtrip
from autolr.errors import AutolrError, UsageError

SIZES = {
    "vocab_size": 20,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model():
    return build("llama-lm-untied")


@pytest.fixture
def checkpoint(model, tmp_path):
    save_checkpoint(model, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def tree(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


class FailingTokenizer(transformers.PreTrainedTokenizerBase):
    """Fails after the weights are written, as a full disk or a Ctrl-C would."""

    def __init__(self, error):
        self.error = error

    def save_pretrained(self, directory):
        raise self.error


# --- writing a directory ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [save_checkpoint, save_dense])
def test_an_older_checkpoint_is_replaced_whole(model, tmp_path, save):
    """Nothing of the old one stays, no other file appears beside it."""
    save(model, tmp_path / "a" / "b", card="old")
    (tmp_path / "a" / "b" / "tokenizer.json").write_text("{}")
    save(model, tmp_path / "a" / "b")
    assert not {"README.md", "tokenizer.json"} & {p.name for p in (tmp_path / "a" / "b").iterdir()}
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]


def test_an_empty_directory_is_filled_and_the_card_written(model, tmp_path):
    save_checkpoint(model, tmp_path, card="# Ünïcode\n")
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "# Ünïcode\n"
    assert verify_roundtrip(model, tmp_path, [batch()]) == 0.0


def test_a_difference_by_where_the_weights_lie_is_none(model, tmp_path, monkeypatch):
    """A kernel that adds up in another order at an odd address, as a mapped file may have."""

    def odd(model, batch):
        places = [p.data_ptr() % 16 for p in model.parameters()]
        return logits(model, batch) + 1e-6 * (max(places) > 0)

    logits = verify_module.model_logits
    monkeypatch.setattr(verify_module, "model_logits", odd)
    for parameter in model.parameters():
        apart = torch.empty(parameter.numel() + 1)[1:].view_as(parameter)
        parameter.data = apart.copy_(parameter.data)
    save_checkpoint(model, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(verify_module, "_leave_files", lambda _model: None)
        assert verify_roundtrip(model, tmp_path, [batch()]) in (0.0, pytest.approx(1e-6, rel=0.2))
    assert verify_roundtrip(model, tmp_path, [batch()]) == 0.0


@pytest.mark.parametrize(
    ("error", "told"), [(OSError("disk full"), AutolrError), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_a_save_that_fails_changes_nothing(model, checkpoint, error, told):
    """The old checkpoint is byte for byte there, the half-written one is gone; so is one that never was."""
    before = tree(checkpoint)
    for target in (checkpoint, checkpoint.parent / "new"):
        with pytest.raises(told):
            save_checkpoint(model, target, tokenizer=FailingTokenizer(error))
    assert tree(checkpoint) == before
    assert [p.name for p in checkpoint.parent.iterdir()] == ["checkpoint"]


@pytest.mark.slow
def test_a_kill_while_saving_leaves_the_old_checkpoint(model, checkpoint):
    """SIGKILL after the weights are written: the directory is the old one still."""
    before = tree(checkpoint)
    code = (
        "import os, sys, signal, transformers; sys.path.insert(0, sys.argv[1]); from checkpoint_cases import build;"
        "from autolr.checkpoint.save import save_checkpoint\n"
        "class Killer(transformers.PreTrainedTokenizerBase):\n        def __init__(self): pass\n"
        "        def save_pretrained(self, directory): os.kill(os.getpid(), signal.SIGKILL)\n"
        "save_checkpoint(build('gpt2-lm-tied'), sys.argv[2], tokenizer=Killer())"
    )
    done = subprocess.run([sys.executable, "-c", code, Path(__file__).parent, checkpoint], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert tree(checkpoint) == before


def test_only_checkpoints_and_empty_directories_are_replaced(model, checkpoint, tmp_path):
    """Anything else a person may have put there is worth more than a convenience."""
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match=r"thesis\.tex.*only an empty directory or an older checkpoint"):
        save_checkpoint(model, notes)
    (checkpoint / "checkpoint-500").mkdir()
    with pytest.raises(UsageError, match="checkpoint-500"):
        save_checkpoint(model, checkpoint)
    with pytest.raises(UsageError, match="is a file"):
        save_dense(model, notes / "thesis.tex")
    assert (notes / "thesis.tex").read_text() == "x"


def test_a_link_is_followed(model, tmp_path):
    """Saving to a link to a directory fills the directory and keeps the link."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    save_checkpoint(model, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "config.json").is_file()


# --- what cannot be saved ---------------------------------------------------------------------------------------------


def test_a_dense_model_is_not_a_compressed_checkpoint(tmp_path):
    with pytest.raises(UsageError, match="no low-rank layer"):
        save_checkpoint(LlamaForCausalLM(LlamaConfig(**SIZES)), tmp_path / "x")


def test_a_compressed_layer_must_not_be_tied(tmp_path):
    """Loading would tie the dense embedding over the factors."""
    model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True))
    model.lm_head = LowRankLinear(8, 20, rank=2)
    with pytest.raises(UsageError, match=r"lm_head.*tie_word_embeddings"):
        save_checkpoint(model, tmp_path / "x")


def test_dense_export_keeps_a_bias_the_dense_layer_had_no_place_for(tmp_path):
    """Llama's switch for the attention's biases is turned on, the feed-forward's stays off."""
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    model.model.layers[0].self_attn.q_proj = layer = LowRankLinear(8, 8, rank=2)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    save_dense(model, tmp_path / "x")
    loaded = load_checkpoint(tmp_path / "x")
    assert (loaded.config.attention_bias, loaded.config.mlp_bias) == (True, False)
    assert not loaded.model.layers[0].self_attn.o_proj.bias.any()
    torch.testing.assert_close(output_of(loaded), output_of(model), atol=1e-5, rtol=1e-4)


def test_dense_export_refuses_to_drop_a_bias(tmp_path):
    """Mistral has no bias anywhere: a bias of zero is left out, another one is refused by name."""
    model = MistralForCausalLM(MistralConfig(**SIZES)).eval()
    model.model.layers[0].self_attn.q_proj = layer = LowRankLinear(8, 8, rank=2)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    with pytest.raises(
        UsageError, match=r"MistralForCausalLM has no place for the bias of model\.layers\.0\.self_attn"
    ):
        save_dense(model, tmp_path / "x")
    assert homeless_biases(model) == ["model.layers.0.self_attn.q_proj"]
    layer.bias.data.zero_()
    assert homeless_biases(model) == []
    save_dense(model, tmp_path / "x")
    torch.testing.assert_close(output_of(load_checkpoint(tmp_path / "x")), output_of(model), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [LowRankLinear, LowRankRowsLinear])
@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("constant", [True, False])
def test_a_folded_bias_is_off_by_what_least_squares_leaves_of_a_one(kind, rank, constant):
    """By nothing where an input feature is constant."""
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(500, 8, generator=random, dtype=torch.float64) + 1.0
    if constant:
        inputs[:, 3] = 2.0
    layer = kind(8, 5, rank, **({"n_rows": 2} if kind is LowRankRowsLinear else {}))
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, generator=random)
    if kind is LowRankRowsLinear:
        layer.row_index.copy_(torch.tensor([1, 4]))
    model = torch.nn.Sequential(layer)
    fold_biases(model, {"0": nearest_to_one(inputs.mean(0), inputs.mT @ inputs / len(inputs))})
    assert (model[0].rank, type(model[0])) == (rank + 1, kind)
    assert not model[0].bias.any()
    with torch.no_grad():
        off = (model(inputs.float()) - layer(inputs.float())).double().square().mean(0)
    best = torch.linalg.lstsq(inputs, torch.ones(500, 1, dtype=torch.float64)).solution
    left = float((1 - inputs @ best).square().mean())
    assert left < 1e-12 if constant else left > 0.05
    torch.testing.assert_close(off, layer.bias.detach().double().square() * left, atol=1e-6, rtol=1e-3)


def test_dense_export_of_a_loaded_model(model, checkpoint, tmp_path):
    """Loading leaves no quantizer behind that would write the factors instead."""
    save_dense(load_checkpoint(checkpoint), tmp_path / "dense")
    assert not any("left" in key for key in load_file(tmp_path / "dense" / "model.safetensors"))
    torch.testing.assert_close(output(load_checkpoint(tmp_path / "dense")), output(model), atol=1e-5, rtol=1e-4)


def test_dense_export_of_a_model_loaded_by_the_modelling_file(checkpoint, tmp_path, monkeypatch):
    """Nothing of the modelling file follows into the dense checkpoint; the generation settings do."""
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint, trust_remote_code=True)
    assert type(loaded).__module__.endswith("modeling_autolr")
    loaded.generation_config.max_new_tokens = 17
    save_dense(loaded, tmp_path / "dense")
    assert not list((tmp_path / "dense").glob("*.py"))
    dense = load_checkpoint(tmp_path / "dense")
    assert not hasattr(dense.config, "auto_map")
    assert dense.generation_config.max_new_tokens == 17
    torch.testing.assert_close(output(dense), output(loaded), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def output_of(model):
    return model(input_ids=torch.arange(12).reshape(2, 6)).logits


# --- what cannot be loaded --------------------------------------------------------------------------------------------


def change(directory, **fields):
    """Overwrite fields of the checkpoint's config and of its quantization_config."""
    config = json.loads((directory / "config.json").read_text())
    for key, value in fields.items():
        place = config["quantization_config"] if key in config["quantization_config"] else config
        place[key] = value
    (directory / "config.json").write_text(json.dumps(config))


def test_a_newer_format_is_refused_with_both_versions(checkpoint):
    change(checkpoint, format_version=7)
    with pytest.raises(
        UsageError, match=r"format version 7, this autolr knows 2: upgrade autolr, or .*trust_remote_code"
    ):
        load_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="format version 7"):
        AutoModelForCausalLM.from_pretrained(checkpoint)


def test_an_unknown_kind_is_refused_by_name(checkpoint):
    change(checkpoint, layers={"lm_head": {"kind": "tensor-train", "rank": 3}})
    with pytest.raises(UsageError, match=r"layer 'lm_head' is of kind 'tensor-train', known are \[.*'low-rank'"):
        load_checkpoint(checkpoint)


def test_a_source_that_is_no_checkpoint_is_refused_with_a_hint(checkpoint):
    root = checkpoint.parent
    (root / "empty").mkdir()
    shutil.copy(checkpoint / "config.json", root / "empty")
    for source, message in {
        root / "chekpoint": "did you mean checkpoint",
        str(root / "no" / "where"): "does not exist either",
        root: r"has no config\.json; its subdirectories checkpoint are",
        root / "empty": r"has no weights \(\*\.safetensors\)",
        checkpoint / "config.json": "is a file",
    }.items():
        with pytest.raises(UsageError, match=message):
            load_checkpoint(source)


def test_a_mistyped_name_is_not_only_looked_for_on_the_hub(checkpoint, monkeypatch):
    monkeypatch.chdir(checkpoint.parent)
    with pytest.raises(UsageError, match=r"^chekpoint: no such directory here \(did you mean checkpoint\?\)"):
        load_checkpoint("chekpoint", local_files_only=True)


def test_an_unsupported_model_is_named(checkpoint):
    change(checkpoint, architectures=["LlamaForFortuneTelling"])
    with pytest.raises(UsageError, match=r"holds a LlamaForFortuneTelling.*'llama': .*LlamaForCausalLM"):
        load_checkpoint(checkpoint)
    change(checkpoint, model_type="fortune")
    with pytest.raises(UsageError, match=r"checkpoint does not load.*fortune"):
        load_checkpoint(checkpoint)


def test_a_damaged_checkpoint_is_refused(checkpoint):
    """Missing weights are an error here, where transformers warns and draws random ones; so is a cut-off file."""
    weights = checkpoint / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.norm.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"lacks 1 weights of LlamaForCausalLM, such as model\.norm\.weight"):
        load_checkpoint(checkpoint)
    os.truncate(weights, weights.stat().st_size // 2)
    with pytest.raises(UsageError, match="does not load"):
        load_checkpoint(checkpoint)


def test_weights_of_another_size_than_the_config_are_refused(tmp_path):
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 3 * SIZES["intermediate_size"]}))
    with pytest.raises(UsageError, match=r"its weights have other shapes than its config\.json says"):
        load_checkpoint(tmp_path)


def test_roundtrip_measures_a_difference(model, checkpoint):
    """0.0 means equal, and only that: a changed weight shows, nan is nan, no batch is an error."""
    changed = build("llama-lm-untied")
    changed.lm_head.bias.data[5] += 0.25
    changed.train()
    assert verify_roundtrip(changed, checkpoint, [batch(), batch(1, 3)]) == pytest.approx(0.25, abs=1e-6)
    assert changed.training
    changed.lm_head.bias.data[5] = torch.nan
    assert torch.isnan(torch.tensor(verify_roundtrip(changed, checkpoint, [batch()])))
    with pytest.raises(UsageError, match="no batch"):
        verify_roundtrip(model, checkpoint, [])
    with pytest.raises(UsageError, match=r"differ in shape: \(2,\) and \(3,\)"):
        max_difference(torch.zeros(2), torch.zeros(3))
    assert max_difference(torch.tensor([torch.inf]), torch.tensor([torch.inf])) == 0.0


# --- the plug-in ------------------------------------------------------------------------------------------------------


def test_the_modelling_file_stands_alone(checkpoint):
    """It imports the standard library, torch and transformers alone, and offers every head of the architecture."""
    tree = ast.parse((checkpoint / "modeling_autolr.py").read_text(encoding="utf-8"))
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= {"torch", "transformers", *sys.stdlib_module_names}
    classes = {n.name for n in tree.body if isinstance(n, ast.ClassDef)}
    auto_map = json.loads((checkpoint / "config.json").read_text())["auto_map"]
    assert {"AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification"} <= set(auto_map)
    assert {reference.removeprefix("modeling_autolr.") for reference in auto_map.values()} <= classes


def test_registering_again_changes_nothing_and_a_newer_plugin_stays(monkeypatch):
    plugin.register()
    plugin.register()
    assert auto.AUTO_QUANTIZER_MAPPING["autolr"] is plugin.AutolrQuantizer

    class SameFormat(plugin.AutolrQuantizer):
        pass

    class NewerFormat(plugin.AutolrQuantizer):
        format_version = plugin.FORMAT_VERSION + 1

    monkeypatch.setitem(auto.AUTO_QUANTIZER_MAPPING, "autolr", SameFormat)
    plugin.register(replace=False)
    assert auto.AUTO_QUANTIZER_MAPPING["autolr"] is SameFormat
    plugin.register()
    assert auto.AUTO_QUANTIZER_MAPPING["autolr"] is plugin.AutolrQuantizer
    monkeypatch.setitem(auto.AUTO_QUANTIZER_MAPPING, "autolr", NewerFormat)
    plugin.register()
    assert auto.AUTO_QUANTIZER_MAPPING["autolr"] is NewerFormat


def test_the_finder_registers_when_the_awaited_module_is_imported(monkeypatch, tmp_path):
    """Not before; other modules pass it by; the module keeps no trace of it; it is installed once."""
    (tmp_path / "awaited_module.py").write_text("value = 3\n")
    (tmp_path / "other_module.py").write_text("value = 4\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(hook, "_AWAITED", "awaited_module")
    registered = []
    monkeypatch.setattr(hook, "_register", lambda: registered.append(sys.modules["awaited_module"].value))
    before = len(sys.meta_path)
    hook.install()
    hook.install()
    assert len(sys.meta_path) <= before + 1
    import other_module

    assert (other_module.value, registered) == (4, [])
    import awaited_module

    assert registered == [3]
    assert type(awaited_module.__loader__).__name__ == "SourceFileLoader"
    assert awaited_module.__spec__.loader is awaited_module.__loader__
    hook.install()
    assert registered == [3, 3]


# --- trained models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["minilm-nli", "stories260k-llama"])
def test_a_trained_model_survives_the_roundtrip(assets, name, tmp_path):
    """Truncated SVDs of half the layers of a real model: equal logits after loading, close ones after dense export."""
    model = load_checkpoint(assets / "models" / name, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(assets / "models" / name)
    tied = model.get_expanded_tied_weights_keys(all_submodels=True)
    linears = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and f"{n}.weight" not in tied]
    for layer_name, dense in linears[::2]:
        u, s, v = torch.linalg.svd(dense.weight.data, full_matrices=False)
        layer = LowRankLinear(dense.in_features, dense.out_features, rank=len(s) // 3)
        layer.left.weight.data.copy_(u[:, : layer.rank] * s[: layer.rank])
        layer.right.weight.data.copy_(v[: layer.rank])
        layer.left.bias.data.copy_(torch.zeros(dense.out_features) if dense.bias is None else dense.bias)
        model.set_submodule(layer_name, layer)
    texts = ["Once upon a time there was a dog.", "A man sleeps."]
    batches = [dict(tokenizer(text, return_tensors="pt")) for text in texts]
    save_checkpoint(model, tmp_path / "factors", tokenizer)
    save_dense(model, tmp_path / "dense", tokenizer)
    assert verify_roundtrip(model, tmp_path / "factors", batches) == 0.0
    assert verify_roundtrip(model, tmp_path / "dense", batches) < 1e-3
    reloaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "factors")
    assert reloaded(texts[0])["input_ids"] == tokenizer(texts[0])["input_ids"]


def test_nothing_stands_for_a_constant_where_inputs_are_zero():
    assert torch.equal(nearest_to_one(torch.zeros(3), torch.zeros(3, 3)), torch.zeros(3, dtype=torch.float64))


def test_layers_of_rank_0_of_the_first_format_are_refused(checkpoint):
    """They were stored as an empty product; read as they are now they would be memory that nobody wrote."""
    layers = json.loads((checkpoint / "config.json").read_text())["quantization_config"]["layers"]
    name = next(iter(layers))
    change(checkpoint, format_version=1, layers={**layers, name: {**layers[name], "rank": 0}})
    with pytest.raises(UsageError, match=r"format version 1, in which layers of rank 0 .* export it again"):
        load_checkpoint(checkpoint)


def test_a_hub_that_cannot_be_reached_is_asked_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    began = time.monotonic()
    with pytest.raises(UsageError, match=r"could not be reached .*Connection refused.*HF_HUB_OFFLINE=1"):
        load_checkpoint("nowhere")
    assert time.monotonic() - began < 5
    assert "Retrying" not in caplog.text
