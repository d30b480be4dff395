"""Where a pass's time goes: the dense model and the exports of exports.py, by operation.

Uses torch's profiler on the CPU, 20 passes each; what is not a matrix product stays as it is at any rank.
Writes breakdown.json. ``python studies/latency/breakdown.py FOLDER [PROFILE]``
"""

import json
import sys
from pathlib import Path

import torch
from common import MODEL, PROFILES, THREADS
from torch.profiler import ProfilerActivity, profile

from autolr.checkpoint.load import load_checkpoint
from autolr.cost.forward import forward, forward_inputs
from autolr.types import Conditions

OUT = Path(__file__).parent / "breakdown.json"
PASSES = 20
KINDS = {
    "aten::addmm": "matrix products",
    "aten::mm": "matrix products",
    "aten::_scaled_dot_product_flash_attention_for_cpu": "attention",
    "mkldnn::_linear_pointwise": "products with their activation",
    "aten::gelu": "GELU",
    "aten::native_layer_norm": "layer normalisation",
    "aten::copy_": "bias and other copies",
    "aten::add": "residual sums",
}


def main(folder: Path, name: str) -> None:
    torch.set_num_threads(THREADS)
    sizes = PROFILES[name]
    conditions = Conditions(sizes["batch_size"], sizes["seq_len"], "float32")
    rows = {}
    for label in ("dense", "0.5", "0.35", "0.25"):
        source = MODEL if label == "dense" else folder / f"export-{name}-{label}"
        model = load_checkpoint(source)
        run = forward(model, forward_inputs(model, conditions))
        for _ in range(5):
            run()
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            for _ in range(PASSES):
                run()
        spent: dict[str, float] = {}
        for event in profiled.key_averages():
            kind = KINDS.get(event.key, "other")
            spent[kind] = spent.get(kind, 0.0) + event.self_cpu_time_total / PASSES / 1e3
        rows[label] = {kind: round(ms, 2) for kind, ms in sorted(spent.items(), key=lambda pair: -pair[1])}
        print(label, round(sum(spent.values()), 2), rows[label], flush=True)
    OUT.write_text(json.dumps({"profile": name, "milliseconds": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), (sys.argv[2:] or ["8x32"])[0])
