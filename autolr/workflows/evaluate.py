"""Measuring a checkpoint on data of its task, without a study."""

from typing import Any

import torch

from autolr.data.parts import check_source
from autolr.model.inputs import check_tokens, input_device, longest_input
from autolr.model.load import open_model
from autolr.model.memory import check_memory
from autolr.progress import Progress
from autolr.spec.study import StudySpec
from autolr.tasks import task_for
from autolr.tasks.alone import check_task

_LEFT_OUT = {"nli": "rows without a gold label left out", "lm": "tokens at the end, which fill no block, left out"}


def evaluate_checkpoint(spec: StudySpec, source: str, split: str | None, progress: Progress) -> dict[str, Any]:
    """Return a checkpoint's accuracy with standard error, number of examples and share of the commonest answer.

    For task lm its loss in nats per token and its perplexity too.

    Args:
        spec: names the checkpoint as its model, the task, and the device, dtype and batch size.
        source: the data.
        split: of a hub data set.
        progress: told what is under way.

    Raises:
        UsageError: the checkpoint or the data cannot be used.
    """
    assert spec.model is not None
    check_source(source)
    progress.start(f"load {spec.model}")
    model, tokenizer = open_model(spec, spread=True)
    task = task_for(spec, model, tokenizer, spec.model)
    data = task.load(spec, source, split)
    if skipped := getattr(data, "skipped", 0):
        progress.note(f"{data.name}: {skipped} {_LEFT_OUT[spec.task]}")
    batches = task.batches(data, spec.run.scoring_batch_size, input_device(model))
    check_tokens(model, tokenizer, ((data.name, batch) for batch in batches))
    if cut := task.cut(data):
        progress.note(f"{cut} of {len(data)} {task.noun} have more than {longest_input(model, tokenizer)} tokens: cut")
    check_memory(model, batches, False, spec.task == "lm")
    check_task(model, task, data, spec.run.scoring_batch_size, spec.model)
    progress.start(f"score {len(data)} {task.noun}")
    done = iter(range(1, len(batches) + 1))

    def tick() -> None:
        progress.check()
        progress.update(next(done) / len(batches))

    scorer = task.scorer(model, batches, tick)
    scores = scorer.compare(scorer.dense)
    score = scores["accuracy"]
    found = {
        "accuracy": score.value,
        "stderr": score.stderr,
        "n": score.n,
        "majority": scorer.majority(),
        "data": data.name,
        "checkpoint": spec.model,
        "noun": task.noun,
    }
    if "loss" in scores:
        loss = scores["loss"]
        perplexity = float(torch.tensor(loss.value).exp())
        found |= {"loss": loss.value, "loss_stderr": loss.stderr, "perplexity": perplexity}
    return found
