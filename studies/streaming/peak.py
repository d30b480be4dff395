"""Peak memory of calibrating and factorizing a random 12-layer decoder, block by block and all at once.

    python studies/streaming/peak.py            # writes peak.json; four minutes a run on one core
    python studies/streaming/peak.py --only "stream bfloat16 returning"    # one of its runs
    python studies/streaming/peak.py --small    # a model of seconds, to try it

Every run is a process of its own on the same saved checkpoint. What is counted is said in README.md.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from autolr.bank import Bank
from autolr.methods import get_methods
from autolr.model.units import find_units
from autolr.statistics.calibrate import SampledCotangents, calibrate
from autolr.statistics.stream import stream_calibrate

FULL = {"width": 768, "inner": 2048, "layers": 12, "heads": 12, "vocabulary": 12_000}
SMALL = {"width": 256, "inner": 704, "layers": 12, "heads": 4, "vocabulary": 2_000}
BATCHES, ROWS, LENGTH = 6, 4, 128
METHODS = ["svd", "kfac"]
RUNS = [  # how calibrated, weights, allocator
    ("stream", "bfloat16", "returning"),
    ("stream", "bfloat16", "keeping"),
    ("stream", "float32", "returning"),
    ("whole", "float32", "returning"),
]
ALLOCATORS = {"returning": {"MALLOC_MMAP_THRESHOLD_": "262144"}, "keeping": {}}
FACTORIZED = ("stream", "bfloat16")
"""The runs whose second half is taken, too; it is the same code in all."""
MIB = 2**20


def build(shape: dict[str, int]) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape["vocabulary"],
            hidden_size=shape["width"],
            intermediate_size=shape["inner"],
            num_hidden_layers=shape["layers"],
            num_attention_heads=shape["heads"],
            num_key_value_heads=shape["heads"],
            max_position_embeddings=LENGTH,
        )
    )


def text(vocabulary: int) -> list[dict[str, torch.Tensor]]:
    random = torch.Generator().manual_seed(0)
    found = []
    for _ in range(BATCHES):
        ids = torch.randint(0, vocabulary, (ROWS, LENGTH), generator=random)
        found.append({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    return found


def status() -> dict[str, int]:
    """The kernel's account of this process, bytes."""
    lines = re.findall(r"(VmHWM|VmRSS|RssAnon|RssFile|RssShmem):\s+(\d+) kB", Path("/proc/self/status").read_text())
    return {name: 1024 * int(number) for name, number in lines}


class Peak:
    """The largest resident and private memory of a block of code, less what was there before everything."""

    def __init__(self, base: dict[str, int]) -> None:
        self.base, self.private, self.seconds = base, 0, 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            now = status()
            self.private = max(self.private, now["RssAnon"] + now["RssShmem"])

    def __enter__(self) -> "Peak":
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
        self._start = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self._done.set()
        self._thread.join()
        self.resident = status()["VmHWM"]

    def report(self) -> dict[str, float]:
        return {
            "resident": self.resident - self.base["VmRSS"],
            "private": self.private - self.base["RssAnon"] - self.base["RssShmem"],
            "seconds": round(self.seconds, 1),
        }


def warm_up(folder: Path) -> None:
    """Load what libraries load at first use, on a model of a few kilobytes, so that it is part of the base."""
    shape = {"width": 32, "inner": 64, "layers": 2, "heads": 2, "vocabulary": 60}
    build(shape).to(torch.bfloat16).save_pretrained(folder / "tiny")
    for path in ("stream", "whole"):
        measure(path, "bfloat16", folder / "tiny", folder / f"warm-{path}", factorized=True)


def measure(path: str, dtype: str, checkpoint: Path, folder: Path, factorized: bool) -> dict:
    base = status()
    methods = get_methods(METHODS)
    with Peak(base) as calibrating:
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=getattr(torch, dtype)).eval()
        units = find_units(model).units
        batches, cotangents = text(model.config.vocab_size), SampledCotangents(0)
        bank = Bank(folder, model, units, "random")
        streamed = path == "stream"

        def statistics(missing):
            if streamed:
                return stream_calibrate(model, missing, batches, cotangents, folder)
            return calibrate(model, missing, batches, cotangents)

        bank.build([], statistics)
    found = {"calibrate": calibrating.report()}
    left = [unit for unit in units if bank.stats(unit.name).fisher_in is None]
    assert not left
    if factorized:
        with Peak(base) as factorizing:
            computed = bank.build(methods, statistics)
        assert len(computed) == len(units) * len(methods)
        found["factorize"] = factorizing.report()
    for what in ("resident", "private"):
        found[what] = max(half[what] for half in found.values() if isinstance(half, dict))
    return found | {"weights": sum(p.numel() * p.element_size() for p in model.parameters()), "layer": work(units)}


def work(units) -> dict[str, int]:
    """Bytes of one layer's work, by counting; the README says what is counted."""
    block = [unit for unit in units if unit.block == 0]
    tokens = ROWS * LENGTH
    calibrating = {
        "weights": sum(4 * u.in_features * u.out_features for u in block),
        "activations": sum(4 * tokens * (u.in_features + 2 * u.out_features) for u in block),
        "grams": sum(8 * (u.in_features**2 + u.out_features**2) for u in block),
    }
    factorizing = max(
        8
        * (
            2 * u.in_features * u.out_features
            + u.in_features**2
            + u.out_features**2
            + min(u.in_features, u.out_features) ** 2
        )
        for u in block
    )
    total = max(sum(calibrating.values()), factorizing)
    return {**calibrating, "calibrating": sum(calibrating.values()), "factorizing": factorizing, "work": total}


def child(path: str, dtype: str, checkpoint: Path, folder: Path) -> None:
    warm_up(folder)
    print(json.dumps(measure(path, dtype, checkpoint, folder / "bank", (path, dtype) == FACTORIZED)))


def run(shape: dict[str, int], runs: list[tuple[str, str, str]]) -> dict:
    results: dict = {"shape": shape, "batches": [BATCHES, ROWS, LENGTH], "methods": METHODS, "threads": 1, "runs": {}}
    with tempfile.TemporaryDirectory() as temporary:
        model = build(shape)
        results["parameters"] = sum(p.numel() for p in model.parameters())
        for dtype in sorted({dtype for _, dtype, _ in runs}, reverse=True):  # float32 first: the other loses digits
            saved = Path(temporary) / dtype
            model.to(getattr(torch, dtype)).save_pretrained(saved)
        for path, dtype, allocator in runs:
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, __file__, "--child", path, dtype, f"{temporary}/{dtype}", folder]
                done = subprocess.run(
                    command, capture_output=True, text=True, check=False, env=os.environ | ALLOCATORS[allocator]
                )
            if done.returncode:
                raise RuntimeError(done.stderr)
            found = json.loads(done.stdout.splitlines()[-1])
            found["bound"] = found["weights"] + found["layer"]["work"]
            found["times_bound"] = {what: round(found[what] / found["bound"], 3) for what in ("resident", "private")}
            results["runs"][f"{path} {dtype} {allocator}"] = found
            print(
                path,
                dtype,
                allocator,
                {k: round(found[k] / MIB) for k in ("resident", "private", "weights", "bound")},
                found["times_bound"],
                {k: found.get(k) for k in ("calibrate", "factorize")},
            )
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--child", nargs=4)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.child:
        child(*given.child[:2], *map(Path, given.child[2:]))
    elif given.small:
        run(SMALL, RUNS)
    else:
        wanted = [pair for pair in RUNS if given.only in " ".join(pair)]
        target = Path(__file__).with_name("peak.json")
        found = run(FULL, wanted)
        if given.only:  # the others' figures stay
            found["runs"] = json.loads(target.read_text())["runs"] | found["runs"]
        target.write_text(json.dumps(found, indent=1) + "\n")
