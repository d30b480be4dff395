"""Dropping the tokens that a task's data never use, before a search."""

import tempfile
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from autolr.api.session import Listener, check_options, task_name, working
from autolr.scores import NLI, TaskKind
from autolr.spec.measuring import TRIMMING
from autolr.spec.options import given_path
from autolr.workflows.placed import Data, Model, named, placed
from autolr.workflows.resolve import resolve
from autolr.workflows.trim import Trimmed, trim_model


def trim(
    model: Model,
    out: str | Path,
    *,
    train: Data,
    validation: Data,
    test: Data = None,
    task: str | TaskKind = NLI.name,
    tokenizer: PreTrainedTokenizerBase | None = None,
    keep: str | Path | None = None,
    force: bool = False,
    progress: Listener = False,
    **options: object,
) -> Trimmed:
    """Write a dense model without the tokens that its data never use, for plain transformers and for a search.

    Args:
        model: a loaded model with its ``tokenizer``, a directory or hub id.
        out: the directory to write.
        train: all of it is read, and so are the others; files, rows, or splits of ``dataset``.
        validation: of the same task.
        test: the same; None: there are none.
        task: the task.
        tokenizer: of a model that is an object.
        keep: a file whose lines use tokens that are to stay too.
        force: replace an older checkpoint.
        progress: True: printed to stderr; or a listener.
        options: of ``autolr trim --help``, such as ``label_column``, ``dataset``, ``trust_remote_code``.

    Raises:
        UsageError: something given cannot be used, or the tokenizer or the model cannot be cut exactly.
        AutolrError: the written model reads or answers a text otherwise than the dense one.
    """
    check_options(list(options), TRIMMING, "trim")
    given: dict[str, object] = {"model": model, "train": train, "validation": validation, "test": test}
    given |= {**options, "task": task_name(task), "budget": "1x-params"}
    with working(progress) as listener, tempfile.TemporaryDirectory(prefix="autolr-") as temporary:
        resolve(named(given))  # what can be refused is refused before anything is written
        spec = resolve(placed(given, tokenizer, Path(temporary)))
        kept = None if keep is None else given_path(keep, "keep")
        return trim_model(spec, given_path(out, "out"), kept, listener, force)
