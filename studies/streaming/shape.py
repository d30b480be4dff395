"""Calibrating and factorizing a random decoder of Llama-2-7B's shape: minutes and peak memory.

    python studies/streaming/shape.py FOLDER --blocks 1                      # one of its 32 blocks, on the CPU
    python studies/streaming/shape.py FOLDER --blocks 32 --device cuda       # the whole

Writes shape-DEVICE-BLOCKS.json beside itself, or --out; after --seconds it stops, and the shares say how far it came.
FOLDER takes the bank (4.6 GB a block, float64 statistics of each layer) and, meanwhile, the hidden states. Weights are
bfloat16 and random; statistics are for kfac, with gradients of sampled next tokens; the factorization is by kfac. Peak:
on the CPU the resident memory's high-water mark less what was resident before the model was made; on a GPU what torch
allocated.
"""

import argparse
import json
import math
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from peak import status
from transformers import LlamaConfig, LlamaForCausalLM

from autolr.bank import Bank
from autolr.methods import get_methods
from autolr.model.units import find_units
from autolr.statistics.calibrate import SampledCotangents
from autolr.statistics.stream import stream_calibrate

SHAPE = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
}
SMALL = {
    "hidden_size": 128,
    "intermediate_size": 344,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 500,
}


def peak(device: str, before: int) -> int:
    """Bytes at the highest."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


class TimeIsOver(Exception):
    """The seconds that were given have passed."""


def main(given: argparse.Namespace) -> None:
    before, device = status()["VmRSS"], torch.device(given.device)
    shape = SMALL if given.small else SHAPE
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with device:
        config = LlamaConfig(**shape, num_hidden_layers=given.blocks, max_position_embeddings=given.length)
        model = LlamaForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    units = find_units(model).units
    random = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(given.batches):
        ids = torch.randint(0, shape["vocab_size"], (given.rows, given.length), generator=random).to(device)
        batches.append({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    shutil.rmtree(given.folder, ignore_errors=True)
    bank, methods = Bank(given.folder, model, units, "random"), get_methods(["kfac"])

    found: dict[str, Any] = {
        "shape": shape | {"blocks": given.blocks},
        "tokens": given.batches * given.rows * given.length,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "calibrate_share": 0.0,
        "factorize_share": 0.0,
        "weights_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
    }
    out = given.out or Path(__file__).with_name(f"shape-{device.type}-{given.blocks}.json")
    began = time.perf_counter()

    def note(half: str, share: float, since: float) -> None:
        """Put down how far a half has come, and stop where the time is over."""
        if device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        found.update({f"{half}_minutes": (now - since) / 60, f"{half}_share": share})
        found["calibrate_peak_bytes" if half == "calibrate" else "peak_bytes"] = peak(given.device, before)
        if given.out or not given.small:
            out.write_text(json.dumps(found, indent=1) + "\n")
        if now - began > given.seconds and share < 1.0:
            raise TimeIsOver

    def statistics(missing):
        progress = (lambda share: note("calibrate", min(share, 0.999), began)) if given.out else (lambda _: None)
        return stream_calibrate(model, missing, batches, SampledCotangents(0), given.folder, progress=progress)

    def factorized(_what: str, done: int, total: int) -> None:
        if given.out:
            note("factorize", done / total, middle)

    try:
        bank.build([], statistics)
        note("calibrate", 1.0, began)
        middle = time.perf_counter()
        bank.build(methods, statistics, factorized)
        note("factorize", 1.0, middle)
    except TimeIsOver:
        print("its time was over")
    found["bank_bytes"] = sum(file.stat().st_size for file in given.folder.rglob("*") if file.is_file())
    print(json.dumps(found, indent=1))
    if given.out or not given.small:
        out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=math.inf)
    main(parser.parse_args())
