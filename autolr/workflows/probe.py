"""What a checkpoint knows of its language: probes at every layer, and minimal pairs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from autolr.data.minimal_pairs import MinimalPairs, load_minimal_pairs
from autolr.data.probing import ProbingTask, load_probing_tasks, notes_on
from autolr.model.inputs import check_tokens, count_cut, input_device, longest_input
from autolr.model.load import open_model
from autolr.probes.alone import check_pairs, check_sentences
from autolr.probes.classifiers import Probe, control_labels, labels_of, lengths, probe
from autolr.probes.features import Features, features, sentence_batches
from autolr.probes.minimal_pairs import check_askable, how_asked, preferred
from autolr.probes.scorer import best_layer, probe_sentences
from autolr.progress import Progress
from autolr.results.probing import LayerProbe, PairsResult, ProbedTask, Probing
from autolr.spec.study import StudySpec
from autolr.tasks import mean_score


def probe_checkpoint(
    spec: StudySpec, tasks: Path | None, pairs: Path | None, kind: Probe, most_pairs: int | None, progress: Progress
) -> Probing:
    """Return what probes and minimal pairs find in a checkpoint.

    Args:
        spec: names the checkpoint as its model, the device, dtype and batch size, pooling and numbers of sentences.
        tasks: file or folder of probing tasks.
        pairs: file or folder of minimal pairs.
        kind: of probe.
        most_pairs: of each paradigm; None: all.
        progress: told what is under way.

    Raises:
        UsageError: the checkpoint, the tasks or the pairs cannot be used.
        AutolrError: the model's output is not finite.
    """
    assert spec.model is not None
    if spec.run.threads:
        torch.set_num_threads(spec.run.threads)
    read = [] if tasks is None else load_probing_tasks(tasks)
    paradigms = [] if pairs is None else [one.take(most_pairs) for one in load_minimal_pairs(pairs)]
    progress.start(f"load {spec.model}")
    model, tokenizer = open_model(spec, spread=True)
    max_length, size = longest_input(model, tokenizer), spec.run.scoring_batch_size
    read = [task.take(spec.data.probe_train, spec.data.probe_test, spec.seed) for task in read]
    check_askable(model, tokenizer, paradigms, max_length)
    check_tokens(model, tokenizer, _named_batches(tokenizer, read, paradigms, max_length))
    texts = [text for task in read for text in (*task.train.texts, *task.test.texts)]
    if texts and (cut := count_cut(tokenizer, (texts,), max_length)):
        progress.note(f"{cut} of {len(texts)} sentences have more than {max_length} tokens and are cut")
    check_sentences(model, tokenizer, texts, size, max_length, spec.data.pooling)
    check_pairs(model, tokenizer, paradigms, size, max_length)
    for note in notes_on(read):
        progress.note(note)
    by_task = {}
    for number, task in enumerate(read):
        progress.start(f"probe {task.name}, {number + 1} of {len(read)}")
        sentences = probe_sentences(tokenizer, [task], size, max_length, input_device(model))
        by_layer = features(model, sentences, spec.data.pooling, None, _ticker(progress, len(sentences.batches)))
        by_task[task.name] = probed(task, by_layer, kind, spec.seed)
    answers: PairsResult | None = None
    if paradigms:
        progress.start(f"ask {sum(map(len, paradigms))} minimal pairs")
        tick = _ticker(progress, None)
        right = {}
        for number, one in enumerate(paradigms):
            right[one.paradigm, one.field] = preferred(model, tokenizer, one, size, max_length, tick)
            progress.update((number + 1) / len(paradigms))
        answers = _summary(how_asked(model), right)
    return Probing(spec.model, kind, spec.data.pooling, by_task, answers)


def probed(task: ProbingTask, by_layer: Features, kind: Probe, seed: int) -> ProbedTask:
    """Return what probes of one kind find at every layer of the representations of a task's sentences.

    Args:
        task: with its training and test sentences.
        by_layer: of the training, then the test sentences.
        kind: of probe.
        seed: of the control task.
    """
    n, train, test = len(task.train), labels_of(task.train), labels_of(task.test)
    control_train, control_test = control_labels(task, seed)
    layers = []
    for X in by_layer:
        right = probe(kind, X[:n], train, X[n:], test)
        control = probe(kind, X[:n], control_train, X[n:], control_test)
        accuracy, chance = mean_score(right.double()), mean_score(control.double())
        selectivity = mean_score(right.double() - control.double())
        layers.append(LayerProbe(accuracy, chance, selectivity))
    alone = probe("ridge", lengths(task.train), train, lengths(task.test), test)
    return ProbedTask(
        classes=len(task.classes),
        train=n,
        test=len(task.test),
        majority=task.majority,
        length=mean_score(alone.double()),
        layer=best_layer(task, by_layer),
        layers=tuple(layers),
    )


def _named_batches(
    tokenizer: Any, tasks: Sequence[ProbingTask], paradigms: Sequence[MinimalPairs], max_length: int
) -> Iterator[tuple[str, Mapping[str, torch.Tensor]]]:
    for task in tasks:
        yield from ((task.name, b) for b in probe_sentences(tokenizer, [task], 256, max_length, "cpu").batches)
    for one in paradigms:
        batches = sentence_batches(tokenizer, [*one.good, *one.bad], 256, max_length).batches
        yield from ((one.paradigm, b) for b in batches)


def _ticker(progress: Progress, batches: int | None) -> Callable[[], None]:
    done: Iterator[int] = iter(range(1, 2**31))

    def tick() -> None:
        progress.check()
        if batches is not None:
            progress.update(next(done) / batches)

    return tick


def _summary(how: str, right: Mapping[tuple[str, str], torch.Tensor]) -> PairsResult:
    """Return means over all pairs, of each field and of each paradigm."""
    fields: dict[str, list[torch.Tensor]] = {}
    paradigms: dict[str, list[torch.Tensor]] = {}
    for (paradigm, field), one in right.items():
        fields.setdefault(field, []).append(one)
        paradigms.setdefault(paradigm, []).append(one)
    return PairsResult(
        how,
        mean=mean_score(torch.cat(list(right.values()))),
        fields={name or "all": mean_score(torch.cat(parts)) for name, parts in fields.items()},
        paradigms={name: mean_score(torch.cat(parts)) for name, parts in paradigms.items()},
    )
