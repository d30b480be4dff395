"""Measuring a checkpoint on data of its task, without a study."""

from autolr.data.parts import check_source
from autolr.model.inputs import check_tokens, input_device, longest_input
from autolr.model.load import open_model
from autolr.model.memory import check_memory
from autolr.progress import Progress
from autolr.results.evaluation import Evaluation
from autolr.scores import SCORES, TASKS
from autolr.spec.study import StudySpec
from autolr.tasks import task_for
from autolr.tasks.alone import check_task


def evaluate_checkpoint(spec: StudySpec, source: str, split: str | None, progress: Progress) -> Evaluation:
    """Return what a checkpoint scores: all scores that say something of one model alone.

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
    return Evaluation(
        checkpoint=spec.model,
        data=data.name,
        task=kind.name,
        noun=task.noun,
        headline=kind.headline,
        scores={name: score for name, score in scores.items() if not SCORES.get(name).against_dense},
        majority=scorer.majority(),
    )
