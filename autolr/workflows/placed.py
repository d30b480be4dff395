"""Models and data that are objects, put where a specification can name them: into the study's own folder.

So a study that was begun with objects is like any other: every process, every worker and the command line can go on
with it. Contents decide what is the same, as everywhere: files are named by their digests.
"""

from collections.abc import Mapping, Sized
from pathlib import Path
from typing import TypeGuard

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from autolr.data.objects import Rows, write_rows
from autolr.errors import UsageError
from autolr.model.objects import model_directory
from autolr.spec.options import options_of
from autolr.spec.study import StudySpec
from autolr.workflows.resolve import changed

INPUTS = "inputs"
"""The folder of a study that holds what was given as objects."""
DATA = ("train", "validation", "test")
"""Options that may be rows."""

Model = PreTrainedModel | str | Path | None
"""A loaded model, a directory or an id of the hub; None: the embedded example."""
Data = Rows | str | Path | None
"""Rows (a list of dicts, a ``datasets.Dataset``), a file, or a split of a data set."""


def placed(given: Mapping[str, object], tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> dict[str, object]:
    """Return options with the places of what was given as objects.

    Args:
        given: option -> value; ``model`` may be a model, and ``train``, ``validation`` and ``test`` rows.
        tokenizer: of a model that is an object.
        folder: of the study.

    Raises:
        UsageError: a model comes without its tokenizer or the other way round, or a row cannot be written.
    """
    model = given.get("model")
    if isinstance(model, PreTrainedModel) != (tokenizer is not None):
        raise UsageError(
            "a model that is an object needs its tokenizer too, as tokenizer=..."
            if tokenizer is None
            else "tokenizer=... belongs to a model that is an object; of a directory or id it is read from there"
        )
    told = dict(given)
    for name in DATA:
        rows = given.get(name)
        if is_rows(rows):
            if isinstance(rows, Sized) and len(rows) == 0:
                raise UsageError(f"{name} holds no rows; give examples, one mapping of columns to values each")
            told[name] = str(write_rows(rows, folder / INPUTS, name).resolve())
    if isinstance(model, PreTrainedModel):
        told["model"] = str(model_directory(model, tokenizer, folder / INPUTS).resolve())
    return told


def named(given: Mapping[str, object]) -> dict[str, object]:
    """Return options with names instead of objects, to check the others before anything is written."""
    told = {name: f"{name} rows" if name in DATA and is_rows(value) else value for name, value in given.items()}
    model = given.get("model")
    if isinstance(model, PreTrainedModel):
        told["model"] = Path(model.name_or_path or "").name or type(model).__name__
    return told


def is_rows(data: object) -> TypeGuard[Rows]:
    """Tell whether data are rows rather than the place of some."""
    return data is not None and not isinstance(data, str | Path)


def with_own_inputs(spec: StudySpec, folder: Path) -> StudySpec:
    """Return a study's specification with what its folder holds where the folder is now, if that was moved."""
    values = {}
    for option in options_of(StudySpec).values():
        holder = spec if len(option.path) == 1 else getattr(spec, option.path[0])
        place = getattr(holder, option.path[-1])
        if option.option.place and isinstance(place, str):
            own = folder / INPUTS / Path(place).name
            if Path(place).parent.name == INPUTS and not Path(place).exists() and own.exists():
                values[option.path] = str(own.resolve())
    return changed(spec, values)
