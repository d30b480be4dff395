"""Part 5: one layer's time, dense, as low rank and as low rank with rows, at half of the dense layer's weights.

Each is timed against the dense one in turn, by CUDA events; copies of each rotate, so that weights come from where they
come from in a model.
"""

from collections.abc import Callable
from itertools import cycle

import torch
from common import Part
from torch import nn

from autolr.checkpoint.runtime.layers import LowRankLinear, LowRankRowsLinear
from autolr.cost.clock import compare

SHAPES = {  # name -> (in, out), dtype
    "BERT-base attention": (768, 768, torch.float32),
    "BERT-base FFN in": (768, 3072, torch.float32),
    "BERT-base FFN out": (3072, 768, torch.float32),
    "BERT-base FFN in, bfloat16": (768, 3072, torch.bfloat16),
    "Llama-2-7B attention": (4096, 4096, torch.bfloat16),
    "Llama-2-7B FFN in": (4096, 11008, torch.bfloat16),
    "Llama-2-7B FFN out": (11008, 4096, torch.bfloat16),
}
TINY = {"BERT-base attention": (64, 64, torch.float32), "Llama-2-7B FFN in": (64, 172, torch.bfloat16)}
BATCHES, LENGTHS = (1, 32), (128, 2048)
SHARE = 0.5
ROWS = 1 / 16
COPIES = 4


def layers(inside: int, outside: int) -> dict[str, Callable[[], nn.Module]]:
    """Return what makes the three kinds of layer."""
    rows = max(1, round(ROWS * outside))
    rank = 8 * max(1, round(SHARE * inside * outside / (inside + outside) / 8))
    rest = 8 * max(1, round((SHARE * inside * outside - rows * inside) / (inside + outside) / 8))
    return {
        "dense": lambda: nn.Linear(inside, outside),
        "low rank": lambda: LowRankLinear(inside, outside, rank),
        "rows": lambda: LowRankRowsLinear(inside, outside, rest, rows),
    }


def filled(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Return a layer with random weights; rows that are kept are spread out."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.02)
        if isinstance(module, LowRankRowsLinear):
            n = len(module.row_index)
            module.row_index.copy_(torch.arange(n) * (module.out_features // n))
    return module.to(device, dtype)


def timed(inside: int, outside: int, dtype: torch.dtype, rows: int, part: Part) -> dict[str, float]:
    """Return microseconds of each kind, and the ratios to the dense one."""
    x = torch.randn(rows, inside, device=part.device).to(dtype)
    runs = {}
    for name, make in layers(inside, outside).items():
        copies = cycle([filled(make(), part.device, dtype) for _ in range(COPIES)])
        runs[name] = lambda copies=copies: next(copies)(x)
    with torch.inference_mode():
        found = compare(runs, device=part.device, threads=1, precision=0.02, max_seconds=0.5)
    times = {f"{name}, µs": round(1e6 * timing.median, 1) for name, timing in found.items()}
    return times | {f"{name} / dense": round(timing.ratio, 3) for name, timing in found.items() if name != "dense"}


def main() -> None:
    part, found = Part.told(), []
    lengths = (8, 32) if part.rehearse else LENGTHS
    cells = [
        (shape, batch, length)
        for batch in BATCHES
        for length in lengths
        for shape in (TINY if part.rehearse else SHAPES)
    ]
    for done, (shape, batch, length) in enumerate(cells):
        if part.left() < 3.0:
            part.write(rows=found, left_out=len(cells) - done)
            return
        inside, outside, dtype = (TINY if part.rehearse else SHAPES)[shape]
        sizes = {"layer": shape, "in": inside, "out": outside, "batch": batch, "length": length}
        found.append(sizes | timed(inside, outside, dtype, batch * length, part))
        print(f"  {found[-1]}", flush=True)
        part.write(rows=found, left_out=len(cells) - done - 1)


if __name__ == "__main__":
    main()
