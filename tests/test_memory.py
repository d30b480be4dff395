"""One very long text: batches stay small, and what cannot fit is refused before the machine ends the process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from architecture_table import write
from nli_fixture import LABELS, write_inputs
from tiny import build
from typer.testing import CliRunner

from autolr.cli.main import app
from autolr.errors import UsageError
from autolr.model import memory
from autolr.model.memory import batch_bytes, check_memory

PROGRAM = """
import resource, sys
from autolr.cli.main import app
try:
    app(sys.argv[1:])
except SystemExit as end:
    print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "EXIT", end.code)
"""


def unlimited(folder: Path, tokens: int) -> dict[str, str]:
    """A model that takes any length, and data with one text of so many tokens among short ones."""
    source = write("llama", folder / "model")
    for name, changes in (
        ("config.json", {"max_position_embeddings": 10**6}),
        ("tokenizer_config.json", {"model_max_length": 10**30}),
    ):
        content = json.loads((source / name).read_text())
        (source / name).write_text(json.dumps({**content, **changes}))
    for part in ("train", "validation", "test"):
        rows = [{"premise": f"a dog runs {part} {i}", "hypothesis": "a cat", "label": LABELS[i % 3]} for i in range(70)]
        rows[7]["premise"] = "dog " * tokens
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"model": str(source), **{part: str(folder / f"{part}.jsonl") for part in ("train", "validation", "test")}}


def peak_of(*arguments: str) -> tuple[int, str]:
    """Peak of a process's memory in MB, and what it printed."""
    command = [sys.executable, "-c", PROGRAM, *arguments, "--offline"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    [line] = [line for line in done.stdout.splitlines() if line.startswith("PEAK")]
    assert line.endswith("EXIT 0"), done.stderr
    return int(line.split()[1]), done.stderr


@pytest.mark.slow
def test_one_long_text_does_not_make_a_whole_batch_long(tmp_path):
    """64 rows of 4,000 tokens would take 1.9 GB for the attention's masks and states alone."""
    made = unlimited(tmp_path, 4000)
    peak, _ = peak_of("eval", made["model"], "--data", made["test"])
    made = unlimited(tmp_path, 4)
    short, _ = peak_of("eval", made["model"], "--data", made["test"])
    assert peak < short + 400


@pytest.mark.slow
def test_a_study_with_one_text_of_any_length(tmp_path):
    """What the model takes no more is cut, and said; without bounds this study was killed at 15 GB."""
    made = unlimited(tmp_path, 30000)
    options = [text for part in ("model", "train", "validation", "test") for text in (f"--{part}", made[part])]
    study = ["--study", str(tmp_path / "study"), "--trials", "3", "--budget", "0.8x-flops"]
    peak, messages = peak_of("search", *options, *study)
    assert peak < 3000
    assert "1 of 70 pairs of the calibration part have more than 8192 tokens: cut" in " ".join(messages.split())


def test_a_batch_that_cannot_fit_is_refused_with_what_it_needs(monkeypatch: pytest.MonkeyPatch):
    model = build("llama")
    batches = [{"input_ids": torch.zeros(2, 8, dtype=torch.long)}, {"input_ids": torch.zeros(64, 20, dtype=torch.long)}]
    monkeypatch.setattr(memory, "available_bytes", lambda: batch_bytes(model, 64, 20, True))
    check_memory(model, batches, True)
    monkeypatch.setattr(memory, "available_bytes", lambda: batch_bytes(model, 64, 20, True) - 1)
    with pytest.raises(UsageError, match=r"a batch of 64 texts of 20 tokens needs at least .* GB to calibrate on, and"):
        check_memory(model, batches, True)
    check_memory(model, batches, False)
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    check_memory(model, batches, True)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama-lm-tied"])
def test_the_bytes_foreseen_are_no_more_than_those_that_are_kept(family):
    """What autograd saves for the backward pass, counted tensor by tensor, is at least what is foreseen."""
    model = build(family)
    ids = torch.randint(4, 50, (3, 16))
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    foreseen = batch_bytes(model, 3, 16, True)
    assert batch_bytes(model, 3, 16, True, next_tokens=True) == foreseen + 3 * 16 * model.config.vocab_size * 12
    assert 0 < foreseen <= sum(kept.values())
    assert outputs.logits.isfinite().all()


def test_a_containers_limit_counts(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    free = memory.available_bytes()
    assert free is not None
    assert free > 2000
    (tmp_path / "memory.stat").write_text("anon 700\ninactive_file 300\n")
    (tmp_path / "memory.current").write_text("1500\n")
    (tmp_path / "memory.max").write_text("2000\n")
    assert memory.available_bytes() == 800
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_bytes() > 2000


@pytest.mark.parametrize(("more", "code"), [(["--method", "kfac"], 2), (["--method", "drone"], 0), (["--stream"], 0)])
def test_a_graph_is_foreseen_only_where_one_is_kept(tmp_path, monkeypatch, more: list[str], code: int):
    """Methods without gradients keep none, and streaming keeps one block's."""
    monkeypatch.setattr(memory, "batch_bytes", lambda *given: 10**18 if given[3] else 1)
    options = [text for pair in write_inputs(tmp_path / "inputs").items() for text in pair]
    arguments = ["search", *options, "--budget", "0.5x-flops", "--trials", "2", "--study", str(tmp_path / "study")]
    assert CliRunner().invoke(app, [*arguments, "--offline", *more]).exit_code == code


def test_search_foresees_it_before_anything_is_computed(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    options = [text for pair in write_inputs(tmp_path / "inputs").items() for text in pair]
    arguments = ["search", *options, "--budget", "0.5x-flops", "--study", str(tmp_path / "study"), "--offline"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    message = " ".join(done.stderr.split())
    assert "0.0 GB are free; shorten or leave out the longest texts" in message
    assert not (tmp_path / "study" / "bank").exists()
