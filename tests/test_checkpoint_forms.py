"""Models that are refused by what their files say, before anything is loaded: adapters, quantized weights, exports."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
import yaml
from checkpoint_cases import batch
from nli_fixture import arguments, write_inputs, write_pairs
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

from autolr.checkpoint import load as load_module
from autolr.checkpoint.load import load_checkpoint
from autolr.checkpoint.runtime import rewrites
from autolr.checkpoint.runtime.layers import LowRankLinear
from autolr.checkpoint.save import save_checkpoint
from autolr.cli import app
from autolr.errors import UsageError
from autolr.optimization.study.folder import StudyFolder
from autolr.spec.study import make_spec

METHODS = {
    "gptq": (
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        "quantization_config in its .*: gptq",
    ),
    "awq": ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "quantization_config .*: awq"),
    "fp8": ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config .*: fp8"),
    "gguf": ({"quantization_config": {"quant_method": "gguf"}}, "quantization_config .*: gguf"),
    "unknown to transformers": ({"quantization_config": {"quant_method": "sorcery"}}, ": sorcery"),
    "bitsandbytes": ({"quantization_config": {"quant_method": "bitsandbytes"}}, ": bitsandbytes"),
    "bitsandbytes unnamed": ({"quantization_config": {"load_in_8bit": False, "load_in_4bit": True}}, ": load_in_4bit"),
    "unnamed": ({"quantization_config": {"scheme": "mine"}}, "by a method it does not name"),
    "compressed-tensors": ({"quantization_config": {"quant_method": "compressed-tensors"}}, ": compressed-tensors"),
    "older key": ({"compression_config": {"quant_method": "compressed-tensors"}}, "compression_config in its"),
    "nested": (
        {"text_config": {"quantization_config": {"quant_method": "gptq"}}},
        r"text_config\.quantization_config in its config\.json: gptq",
    ),
    "mlx": ({"quantization": {"group_size": 64, "bits": 4}}, r"quantization in its config\.json: 4 bits"),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def model(inputs, tmp_path):
    """A dense classifier with its tokenizer, to be spoiled."""
    return Path(shutil.copytree(inputs["--model"], tmp_path / "model"))


@pytest.fixture(params=["layers", "rewrites"])
def export(request, inputs, tmp_path):
    """A checkpoint of autolr with a low-rank layer, or with a rewrite alone."""
    compressed = load_checkpoint(inputs["--model"])
    if request.param == "layers":
        compressed.classifier = LowRankLinear(32, 3, rank=2)
        for parameter in compressed.classifier.parameters():
            torch.nn.init.normal_(parameter)
    else:
        assert rewrites.apply(compressed, "first-position")
    tokenizer = AutoTokenizer.from_pretrained(inputs["--model"])
    save_checkpoint(compressed, tmp_path / "export", tokenizer, card="# org/dense, compressed by autolr 0.1\n")
    return tmp_path / "export"


@pytest.fixture
def adapter(inputs, tmp_path):
    """(Directory of a LoRA adapter, what the adapted model says)."""
    torch.manual_seed(0)
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], init_lora_weights=False)
    adapted = peft.get_peft_model(AutoModelForSequenceClassification.from_pretrained(inputs["--model"]), config)
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", said(adapted)


@pytest.fixture
def unloaded(monkeypatch):
    """A call from which on nothing may be loaded."""
    return lambda: monkeypatch.setattr(
        load_module.AutoConfig, "from_pretrained", lambda *_, **__: pytest.fail("it was loaded")
    )


@torch.no_grad()
def said(model):
    return model.eval()(input_ids=batch()["input_ids"] % 20).logits


def run(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


def write_config(directory, **fields):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


# --- autolr's own checkpoints -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["search", "estimate", "compare", "resume"])
def test_a_compressed_model_is_not_compressed_again(export, inputs, tmp_path, command, unloaded):
    """It is refused before it is loaded, by its low-rank layers as well as by a rewrite alone, and no front is left."""
    unloaded()
    given = {**inputs, "--model": str(export)}
    study = tmp_path / "study"
    data = {name.removeprefix("--"): value for name, value in inputs.items() if name != "--model"}
    plain = {"model": str(export), "data": data, "budgets": ["0.5x-flops"]}
    if command == "compare":
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(plain | {"entries": [{"name": "a"}]}))
        done = run("compare", tmp_path / "c.yaml", "--out", study)
    elif command == "resume":
        study.mkdir()
        StudyFolder(study).write_spec(make_spec(plain, "here"), {})
        done = run("resume", study)
    else:
        done = run(command, *arguments(given), "--budget", "0.5x-flops", "--study", study)
    assert done.exit_code == 2, done.output
    said = done.stderr.replace("\n", " ")
    assert re.search(r"export is an autolr checkpoint \(quant_method autolr in its config\.json\)", said)
    assert re.search(
        r"give the dense model it was made from \(by its README\.md, org/dense\), or .*--format dense", said
    )
    assert not list(study.rglob("front*"))


def test_a_compressed_model_can_be_measured(export, inputs, tmp_path):
    pairs = write_pairs(tmp_path / "pairs.jsonl", 12)
    evaluated = run("eval", export, "--data", pairs, "--json")
    assert json.loads(evaluated.stdout)["n"] == 12
    timed = run("bench", inputs["--model"], export, "--seq-len", 8, "--max-seconds", 1, "--json")
    assert len(json.loads(timed.stdout)["models"]) == 2
    rows = [f"{'tr' if i < 40 else 'te'}\t{i % 2}\ta {'dog' if i % 2 else 'cat'} runs {i}" for i in range(60)]
    (tmp_path / "animal.tsv").write_text("\n".join(rows) + "\n")
    probed = run("probe", export, "--tasks", tmp_path / "animal.tsv", "--json")
    assert list(json.loads(probed.stdout)["tasks"]) == ["animal"]


# --- adapters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "files",
    [
        ["adapter_config.json", "adapter_model.safetensors"],
        ["adapter_config.json"],
        ["adapter_model.safetensors"],
    ],
)
def test_an_adapter_beside_the_model_is_refused(model, adapter, files, unloaded):
    """Whether PEFT is installed or not: transformers would take it in or leave it out accordingly."""
    unloaded()
    for name in files:
        shutil.copy(adapter[0] / name, model)
    with pytest.raises(UsageError, match=r"model holds an adapter \(adapter_.*merge the adapter first.*to OUT too"):
        load_checkpoint(model)


@pytest.mark.parametrize("command", ["search", "estimate", "eval", "bench"])
def test_every_command_refuses_an_adapter(model, adapter, inputs, tmp_path, command, unloaded):
    unloaded()
    shutil.copy(adapter[0] / "adapter_config.json", model)
    options = {
        "eval": [model, "--data", inputs["--test"]],
        "bench": [model],
    }.get(command, [*arguments({**inputs, "--model": str(model)}), "--budget", "0.5x-flops", "--study", tmp_path / "s"])
    done = run(command, *options)
    assert done.exit_code == 2
    assert "merge the adapter first" in done.stderr.replace("\n", " ")


def test_the_way_to_merge_that_is_told_gives_the_adapted_model(model, adapter, inputs, tmp_path):
    """For an adapter alone, and for one beside its model, which must not be merged twice."""
    alone, expected = adapter
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(alone / name, model)
    for number, directory in enumerate((alone, model)):
        with pytest.raises(UsageError, match=rf"holds an adapter .* for {inputs['--model']}") as seen:
            load_checkpoint(directory)
        code = re.search(r"with PEFT: (.+?), save the tokenizer", str(seen.value))[1]
        out = tmp_path / f"merged-{number}"
        eval(code.replace("OUT", "out"), {"out": out, **vars(peft)})  # noqa: S307  # what a person would type
        torch.testing.assert_close(said(load_checkpoint(out)), expected, atol=1e-5, rtol=1e-4)


def test_an_adapter_beside_the_model_it_names_is_to_be_moved_first(model, adapter):
    config = json.loads((adapter[0] / "adapter_config.json").read_text())
    (model / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(model)}))
    with pytest.raises(UsageError, match=r"move its files to a directory of their own and merge .*\(THERE\)"):
        load_checkpoint(model)


def test_an_adapter_that_no_weight_can_take_up_is_not_to_be_merged(model):
    config = {"peft_type": "PROMPT_TUNING", "base_model_name_or_path": "org/dense"}
    (model / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"cannot be merged into weights; give a model without it, such as org/dense"):
        load_checkpoint(model)


def test_the_kind_of_model_decides_how_to_merge(model):
    (model / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "task_type": "CAUSAL_LM"}))
    with pytest.raises(UsageError, match=r"AutoPeftModelForCausalLM\.from_pretrained"):
        load_checkpoint(model)


def test_a_model_saved_with_its_adapter_inside_is_refused(model):
    """transformers reports such weights as unexpected, and computes without them."""
    weights = load_file(model / "model.safetensors")
    weights["bert.encoder.layer.0.attention.self.query.lora_A.default.weight"] = torch.ones(2, 32)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"saved with an adapter in it \(its weights hold bert.*query\.lora_A"):
        load_checkpoint(model)


# --- quantized weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_quantized_models_are_refused(model, method, unloaded):
    unloaded()
    fields, message = METHODS[method]
    write_config(model, **fields)
    with pytest.raises(UsageError, match=rf"model is quantized \(.*{message}.*; give the model it was quantized from"):
        load_checkpoint(model)


@pytest.mark.parametrize("command", ["search", "estimate", "eval", "bench"])
def test_every_command_refuses_a_quantized_model(model, inputs, tmp_path, command, unloaded):
    unloaded()
    write_config(model, **METHODS["gptq"][0])
    options = {
        "eval": [model, "--data", inputs["--test"]],
        "bench": [model],
    }.get(command, [*arguments({**inputs, "--model": str(model)}), "--budget", "0.5x-flops", "--study", tmp_path / "s"])
    done = run(command, *options)
    assert done.exit_code == 2
    assert "give the model it was quantized from" in done.stderr.replace("\n", " ")


@pytest.mark.parametrize("name", ["quantize_config.json", "quant_config.json"])
def test_older_files_that_say_quantized_are_read(model, name, unloaded):
    unloaded()
    (model / name).write_text('{"bits": 4}')
    with pytest.raises(UsageError, match=rf"model is quantized \({name}\)"):
        load_checkpoint(model)


@pytest.mark.parametrize("name", ["query.qweight", "query.weight_scale_inv", "query.weight.absmax"])
def test_weights_that_only_quantized_layers_have_are_refused(model, name):
    """Where no config says so: without their scales the weights would be computed with as they are."""
    weights = load_file(model / "model.safetensors")
    weights[f"bert.encoder.layer.0.attention.self.{name}"] = torch.ones(2, 32)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=rf"model is quantized \(weights such as bert.*{name}\)"):
        load_checkpoint(model)


@pytest.mark.parametrize("fields", [{"quantization_config": None}, {"quantization": "none"}, {"text_config": {}}])
def test_a_config_without_quantization_loads(model, inputs, fields):
    write_config(model, **fields)
    assert torch.equal(said(load_checkpoint(model)), said(load_checkpoint(inputs["--model"])))


def test_gguf_alone_is_refused_by_name(model):
    (model / "model.safetensors").rename(model / "model-Q4.gguf")
    with pytest.raises(UsageError, match=r"holds weights as GGUF alone.*the model it was converted from"):
        load_checkpoint(model)
    (model / "config.json").unlink()
    with pytest.raises(UsageError, match="holds weights as GGUF alone"):
        load_checkpoint(model)
    with pytest.raises(UsageError, match=r"model-Q4\.gguf is a GGUF file"):
        load_checkpoint(model / "model-Q4.gguf")


# --- the hub's cache --------------------------------------------------------------------------------------------------


def test_models_in_the_cache_of_the_hub_are_told_by_their_files_too(model, adapter, tmp_path):
    """An adapter alone, a quantized model and an export, named by their ids, without network."""
    write_config(model, **METHODS["gptq"][0])
    own = Path(shutil.copytree(model, tmp_path / "own"))
    write_config(own, quantization_config={"quant_method": "autolr", "layers": {}})
    expected = {"adapted": "merge the adapter first", "quantized": "is quantized", "own": "is an autolr checkpoint"}
    for name, directory in {"adapted": adapter[0], "quantized": model, "own": own}.items():
        repository = tmp_path / "cache" / f"models--org--{name}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0" * 40)
        shutil.copytree(directory, repository / "snapshots" / ("0" * 40))
    code = (
        "import json, sys\nfrom autolr.checkpoint.load import load_checkpoint\nfrom autolr.errors import UsageError\n"
        "found = {}\nfor name in sys.argv[1:]:\n    try:\n"
        "        load_checkpoint('org/' + name, compressed=False, local_files_only=True)\n"
        "    except UsageError as error:\n        found[name] = str(error)\nprint(json.dumps(found))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *expected],
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found = json.loads(done.stdout)
    assert all(message in found[name] for name, message in expected.items()), found


# --- damage -----------------------------------------------------------------------------------------------------------


def test_weights_in_parts_must_all_be_there(model):
    load_checkpoint(model).save_pretrained(model, max_shard_size="20KB")
    (model / "model.safetensors").unlink()
    assert load_checkpoint(model)
    lost = sorted(model.glob("model-*.safetensors"))[1]
    lost.rename(model.parent / lost.name)
    with pytest.raises(UsageError, match=rf"is incomplete: .*names \d+ files .* 1 of them .* such as {lost.name}"):
        load_checkpoint(model)
    (model.parent / lost.name).rename(lost)
    index = model / "model.safetensors.index.json"
    for content, message in (
        ("{oops", "is not JSON"),
        ("{}", "has no weight_map"),
        ("[]", "should hold a JSON object"),
    ):
        index.write_text(content)
        with pytest.raises(UsageError, match=rf"index\.json {message}.*; save or download the model again"):
            load_checkpoint(model)
    index.unlink()
    with pytest.raises(UsageError, match=r"weights in parts, such as model-0.*and no model\.safetensors\.index\.json"):
        load_checkpoint(model)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{oops", r"is not JSON \(Expecting"),
        (b"\xff\xfe", r"is not JSON \('utf-8'"),
        (b"null", "holds NoneType 'None'"),
    ],
)
def test_a_config_that_is_no_json_object_is_refused_by_its_path(model, content, message):
    (model / "config.json").write_bytes(content)
    with pytest.raises(UsageError, match=rf"config\.json .*{message}.*; save or download the model again"):
        load_checkpoint(model)


def test_an_empty_directory_is_called_empty(tmp_path):
    with pytest.raises(UsageError, match=r"is empty; name a directory that holds a model"):
        load_checkpoint(tmp_path)


def test_pickled_weights_load_and_nothing_but_weights_is_unpickled(model, inputs):
    expected = said(load_checkpoint(model))
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    assert torch.equal(said(load_checkpoint(model)), expected)
    for content in ({"x": Path("x")}, None):
        torch.save(content, model / "pytorch_model.bin") if content else (model / "pytorch_model.bin").write_text("x")
        with pytest.raises(UsageError, match=r"\.bin file of its weights is damaged, or holds objects beside tensors"):
            load_checkpoint(model)
    (model / "config.json").unlink()
    with pytest.raises(UsageError, match=r"has no config\.json; name the directory that holds it and the weights"):
        load_checkpoint(model)


def test_a_pointer_of_git_lfs_is_named_as_a_cause(model):
    (model / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n")
    with pytest.raises(UsageError, match="damaged, or no more than the pointer that Git LFS leaves"):
        load_checkpoint(model)


def test_an_architecture_that_is_not_in_a_list_is_taken_as_one(model):
    write_config(model, architectures="BertForSequenceClassification")
    assert type(load_checkpoint(model)).__name__ == "BertForSequenceClassification"
