"""What half precision and int8 cost a compressed checkpoint, beside what the same step costs the dense model.

Writes precision.json and prints the table. The first checkpoint is the dense model.

    python studies/precision/run.py NAME=CHECKPOINT ...
"""

import copy
import json
import os
import sys
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

import autolr  # noqa: F401  registers the layers
from autolr.checkpoint.load import load_checkpoint
from autolr.model.load import load_tokenizer
from autolr.model.padding import ensure_padding
from autolr.spec.study import make_spec
from autolr.tasks import task_for
from autolr.tasks.class_scorer import ClassScorer

ASSETS = Path(os.environ.get("AUTOLR_ASSETS", Path(__file__).parents[3] / "shared"))
DATA = ASSETS / "data/nli/snli_test.jsonl.gz"
OUT = Path(__file__).parent / "precision.json"
STEPS = {
    "float32": lambda model: model,
    "float16": lambda model: copy.deepcopy(model).half(),
    "bfloat16": lambda model: copy.deepcopy(model).bfloat16(),
    # Dynamic: a step for each output channel of a weight, one for all activations of a call.
    "int8": lambda model: quantize_dynamic(
        copy.deepcopy(model), {nn.Linear: per_channel_dynamic_qconfig}, dtype=torch.qint8
    ),
}


def main(checkpoints: dict[str, str]) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = []
    dense = None
    for name, path in checkpoints.items():
        spec = make_spec({"model": path, "budgets": ["1x-flops"], "run": {"offline": True}}, "study")
        model, tokenizer = load_checkpoint(path, dtype=torch.float32), load_tokenizer(path, spec)
        ensure_padding(model, tokenizer)
        task = task_for(spec, model, tokenizer, path)
        data = task.load(spec, str(DATA), None)
        batches = task.batches(data, 64, "cpu")
        own = ClassScorer.of(model, batches)
        dense = dense or own
        for step, change in STEPS.items():
            answers = own.answers(change(model), batches)
            scores, alone = ClassScorer(batches, dense.dense).compare(answers), own.compare(answers)
            row = {"model": name, "step": step, "n": len(data)}
            row |= {key: [score.value, score.stderr] for key, score in scores.items()}
            row["against its own float32"] = {key: alone[key].value for key in ("agreement", "divergence")}
            rows.append(row)
            print(
                f"{name:24} {step:9} accuracy {100 * scores['accuracy'].value:.2f} divergence from dense "
                f"{scores['divergence'].value:.4f} | from its own float32 {alone['divergence'].value:.5f}, "
                f"agreement {100 * alone['agreement'].value:.2f}",
                flush=True,
            )
    engine = torch.backends.quantized.engine
    OUT.write_text(json.dumps({"torch": torch.__version__, "int8 engine": engine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(dict(argument.split("=", 1) for argument in sys.argv[1:]))
