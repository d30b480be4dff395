"""Every architecture of the table: a study of three trials, its checkpoint loaded in a new process, equal logits."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf
from architecture_table import ARCHITECTURES, tokenizer, write
from nli_fixture import write_pairs
from safetensors.torch import load_file
from typer.testing import CliRunner

from autolr.checkpoint.load import load_checkpoint
from autolr.cli.main import app
from autolr.machine.tensor_digest import tensor_digest
from autolr.model.units import find_units

IDS = [[1, 5, 9, 14, 2], [1, 7, 11, 8, 2]]
RELOAD = """
import json, sys, torch, autolr
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification
folders, ids, out = json.loads(sys.argv[1]), torch.tensor(json.loads(sys.argv[2])), sys.argv[3]
found = {}
with torch.no_grad():
    for name, folder in folders.items():
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        found[name] = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
save_file(found, out)
"""


def search(model: Path, folder: Path, *flags: str):
    given = {
        "--model": model,
        "--train": write_pairs(folder / "train.jsonl", 60),
        "--budget": "0.8x-nonembedding-params",
    }
    given |= {"--validation": write_pairs(folder / "validation.jsonl", 60, 180), "--study": folder / "study"}
    given |= {"--trials": 3, "--multiple": 2, "--search-examples": 15, "--selection-examples": 15}
    return CliRunner().invoke(app, ["search", *(str(part) for pair in given.items() for part in pair), *flags])


USUAL = ("bert", "deberta-v2", "albert", "llama", "gpt2", "t5")
"""Those of the default run; the others take as long each and are slow together."""
NAMES = [name if name in USUAL else pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES]


@pytest.fixture(scope="module")
def studies(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | str]:
    """Search every architecture that a test of this run asks for; the folders, or the reason where one failed."""
    items = [item for item in request.session.items if getattr(item, "module", None) is request.module]
    asked = {item.callspec.params["name"] for item in items if hasattr(item, "callspec")}
    found = {}
    for name in sorted(asked | {"albert", "deberta-v2"}):
        folder = tmp_path_factory.mktemp("study")
        done = search(write(name, folder / "model"), folder)
        found[name] = folder if done.exit_code == 0 else f"exit code {done.exit_code}: {done.output} {done.exception!r}"
    return found


@pytest.fixture(scope="module")
def reloaded(studies, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The logits of all checkpoints, by one new process."""
    out = tmp_path_factory.mktemp("logits") / "logits.safetensors"
    folders = {name: str(next((f / "study" / "front").iterdir())) for name, f in studies.items() if isinstance(f, Path)}
    command = [sys.executable, "-c", RELOAD, json.dumps(folders), json.dumps(IDS), str(out)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]
    return load_file(out)


@pytest.mark.parametrize("name", NAMES)
def test_a_study_exports_a_checkpoint_that_loads_to_the_same_model(studies, reloaded, name: str):
    folder = studies[name]
    assert isinstance(folder, Path), folder
    result = json.loads((folder / "study" / "result.json").read_text())
    winner = next(one for one in result["members"] if one["trial"] == result["winner"])
    assert winner["candidate"], "the winner is the dense model"
    checkpoint = next((folder / "study" / "front").iterdir())
    here, ids = load_checkpoint(checkpoint), torch.tensor(IDS)
    with torch.no_grad():
        logits = here(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert torch.equal(logits, reloaded[name])
    counted = sum(p.numel() for p in here.parameters())
    assert counted == winner["costs"]["absolute"]["params"]
    dense = load_checkpoint(folder / "model")
    assert tensor_digest(dense.state_dict()) != tensor_digest(here.state_dict())


def test_shared_layers_count_once_for_each_call(studies):
    """ALBERT's one block runs twice: so do its FLOPs, its parameters do not."""
    result = json.loads((studies["albert"] / "study" / "result.json").read_text())
    ratio = next(one for one in result["members"] if one["trial"] == result["winner"])["costs"]["ratio"]
    assert ratio["flops"] == pytest.approx(ratio["nonembedding-params"], abs=0.15)


def test_layers_that_are_not_fed_tokens_stay_dense_with_a_reason(studies, tmp_path: Path):
    folder = studies["deberta-v2"]
    flags = ["--model", str(folder / "model"), "--train", str(folder / "train.jsonl"), "--json"]
    flags += [
        "--validation",
        str(folder / "validation.jsonl"),
        "--budget",
        "0.9x-flops",
        "--study",
        str(tmp_path / "s"),
    ]
    done = CliRunner().invoke(app, ["estimate", *flags])
    left = json.loads(done.stdout)["left_dense"]
    strays = [name for name, reason in left.items() if "not fed the tokens" in reason]
    assert sorted(name.split(".")[-1] for name in strays) == ["key_proj"] * 2 + ["query_proj"] * 2


def test_fused_experts_stay_dense_with_a_reason():
    excluded = find_units(ARCHITECTURES["mixtral"]()).excluded
    experts = [name for name, reason in excluded.items() if "stack of matrices" in reason]
    assert experts == ["model.layers.0.mlp.experts", "model.layers.1.mlp.experts"]


def test_an_architecture_without_a_task_is_refused_by_name(tmp_path: Path):
    config = hf.T5Config(vocab_size=40, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    hf.T5EncoderModel(config).save_pretrained(tmp_path / "model")
    tokenizer(ends=True).save_pretrained(tmp_path / "model")
    done = search(tmp_path / "model", tmp_path)
    assert done.exit_code == 2
    assert "needs a sequence classifier or a causal language model" in " ".join(done.stderr.split())
    assert "T5EncoderModel" in done.stderr


def test_a_dense_export_of_an_architecture_without_biases(tmp_path: Path):
    """Mistral's layers have none: those of low-rank layers are folded into the weights; it is said what that costs."""
    assert search(write("mistral", tmp_path / "model"), tmp_path).exit_code == 0
    done = CliRunner().invoke(
        app, ["export", str(tmp_path / "study"), "--out", str(tmp_path / "dense"), "--format", "dense"]
    )
    assert done.exit_code == 0, done.output
    said = " ".join(done.stderr.split())
    found = re.search(r"has no biases in \d+ layers; .* on the selection part (\S+) -> (\S+) nats", said)
    assert found, said
    before, after = map(float, found.groups())
    model = hf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "dense")
    assert type(model.model.layers[0].mlp.up_proj) is torch.nn.Linear
    assert abs(after - before) < 0.5 * before


def test_blocks_that_cannot_be_streamed_are_refused_before_a_study_is_written(tmp_path: Path):
    model = write("albert", tmp_path / "model")
    refused = search(model, tmp_path, "--stream")
    assert refused.exit_code == 2
    assert "leave out --stream" in refused.stderr
    assert not (tmp_path / "study").exists()
