"""What probes read from a dense encoder: every task, every layer, two probes, mean pooling; and what a score costs.

    python studies/probing-pitfalls/dense.py MODEL TASKS     # a checkpoint and a folder of tasks; writes dense.json

A task that dense.json has already is not run again: remove the file to begin anew. Each has up to 2,000 training and
1,000 test sentences, drawn with seed 0. CPU, float32, one thread. The cost is CPU time of the process, a forward pass
and a score in turn: of a scorer with the sentences that a search takes of a task, 200 and 150, of the first three
tasks.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import torch
from transformers import AutoTokenizer

from autolr.checkpoint.load import load_checkpoint
from autolr.data.probing import ProbingTask, load_probing_tasks
from autolr.model.inputs import longest_input
from autolr.model.padding import ensure_padding
from autolr.probes.features import features
from autolr.probes.scorer import ProbeScorer, probe_sentences
from autolr.workflows.probe import probed

KINDS = ("ridge", "logistic")
SEED = 0
ROUNDS = 5
TIMED = 3
OUT = Path(__file__).with_suffix(".json")


def cost(model: torch.nn.Module, tokenizer: object, tasks: list[ProbingTask], length: int) -> dict[str, object]:
    """Time scores against bare forward passes over the same batches, heads included."""
    small = [task.take(200, 150, SEED) for task in tasks[:TIMED]]
    sentences = probe_sentences(tokenizer, small, 64, length, "cpu")
    scorer = ProbeScorer.of(model, small, sentences, "mean")
    forwards, scores = [], []
    for _ in range(ROUNDS):
        start = time.process_time()
        with torch.inference_mode():
            for batch in sentences.batches:
                model(**batch)
        middle = time.process_time()
        scorer.score(model)
        forwards.append(middle - start)
        scores.append(time.process_time() - middle)
    ratios = [score / forward for score, forward in zip(scores, forwards, strict=True)]
    return {
        "tasks": [task.name for task in small],
        "sentences": len(sentences.order),
        "forward_cpu_seconds": statistics.median(forwards),
        "score_cpu_seconds": statistics.median(scores),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def main(checkpoint: str, folder: Path) -> None:
    torch.set_num_threads(1)
    model, tokenizer = (
        load_checkpoint(checkpoint, dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(checkpoint),
    )
    ensure_padding(model, tokenizer)
    length = longest_input(model, tokenizer)
    tasks = [task.take(2000, 1000, SEED) for task in load_probing_tasks(folder)]
    result = json.loads(OUT.read_text()) if OUT.is_file() else {"pooling": "mean", "seed": SEED}
    found = result.setdefault("probes", {kind: {} for kind in KINDS})
    for task in tasks:
        if all(task.name in found[kind] for kind in KINDS):
            continue
        by_layer = features(model, probe_sentences(tokenizer, [task], 64, length, "cpu"), "mean")
        for kind in KINDS:
            one = probed(task, by_layer, kind, SEED).to_json()
            found[kind][task.name] = one
            layer = one["layers"][one["layer"]]
            print(
                f"{task.name:24} {kind:9} layer {one['layer']}: {layer['accuracy']['value']:.3f} ± "
                f"{layer['accuracy']['stderr']:.3f}, selective {layer['selectivity']['value']:+.3f} ± "
                f"{layer['selectivity']['stderr']:.3f}, chance {one['majority']:.3f}, "
                f"length {one['length']['value']:.3f}, n {one['test']}",
                flush=True,
            )
        OUT.write_text(json.dumps(result, indent=1) + "\n")
    result["cost"] = cost(model, tokenizer, tasks, length)
    print(json.dumps(result["cost"]))
    OUT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
