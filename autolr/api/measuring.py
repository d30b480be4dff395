"""Measuring checkpoints: loading them, scores, times, what they know of their language, ways to search compared."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from autolr.api.session import Listener, Texts, check_options, task_name, working
from autolr.data.objects import write_rows
from autolr.errors import UsageError
from autolr.model.load import open_model
from autolr.model.objects import model_directory
from autolr.results.bench import Bench
from autolr.results.comparison import ComparisonSummary
from autolr.results.evaluation import Evaluation
from autolr.results.probing import Probing
from autolr.scores import NLI, TaskKind
from autolr.spec.measuring import BENCH, EVALUATION, LOADING, PROBING
from autolr.spec.options import given_path, options_of
from autolr.spec.study import StudySpec
from autolr.workflows.bench import bench as time_checkpoints
from autolr.workflows.compare import compare as run_comparison
from autolr.workflows.compare import parse_comparison
from autolr.workflows.evaluate import evaluate_checkpoint
from autolr.workflows.placed import Data, Model, is_rows, named, placed
from autolr.workflows.probe import probe_checkpoint
from autolr.workflows.resolve import resolve

Checkpoint = PreTrainedModel | str | Path
"""A loaded model, a directory, or an id of the hub."""
COMPARED = (
    *("trials", "multiple"),
    *(option.name for option in options_of(StudySpec).values() if option.path[0] in ("data", "run")),
)
"""Options that the studies of a comparison have in common."""


def load(path: str | Path, **options: object) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a checkpoint, compressed or dense, and its tokenizer.

    Args:
        path: a directory or hub id.
        options: ``device`` ("cpu"; "auto" spreads over all there are), ``dtype`` ("float32"), ``offline``,
            ``trust_remote_code``.

    Returns:
        The model, in eval mode on its device, and the tokenizer, with a padding token.

    Raises:
        UsageError: there is no such checkpoint, or it is damaged; or an option is none of these.

    Example:
        >>> from autolr.data.example import EXAMPLE_MODEL
        >>> model, tokenizer = load(EXAMPLE_MODEL)
        >>> model.config.num_labels, model.training
        (3, False)
    """
    check_options(list(options), LOADING, "load")
    given_path(path, "path")
    with working(False):
        return open_model(_spec(path, options), spread=True)


def evaluate(
    model: Checkpoint,
    data: Data,
    *,
    task: str | TaskKind = NLI.name,
    split: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: Listener = False,
    **options: object,
) -> Evaluation:
    """Measure what a model scores on data of a task, with standard errors.

    Args:
        model: a loaded model with its ``tokenizer``, a directory or hub id, compressed or dense.
        data: a file, rows (a list of dicts, a ``datasets.Dataset``), or the id of a data set with ``split``.
        task: a name, or a task of one's own.
        split: of a hub data set.
        tokenizer: of a model that is an object.
        progress: True: printed to stderr; or a listener.
        options: of ``autolr eval --help``, such as ``label_column``, ``seq_len``, ``device``, ``scoring_batch_size``.

    Raises:
        UsageError: the model or the data cannot be used, or an option is none of these.
    """
    check_options(list(options), EVALUATION, "evaluate")
    name = task_name(task)
    if data is None:
        raise UsageError("data is not given; give a file, rows, or the id of a data set with its split")
    with working(progress) as listener, tempfile.TemporaryDirectory(prefix="autolr-") as temporary:
        source = str(write_rows(data, Path(temporary), "data")) if is_rows(data) else str(data)
        place = placed({"model": model}, tokenizer, Path(temporary))["model"]
        evaluation = evaluate_checkpoint(_spec(place, {**options, "task": name}), source, split, listener)
        shown = evaluation.data if not is_rows(data) else Path(source).stem  # objects have no place that stays
        return replace(evaluation, data=shown, checkpoint=_shown(model))


def bench(
    *models: Checkpoint,
    precision: float = 0.01,
    max_seconds: float = 60.0,
    engine: str = "torch",
    profile: str | Path | None = None,
    progress: Listener = False,
    **options: object,
) -> Bench:
    """Time models in turn against the first: medians, spread, and the ratio with its 95 % confidence interval.

    Args:
        models: loaded models, directories or hub ids, compressed or dense.
        precision: half-width of the ratio's interval to reach, as a share of the ratio, above 0.
        max_seconds: stop after so long all the same.
        engine: the software that runs them.
        profile: a YAML file with the conditions.
        progress: True: printed to stderr; or a listener.
        options: ``batch_size``, ``seq_len``, ``lengths``, ``device``, ``dtype``, ``threads``, as of ``autolr bench``.

    Raises:
        UsageError: there is no model, one does not load, or it does not take sequences of this length; or an option is
            none of these.
    """
    check_options(list(options), BENCH, "bench")
    if not models:
        raise UsageError("give at least one model to time; ratios refer to the first")
    with working(progress) as listener, tempfile.TemporaryDirectory(prefix="autolr-") as temporary:
        sources = [
            str(model_directory(model, None, Path(temporary)) if isinstance(model, PreTrainedModel) else model)
            for model in models
        ]
        run = resolve({**options, "budget": "1x-latency"}, profile).run
        timed = time_checkpoints(sources, run, precision, max_seconds, listener, engine)
        rows = zip(timed.models, models, strict=True)
        return replace(timed, models=tuple(replace(row, model=_shown(model)) for row, model in rows))


def probe(
    model: Checkpoint,
    tasks: str | Path | None = None,
    minimal_pairs: str | Path | None = None,
    *,
    kind: Literal["ridge", "logistic", "mlp"] = "ridge",
    pairs: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: Listener = False,
    **options: object,
) -> Probing:
    """Measure what a model knows of its language: probes at every layer, minimal pairs.

    Args:
        model: a loaded model with its ``tokenizer``, a directory or hub id.
        tasks: probing tasks, a file or folder (split, label, sentence between tabs).
        minimal_pairs: a file or folder (columns good and bad).
        kind: of probe.
        pairs: of each paradigm; None: all.
        tokenizer: of a model that is an object.
        progress: True: printed to stderr; or a listener.
        options: ``probe_train`` and ``probe_test`` (sentences of each task), ``pooling``, ``seed``, ``device``, …

    Raises:
        UsageError: the model, the tasks or the pairs cannot be used, or none are given; or an option is none of these.
    """
    check_options(list(options), (*PROBING, "probe_train", "probe_test"), "probe")
    if tasks is None and minimal_pairs is None:
        raise UsageError("give tasks, minimal_pairs or both")
    with working(progress) as listener, tempfile.TemporaryDirectory(prefix="autolr-") as temporary:
        spec = _spec(placed({"model": model}, tokenizer, Path(temporary))["model"], options)
        probing, minimal = (
            None if place is None else given_path(place, name)
            for name, place in {"tasks": tasks, "minimal_pairs": minimal_pairs}.items()
        )
        measured = probe_checkpoint(spec, probing, minimal, kind, pairs, listener)
        return replace(measured, checkpoint=_shown(model))


def compare(
    entries: Sequence[Mapping[str, object]],
    out: str | Path,
    *,
    budget: Texts,
    model: Model = None,
    task: str | TaskKind = NLI.name,
    train: Data = None,
    validation: Data = None,
    test: Data = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    seeds: Sequence[int] = (0,),
    progress: Listener = False,
    **options: object,
) -> ComparisonSummary:
    """Compare ways to search at equal budgets, evaluations and seeds: a study each, which are gone on with.

    Args:
        entries: each a ``name`` and what it does: ``space``, ``sampler``, ``methods``, ``objective``, ``refit``, …
        out: folder of the studies and of comparison.json.
        budget: relative to the dense model; several are of one quantity.
        model: as :func:`autolr.search`, and so are the data.
        task: the task.
        train: to calibrate on.
        validation: to search and select on.
        test: to report on.
        tokenizer: of a model that is an object.
        seeds: of each study.
        progress: True: printed to stderr; or a listener.
        options: ``trials``, ``multiple``, and those of the data and of where it runs.

    Returns:
        What comparison.json holds.

    Raises:
        UsageError: something given cannot be used.
    """
    check_options(list(options), COMPARED, "compare")
    given = {"model": model, "train": train, "validation": validation, "test": test, "budget": budget, **options}
    given["task"] = task_name(task)
    folder = given_path(out, "out")
    with working(progress) as listener:
        spec = resolve(placed(given, tokenizer, folder))
        plain = spec.model_dump(mode="json", include={"model", "task", "data", "run", "budgets", "trials"})
        plain |= {"entries": _listed(entries), "seeds": _listed(seeds)}
        comparison = parse_comparison({**plain, "multiple": spec.search.multiple}, "comparison", Path())
        return run_comparison(comparison, folder, listener)


def _listed(several: object) -> Any:
    """Return several things as a list, and mappings as dicts; what cannot be so as it is, to be refused by its name."""
    if not isinstance(several, Iterable) or isinstance(several, str):
        return several
    return [dict(one) if isinstance(one, Mapping) else one for one in several]


def _shown(model: Checkpoint) -> str:
    """Return how a model is called: by its place, or what it is where it is an object."""
    return str(named({"model": model})["model"])


def _spec(model: object, options: Mapping[str, object]) -> StudySpec:
    """Return the specification of a model that is measured as it is."""
    spec = resolve({**options, "budget": "1x-flops"})
    return spec.model_copy(update={"model": str(model)})
