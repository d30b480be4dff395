"""Laws of compressed checkpoints, for every model family: what is loaded computes what was saved."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from checkpoint_cases import BUILDERS, auto_name, batch, build, output
from safetensors.torch import load_file, save_file

from autolr.checkpoint.dense import save_dense
from autolr.checkpoint.load import load_checkpoint
from autolr.checkpoint.save import compressed_layers, save_checkpoint
from autolr.checkpoint.verify import verify_roundtrip
from autolr.model.inputs import input_device

CASES = tuple(BUILDERS)
LLAMA_PARTS = ("model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "model.rotary_emb", "lm_head")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """The models are tiny: threads that wait for each other on busy cores take ten times as long as the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """{case: (model, its checkpoint, its dense export)}."""
    root = tmp_path_factory.mktemp("checkpoints")
    made = {}
    for case in CASES:
        model = build(case)
        save_checkpoint(model, root / case, card=f"# {case}\n")
        save_dense(model, root / f"{case}-dense")
        made[case] = (model, root / case, root / f"{case}-dense")
    return made


@pytest.fixture(autouse=True)
def _never_asked(monkeypatch):
    """No load may ask a question, least of all whether to trust the code in the directory."""
    monkeypatch.setattr("builtins.input", lambda prompt="": pytest.fail(f"transformers asked: {prompt}"))


def load(case, directory, **options):
    return getattr(transformers, auto_name(case)).from_pretrained(directory, **options)


@pytest.fixture(scope="module")
def fresh(saved, tmp_path_factory):
    """{"with" or "without" autolr: {key: (job, output or None)}}, from two new processes that run side by side."""
    running = {
        autolr: start(jobs(saved), tmp_path_factory.mktemp(autolr), autolr)
        for autolr, jobs in {"with": jobs_with_autolr, "without": jobs_without_autolr}.items()
    }
    return {autolr: finish(*started) for autolr, started in running.items()}


def jobs_with_autolr(saved):
    """Every case by its own head, trusting the directory's code or not."""
    return {
        (case, trust): (auto_name(case), directory, {"trust_remote_code": True} if trust else {})
        for case, (_, directory, _) in saved.items()
        for trust in (False, True)
    }


def jobs_without_autolr(saved):
    """Every way to load without autolr; first those that must fail, since trusted code stays registered."""
    jobs = {}
    for trust in (False, True):
        options = {"trust_remote_code": True} if trust else {}
        for case, (_, directory, _) in saved.items():
            jobs[case, "head", trust] = (auto_name(case), directory, options)
            jobs[case, "headless", trust] = ("AutoModel", directory, options)
    for case, (_, _, dense) in saved.items():
        jobs[case, "dense", False] = (auto_name(case), dense, {})
    return jobs


def start(jobs, folder, autolr):
    """Start checkpoint_program.py on {key: (auto class, directory, options)}."""
    save_file(batch(), folder / "batch.safetensors")
    plan = [
        {
            "directory": str(directory),
            "auto": auto,
            "options": options,
            "batch": str(folder / "batch.safetensors"),
            "output": str(folder / f"{number}.safetensors"),
        }
        for number, (auto, directory, options) in enumerate(jobs.values())
    ]
    (folder / "plan.json").write_text(json.dumps(plan))
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("checkpoint_program.py"), folder / "plan.json", autolr],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={
            **os.environ,
            "HF_MODULES_CACHE": str(folder / "modules"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        },
    )
    return jobs, folder, process


def finish(jobs, folder, process):
    """Wait for the process and read what became of its jobs."""
    printed, _ = process.communicate(timeout=180)
    assert process.returncode == 0, printed.decode()[-3000:]
    done = json.loads((folder / "plan.json").read_text())
    return {
        key: (job, None if "error" in job else load_file(job["output"])["output"])
        for key, job in zip(jobs, done, strict=True)
    }


def headless_output(model):
    return output(model.base_model)


@pytest.mark.parametrize("case", CASES)
def test_the_cases_are_worth_something(case):
    """Low-rank, rank 0 and rows occur in each, and the output depends on most of the factors and the rows."""
    model = build(case)
    layers = compressed_layers(model).values()
    assert {layer.kind for layer in layers} == {"low-rank", "low-rank-rows"}
    assert 0 in {layer.rank for layer in layers}
    expected = output(model)
    for factor in ("right", "rows"):
        weights = [getattr(layer, factor).weight.data for layer in layers if layer.rank and hasattr(layer, factor)]
        assert sum(depends(model, weight, expected) for weight in weights) > len(weights) / 2


def depends(model, weight, expected):
    """Whether another weight gives an output that no tolerance of these tests would accept."""
    kept = weight.clone()
    weight.mul_(5.0)
    differs = not torch.allclose(output(model), expected, atol=1e-4, rtol=1e-3)
    weight.copy_(kept)
    return differs


@pytest.mark.parametrize("case", CASES)
def test_reload_is_bit_equal(saved, case):
    """Plain from_pretrained gives the same layers and the same bits; so does load_checkpoint, with the right head."""
    model, directory, _ = saved[case]
    for loaded in (load(case, directory), load_checkpoint(directory)):
        assert type(loaded) is type(model)
        assert {n: str(x) for n, x in compressed_layers(loaded).items()} == {
            n: str(x) for n, x in compressed_layers(model).items()
        }
        assert loaded.state_dict().keys() == model.state_dict().keys()
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())
        assert torch.equal(output(loaded), output(model))
    assert verify_roundtrip(model, directory, [batch(), batch(2, 5)]) == 0.0


@pytest.mark.parametrize(
    ("case", "places"),
    [
        ("bert-classifier", {"bert": "disk", "dropout": "cpu", "classifier": "cpu"}),
        ("llama-lm-tied", {name: "disk" if name == "model.layers.1" else "cpu" for name in LLAMA_PARTS}),
    ],
)
def test_a_checkpoint_spread_over_memory_and_disk_is_bit_equal(saved, case, places, tmp_path):
    pytest.importorskip("accelerate")
    model, folder, _ = saved[case]
    spread = load_checkpoint(folder, device_map=places, offload_folder=tmp_path)
    assert any(parameter.is_meta for parameter in spread.parameters())
    assert input_device(spread).type == "cpu"  # where batches are made, here and by those who measure
    assert torch.equal(output(spread), output(model))


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_reload_in_another_process_is_bit_equal(saved, fresh, case, trust):
    """With autolr imported the layers are autolr's own, even where the directory's code is trusted."""
    job, loaded = fresh["with"][case, trust]
    assert "error" not in job
    assert job["layers"] == [
        "autolr.checkpoint.runtime.layers.LowRankLinear",
        "autolr.checkpoint.runtime.layers.LowRankRowsLinear",
    ]
    assert torch.equal(loaded, output(saved[case][0]))


@pytest.mark.parametrize("case", CASES)
def test_trusted_code_loads_without_autolr(saved, fresh, case):
    """The modelling file in the directory is enough, for the saved head and for none."""
    model = saved[case][0]
    for head, expected in (("head", output(model)), ("headless", headless_output(model))):
        job, loaded = fresh["without"][case, head, True]
        assert "error" not in job
        assert job["layers"][0].startswith("transformers_modules.")
        assert torch.equal(loaded, expected)


@pytest.mark.parametrize("head", ["head", "headless"])
@pytest.mark.parametrize("case", CASES)
def test_stock_transformers_refuses(fresh, case, head):
    """Without autolr and without trust the load raises, instead of warning and computing with random weights."""
    job, loaded = fresh["without"][case, head, False]
    assert loaded is None
    docs = " ".join((Path(__file__).parents[1] / "docs/checkpoints.md").read_text().split())
    quoted = re.search(r'a RuntimeError that ends in "(.*?)"', docs)[1]
    assert re.match(f"RuntimeError: .*{re.escape(quoted)}", job["error"], re.DOTALL)
    assert "AssertionError" not in job["error"]


@pytest.mark.parametrize("case", CASES)
def test_dense_export_loads_in_stock_transformers(saved, fresh, case):
    """Multiplied out, the model computes the same up to rounding, in plain layers, without autolr."""
    model, _, dense = saved[case]
    job, loaded = fresh["without"][case, "dense", False]
    assert "error" not in job
    assert job["layers"] == []
    torch.testing.assert_close(loaded, output(model), atol=1e-5, rtol=1e-4)
    assert "quantization_config" not in json.loads((dense / "config.json").read_text())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_dense_export_loads_in_the_dtype_of_the_model(saved, tmp_path, dtype):
    """transformers loads what the config says, whatever dtype the weights have on disk."""
    case = next(iter(CASES))
    model = copy.deepcopy(saved[case][0]).to(dtype)
    save_dense(model, tmp_path / "dense")
    loaded = load(case, tmp_path / "dense")
    assert loaded.dtype == dtype
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}


@pytest.mark.parametrize("case", CASES)
def test_headless_and_back(saved, case, tmp_path):
    """AutoModel loads the body of any checkpoint; saved again, the body loads below a head."""
    model, directory, _ = saved[case]
    body = transformers.AutoModel.from_pretrained(directory)
    assert torch.equal(output(body), headless_output(model))
    save_checkpoint(body, tmp_path / "body")
    headed = load(case, tmp_path / "body")
    # BERT's masked-LM body has no pooler; what it lacks does not enter the last hidden state.
    assert torch.equal(headless_output(headed), headless_output(model))


@pytest.mark.parametrize("case", CASES)
def test_plain_save_pretrained_gives_a_checkpoint_again(saved, case, tmp_path):
    """A loaded model saved by transformers alone loads again, and points to code that was written with it."""
    model, directory, _ = saved[case]
    load(case, directory).save_pretrained(tmp_path)
    config, first = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, directory))
    assert config["auto_map"] == first["auto_map"]
    assert (tmp_path / "modeling_autolr.py").read_text() == (directory / "modeling_autolr.py").read_text()
    assert torch.equal(output(load(case, tmp_path)), output(model))


@pytest.mark.parametrize("case", CASES)
def test_saving_leaves_the_model_alone(case, tmp_path):
    """The config in memory, the weights and the mode are what they were."""
    model = build(case)
    before, weights = model.config.to_dict(), {k: v.clone() for k, v in model.state_dict().items()}
    save_checkpoint(model, tmp_path / "factors")
    save_dense(model, tmp_path / "dense")
    assert model.config.to_dict() == before
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in weights.items())


@pytest.mark.parametrize("case", [c for c in CASES if "untied" not in c and "lm" in c])
def test_ties_stay_tied(saved, case):
    """An output embedding that shares the input's weight shares it after loading, and is stored once."""
    loaded = load(case, saved[case][1])
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    stored = load_file(saved[case][1] / "model.safetensors")
    assert sum(tuple(t.shape) == tuple(loaded.get_input_embeddings().weight.shape) for t in stored.values()) == 1


@pytest.mark.parametrize("case", CASES)
def test_precision_and_device_can_be_chosen(saved, case):
    """.half(), .float(), .to(), dtype= and device_map= work on a loaded model; indices stay integers."""
    model, directory, _ = saved[case]
    loaded = load(case, directory).half()
    assert {p.dtype for p in loaded.parameters()} == {torch.float16}
    read_in_half = load(case, directory, dtype=torch.float16)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), read_in_half.parameters(), strict=True))
    for name, layer in compressed_layers(read_in_half).items():
        assert layer.weight.dtype == torch.float16
        if layer.kind == "low-rank-rows":
            assert torch.equal(layer.row_index, model.get_submodule(name).row_index)
    torch.testing.assert_close(output(loaded.float()), output(model), atol=2e-2, rtol=2e-2)
    assert torch.equal(output(load(case, directory, device_map="cpu").to("cpu", torch.float32)), output(model))


@pytest.mark.parametrize("case", CASES)
def test_a_loaded_model_trains(saved, case):
    """One step down the gradient reaches every factor and lowers the loss."""
    model = load(case, saved[case][1]).eval()
    labels = batch()["input_ids"] if "lm" in case else torch.tensor([0, 1, 2])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    before = model(**batch(), labels=labels).loss
    before.backward()
    for layer in compressed_layers(model).values():
        assert all(p.requires_grad and p.grad is not None for p in layer.parameters())
    optimizer.step()
    assert model(**batch(), labels=labels).loss < before


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_trainer_accepts_a_loaded_model(saved, case, tmp_path):
    """Trainer does not take it for a frozen quantized model, and its own checkpoint loads."""
    model = load(case, saved[case][1])
    data = [{"input_ids": row, "labels": row if "lm" in case else torch.tensor(1)} for row in batch()["input_ids"]]
    options = transformers.TrainingArguments(tmp_path, max_steps=2, report_to=[], use_cpu=True, save_strategy="no")
    trainer = transformers.Trainer(model=model, args=options, train_dataset=data)
    assert trainer.train().training_loss > 0
    trainer.save_model(tmp_path / "trained")
    assert torch.equal(output(load(case, tmp_path / "trained")), output(model.eval()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "import autolr, transformers",
        "import transformers, autolr",
        "from transformers import AutoModelForCausalLM; import autolr",
        "import transformers.quantizers.auto; import autolr",
    ],
)
def test_the_order_of_the_imports_does_not_matter(saved, first):
    """Registered at once, or by the waiting finder."""
    code = f"{first}; import transformers, sys; transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, saved["llama-lm-tied"][1]], check=True, timeout=60)


@pytest.mark.slow
def test_importing_autolr_is_quick():
    """Beyond torch, which it may import, below 0.3 s; transformers is not imported."""
    code = (
        "import torch, time, sys; t = time.perf_counter(); import autolr; "
        "sys.exit(time.perf_counter() - t > 0.3 or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
