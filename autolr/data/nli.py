"""Pairs of sentences with a label: natural language inference data, in memory, with a hash of its content."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autolr.data.files import Table, check_whole, no_column, read_table
from autolr.data.hub import local_path, read_hub
from autolr.data.labels import LabelMap
from autolr.errors import UsageError


@dataclass(frozen=True)
class Columns:
    """Under which names a file keeps the three parts of a pair."""

    premise: str = "premise"
    hypothesis: str = "hypothesis"
    label: str = "label"


@dataclass(frozen=True)
class NliData:
    """Pairs of premise and hypothesis with the model's label ids.

    Attributes:
        name: where the data came from.
        premises: the first sentences.
        hypotheses: the second sentences, as many.
        labels: ids of the model, as many.
        skipped: rows of the source that have no gold label and were left out.

    Example:
        >>> data = NliData("hand", ("It rains.", "It rains."), ("It is dry.", "It is wet."), (2, 0))
        >>> len(data), data.select([1]).hypotheses, data.take(1, seed=0).name
        (2, ('It is wet.',), 'hand')
    """

    name: str
    premises: tuple[str, ...]
    hypotheses: tuple[str, ...]
    labels: tuple[int, ...]
    skipped: int = 0

    def __post_init__(self) -> None:
        if not len(self.premises) == len(self.hypotheses) == len(self.labels):
            raise ValueError(
                f"as many premises, hypotheses and labels are needed, got {len(self.premises)}, "
                f"{len(self.hypotheses)} and {len(self.labels)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of texts and labels in order, 64 hexadecimal digits; the name does not count."""
        content = hashlib.sha256()
        for row in zip(self.premises, self.hypotheses, self.labels, strict=True):
            content.update(json.dumps(row).encode())
        return content.hexdigest()

    @property
    def contents(self) -> tuple[tuple[str, str], ...]:
        """What each pair consists of, without its label."""
        return tuple(zip(self.premises, self.hypotheses, strict=True))

    def select(self, indices: Iterable[int]) -> "NliData":
        """Return the pairs at these positions, in this order."""
        chosen = list(indices)
        return NliData(
            self.name,
            tuple(self.premises[i] for i in chosen),
            tuple(self.hypotheses[i] for i in chosen),
            tuple(self.labels[i] for i in chosen),
        )

    def take(self, n: int, seed: int) -> "NliData":
        """Return ``n`` pairs drawn without replacement, in random order; everything, unchanged, when there are no more.

        For one seed the draws are nested: ``take(10, 0)`` starts with ``take(5, 0)``.

        Raises:
            ValueError: n is negative.
        """
        if n < 0:
            raise ValueError(f"cannot take {n} pairs")
        if n >= len(self):
            return self
        return self.select(np.random.default_rng(seed).permutation(len(self))[:n].tolist())


def load_nli(
    source: str,
    *,
    columns: Columns = Columns(),
    label2id: Mapping[str, int],
    split: str | None = None,
    label_names: Sequence[str] | None = None,
    offline: bool = False,
) -> NliData:
    """Read pairs from a local file or from a data set of the hub, with labels as the model's ids.

    Labels in words are matched to the model's names, whatever their case; ids (``1``, ``"1"``) in a file are the
    model's own. Integer labels of a hub data set that names its classes are matched by those names. Rows labelled
    ``-`` or ``-1`` (no gold label) are left out and counted.

    Args:
        source: a path (.jsonl, .json with one object per line, .csv, .tsv, each also .gz), or an id on the hub
            (``owner/name``, ``owner/name:configuration``).
        columns: where a row keeps its parts.
        label2id: the model's own, from its configuration.
        split: of a hub data set; must be None for a file.
        label_names: what the model's ids 0, 1, … mean, where its names (``LABEL_0``) do not say.
        offline: use only what is on this machine.

    Raises:
        UsageError: the source cannot be read, a row lacks a column or holds something other than text, a label is not
            one of the model's; the message names the line, what was seen and what to do.
    """
    labels = LabelMap.of(label2id, label_names)
    path = local_path(source)
    if path is None:
        return _collect(read_hub(source, split, offline=offline), columns, labels)
    if split is not None:
        raise UsageError(f"{source} is a file and has no splits; drop --split {split} or give another file")
    return _collect(read_table(path), columns, labels)


def _collect(table: Table, columns: Columns, labels: LabelMap) -> NliData:
    classes = table.classes.get(columns.label)
    premises: list[str] = []
    hypotheses: list[str] = []
    ids: list[int] = []
    n_rows = 0
    options = {
        columns.premise: "--premise-column",
        columns.hypothesis: "--hypothesis-column",
        columns.label: "--label-column",
    }
    for place, row in table.rows:
        n_rows += 1
        where = table.at(place)
        label = labels.convert(_cell(row, columns.label, options, where), classes, where)
        if label is None:
            continue
        premises.append(_text(row, columns.premise, options, where))
        hypotheses.append(_text(row, columns.hypothesis, options, where))
        ids.append(label)
    if not n_rows:
        raise UsageError(f"{table.name}: holds no rows; give labelled pairs, one in a row")
    if not ids:
        raise UsageError(
            f"{table.name}: none of its {n_rows} rows has a gold label (all are '-' or -1); use another split"
        )
    return NliData(table.name, tuple(premises), tuple(hypotheses), tuple(ids), n_rows - len(ids))


def _cell(row: Mapping[str, object], column: str, options: Mapping[str, str], where: str) -> object:
    if column not in row:
        raise no_column(row, options, where)
    check_whole(row[column], column, where)
    return row[column]


def _text(row: Mapping[str, object], column: str, options: Mapping[str, str], where: str) -> str:
    value = _cell(row, column, options, where)
    if not isinstance(value, str):
        raise UsageError(
            f"{where}: {column!r} must be text, saw {value!r:.200}; "
            f"remove the row, write an empty string, or name another column with {options[column]}"
        )
    return value
