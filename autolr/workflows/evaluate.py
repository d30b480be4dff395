"""Measuring a checkpoint on data of its task, without a study."""

from collections.abc import Mapping
from math import exp
from typing import Any

from autolr.data.parts import check_source
from autolr.model.inputs import check_tokens, input_device, longest_input
from autolr.model.load import open_model
from autolr.model.memory import check_memory
from autolr.progress import Progress
from autolr.records import Score
from autolr.scores import SCORES, TASKS
from autolr.spec.study import StudySpec
from autolr.tasks import task_for
from autolr.tasks.alone import check_task


def evaluate_checkpoint(spec: StudySpec, source: str, split: str | None, progress: Progress) -> dict[str, Any]:
    """Return a checkpoint's headline score with standard error, number of examples and share of the commonest answer.

    ``headline`` is the name of that score, under which its value stands; ``scores`` has all that say something of one
    model alone. Of a language model there are the loss, nats per token, and its perplexity too.

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
    kind = TASKS.get(spec.task)
    progress.start(f"load {spec.model}")
    model, tokenizer = open_model(spec, spread=True)
    task = task_for(spec, model, tokenizer, spec.model)
    data = task.load(spec, source, split)
    if skipped := getattr(data, "skipped", 0):
        progress.note(f"{data.name}: {skipped} {kind.left_out}")
    batches = task.batches(data, spec.run.scoring_batch_size, input_device(model))
    check_tokens(model, tokenizer, ((data.name, batch) for batch in batches))
    if cut := task.cut(data):
        progress.note(f"{cut} of {len(data)} {task.noun} have more than {longest_input(model, tokenizer)} tokens: cut")
    check_memory(model, batches, False, kind.next_tokens)
    check_task(model, task, data, spec.run.scoring_batch_size, spec.model)
    progress.start(f"score {len(data)} {task.noun}")
    done = iter(range(1, len(batches) + 1))

    def tick() -> None:
        progress.check()
        progress.update(next(done) / len(batches))

    scorer = task.scorer(model, data, batches, tick)
    scores = scorer.compare(scorer.dense)
    headline = scores[kind.headline]
    return {
        kind.headline: headline.value,
        "stderr": headline.stderr,
        "n": headline.n,
        "majority": scorer.majority(),
        "data": data.name,
        "checkpoint": spec.model,
        "noun": task.noun,
        "task": kind.name,
        "headline": kind.headline,
        "scores": {name: scores[name].to_json() for name in scores if not SCORES.get(name).against_dense},
        **_exponentials(scores),
    }


def _exponentials(scores: Mapping[str, Score]) -> dict[str, float]:
    """Return what a loss is commonly stated as, its exponential, with the loss itself."""
    found: dict[str, float] = {}
    for kind in SCORES:
        if kind.exponential_of in scores:
            loss = scores[kind.measured]
            found |= {kind.measured: loss.value, f"{kind.measured}_stderr": loss.stderr, kind.name: exp(loss.value)}
    return found
