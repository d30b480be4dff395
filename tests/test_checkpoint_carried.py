"""A loaded checkpoint that transformers saves again is whole: it loads, or says how, where autolr is not installed."""

import copy
import gc
import io
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path
from unittest.mock import MagicMock

import peft
import pytest
import torch
import transformers
from checkpoint_cases import auto_name, batch, build, output
from safetensors.torch import load_file, save_file

from autolr.checkpoint.carried import SIGN
from autolr.checkpoint.load import load_checkpoint
from autolr.checkpoint.runtime import rewrites
from autolr.checkpoint.save import compressed_layers, save_checkpoint

CASES = ("bert-classifier", "llama-lm-untied", "gpt2-lm-tied")
WAYS = ("save_pretrained", "Trainer", "PEFT merged", "trusted code")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """{case: (its checkpoint, the model's output)}."""
    root = tmp_path_factory.mktemp("exports")
    made = {}
    for case in CASES:
        model = build(case)
        save_checkpoint(model, root / case)
        made[case] = (root / case, output(model))
    return made


@pytest.fixture(scope="module")
def again(exports, tmp_path_factory):
    """{(case, way): what was saved again after loading with autolr}, and where "trusted code" will save without it."""
    root = tmp_path_factory.mktemp("again")
    folders = {(case, way): root / f"{case} {way}" for case in CASES for way in WAYS}
    for case, (directory, _) in exports.items():
        load(case, directory).save_pretrained(folders[case, "save_pretrained"])
        arguments = transformers.TrainingArguments(root / "trainer", report_to=[], use_cpu=True)
        transformers.Trainer(model=load(case, directory), args=arguments).save_model(folders[case, "Trainer"])
        lora = peft.LoraConfig(target_modules=["left", "right"])
        merged = peft.get_peft_model(load(case, directory), lora).merge_and_unload()
        merged.save_pretrained(folders[case, "PEFT merged"])
    return folders


@pytest.fixture(scope="module")
def without(exports, again, tmp_path_factory):
    """{(case, way, trust): (job, output or None)}, of one process without autolr.

    Trusted code stays registered: refusals come first, then what was saved again, whose code nothing stands in for.
    """
    folder = tmp_path_factory.mktemp("without")
    save_file(batch(), folder / "batch.safetensors")
    jobs, trusted = {}, {"trust_remote_code": True}
    for case, (directory, _) in exports.items():
        jobs[case, "export", False] = {"directory": directory}
        for way in WAYS[:3]:
            jobs[case, way, False] = {"directory": again[case, way]}
    for case in CASES:
        for way in WAYS[:3]:
            jobs[case, way, True] = {"directory": again[case, way]}
    for case, (directory, _) in exports.items():
        jobs[case, "export", True] = {"directory": directory, "save": str(again[case, "trusted code"])}
        jobs[case, "trusted code", True] = {"directory": again[case, "trusted code"]}
        jobs[case, "headless", True] = {"directory": again[case, "trusted code"], "auto": "AutoModel"}
    plan = [
        {
            "auto": auto_name(key[0]),
            **job,
            "directory": str(job["directory"]),
            "options": trusted if key[2] else {},
            "batch": str(folder / "batch.safetensors"),
            "output": str(folder / f"{number}.safetensors"),
        }
        for number, (key, job) in enumerate(jobs.items())
    ]
    (folder / "plan.json").write_text(json.dumps(plan))
    program = [sys.executable, Path(__file__).with_name("checkpoint_program.py"), folder / "plan.json", "without"]
    settings = {"HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run(program, env={**os.environ, **settings}, check=True, timeout=300, capture_output=True)
    done = json.loads((folder / "plan.json").read_text())
    return {
        key: (job, None if "error" in job else load_file(job["output"])["output"])
        for key, job in zip(jobs, done, strict=True)
    }


def load(case, directory, **options):
    return getattr(transformers, auto_name(case)).from_pretrained(directory, **options)


def is_whole(directory):
    """Whether a directory carries the modelling file, the way to it and the sign."""
    auto_map = json.loads((directory / "config.json").read_text()).get("auto_map", {})
    stored = load_file(directory / "model.safetensors")
    return (directory / "modeling_autolr.py").is_file() and "AutoModel" in auto_map and SIGN in stored


# --- without autolr ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_what_is_saved_again_loads_without_autolr_by_its_own_code(exports, without, case, way):
    """Saved with autolr by save_pretrained, Trainer or after merging an adapter, or saved without it."""
    job, loaded = without[case, way, True]
    assert "error" not in job
    assert job["class"].startswith("transformers_modules.")
    assert job["layers"][0].startswith("transformers_modules.")
    torch.testing.assert_close(loaded, exports[case][1], atol=0.0 if way != "PEFT merged" else 1e-6, rtol=0.0)
    assert SIGN not in job["log"]


@pytest.mark.parametrize("way", ["export", *WAYS[:3]])
@pytest.mark.parametrize("case", CASES)
def test_where_nothing_knows_the_layers_autolr_and_the_remedy_are_named(without, case, way):
    """In the report that transformers logs before it raises."""
    job, loaded = without[case, way, False]
    assert loaded is None
    assert "size" in job["error"]
    assert "autolr: import autolr first, or pass trust_remote_code=True" in job["log"]


@pytest.mark.parametrize("case", CASES)
def test_what_is_saved_without_autolr_loads_with_it_and_for_any_head(exports, again, without, case):
    """The second generation is described as the first: with autolr its layers are autolr's own."""
    assert "error" not in without[case, "headless", True][0]
    loaded = load(case, again[case, "trusted code"])
    assert {type(layer).__module__ for layer in compressed_layers(loaded).values()} == {
        "autolr.checkpoint.runtime.layers"
    }
    assert torch.equal(output(loaded), exports[case][1])
    assert is_whole(again[case, "trusted code"])


# --- what a loaded model stays ----------------------------------------------------------------------------------------


def unpickled(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("change", [copy.copy, copy.deepcopy, unpickled, lambda m: m.half(), lambda m: m.bfloat16()])
@pytest.mark.parametrize("case", CASES)
def test_copies_and_casts_are_saved_whole(exports, case, change, tmp_path):
    """And are what they were: the weights that are saved are the copy's."""
    changed = change(load(case, exports[case][0]))
    with torch.no_grad():
        changed.get_input_embeddings().weight.mul_(2.0)
    changed.save_pretrained(tmp_path)
    assert is_whole(tmp_path)
    reloaded = load(case, tmp_path)
    assert all(torch.equal(value, changed.state_dict()[key]) for key, value in reloaded.state_dict().items())


def test_the_sign_is_no_weight_of_the_model(exports, tmp_path):
    """No load with autolr mentions it, whole, in parts or by load_state_dict, nor misses it where it is not there."""
    directory, expected = exports["bert-classifier"]
    load("bert-classifier", directory).save_pretrained(tmp_path, max_shard_size="10KB")
    for folder in (directory, tmp_path):
        model, info = load("bert-classifier", folder, output_loading_info=True)
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert SIGN not in model.state_dict()
        assert torch.equal(output(model), expected)
    stored = load_file(directory / "model.safetensors")
    assert copy.deepcopy(model).load_state_dict(stored).unexpected_keys == []
    del stored[SIGN]
    save_file(stored, directory / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(output(load_checkpoint(directory)), expected)
    save_file({**stored, SIGN: torch.empty(0)}, directory / "model.safetensors", metadata={"format": "pt"})


def test_the_config_in_memory_points_to_no_file(exports, tmp_path):
    model = load("bert-classifier", exports["bert-classifier"][0])
    model.save_pretrained(tmp_path)
    assert getattr(model.config, "auto_map", None) is None


def test_a_model_that_is_given_up_leaves_memory_at_once(exports):
    """Without a collection of cycles: large models are loaded one after the other."""
    gc.collect()
    gc.disable()
    try:
        gone = weakref.ref(load("llama-lm-untied", exports["llama-lm-untied"][0]))
        assert gone() is None
    finally:
        gc.enable()


def test_dense_models_of_the_same_class_are_saved_as_before(exports, tmp_path):
    """After a compressed one of that class was loaded."""
    load("bert-classifier", exports["bert-classifier"][0])
    dense = transformers.BertForSequenceClassification(transformers.BertConfig(hidden_size=32, num_attention_heads=4))
    dense.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    assert load_file(tmp_path / "model.safetensors").keys() == dense.state_dict().keys()
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())


def test_an_adapter_on_a_compressed_model_is_saved_alone(exports, tmp_path):
    adapted = peft.get_peft_model(
        load("bert-classifier", exports["bert-classifier"][0]), peft.LoraConfig(target_modules=["left", "right"])
    )
    adapted.save_pretrained(tmp_path)
    assert not {"config.json", "modeling_autolr.py"} & {path.name for path in tmp_path.iterdir()}


def test_a_process_that_is_not_the_main_one_writes_nothing(exports, tmp_path):
    load("bert-classifier", exports["bert-classifier"][0]).save_pretrained(tmp_path, is_main_process=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("pushed", [((), {"push_to_hub": True}), ((True, None, True), {})])
def test_what_is_pushed_while_it_is_saved_points_to_no_file(exports, pushed, tmp_path, monkeypatch):
    """The file would come too late; ``push_to_hub()``, which saves first, takes it along."""
    model = load("bert-classifier", exports["bert-classifier"][0])
    sent = []
    for module in (transformers.modeling_utils, transformers.utils.hub):
        for name in ("hf_api", "create_and_tag_model_card"):
            monkeypatch.setattr(module, name, MagicMock())
    monkeypatch.setattr(
        type(model),
        "_upload_modified_files",
        lambda _self, folder, *_, **__: sent.append({p.name: p.read_text() for p in Path(folder).glob("*.[jp]*")}),
    )
    model.save_pretrained(tmp_path, *pushed[0], **pushed[1])
    assert "auto_map" not in json.loads(sent[0]["config.json"])
    model.push_to_hub("org/name")
    assert {"config.json", "modeling_autolr.py"} <= sent[1].keys()
    assert "auto_map" in json.loads(sent[1]["config.json"])


def test_a_checkpoint_with_rewrites_alone_has_no_sign(tmp_path):
    """Any transformers reads it and computes the same."""
    model = transformers.BertForSequenceClassification(transformers.BertConfig(hidden_size=32, num_attention_heads=4))
    assert rewrites.apply(model.eval(), "first-position")
    save_checkpoint(model, tmp_path / "first")
    load("bert-classifier", tmp_path / "first").save_pretrained(tmp_path / "second")
    for name in ("first", "second"):
        assert (tmp_path / name / "modeling_autolr.py").is_file()
        assert SIGN not in load_file(tmp_path / name / "model.safetensors")
