"""Probing tasks: sentences with a linguistic label, in SentEval's format (split, label, sentence between tabs).

Source: Conneau et al. 2018, What you can cram into a single vector, arXiv 1805.01070.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from autolr.data.files import kind_of, read_text
from autolr.errors import UsageError

SPLITS = {"tr": "train", "va": "validation", "te": "test"}
SUFFIXES = (".tsv", ".txt")


def dealt(labels: Sequence[int], hands: int) -> list[list[int]]:
    """Return rows dealt into hands, each class as evenly as can be, whatever order the rows stand in.

    Args:
        labels: of the rows.
        hands: how many; each has its rows ascending, and the draw is always the same.

    Example:
        >>> labels = [0, 1, 0, 1, 0, 1, 0, 1]
        >>> [sorted(labels[row] for row in hand) for hand in dealt(labels, 2)]
        [[0, 0, 1, 1], [0, 0, 1, 1]]
    """
    draw = np.random.default_rng(0).permutation(len(labels))
    by_class = draw[np.argsort(np.array(labels)[draw], kind="stable")]
    return [sorted(by_class[hand::hands].tolist()) for hand in range(hands)]


@dataclass(frozen=True)
class Sentences:
    """Sentences of one split.

    Attributes:
        texts: the sentences, tokens between spaces.
        labels: as many, indices of the task's classes.
    """

    texts: tuple[str, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: Sequence[int]) -> "Sentences":
        """Return the sentences at these places, in this order."""
        return Sentences(tuple(self.texts[i] for i in rows), tuple(self.labels[i] for i in rows))

    def take(self, n: int, seed: int) -> "Sentences":
        """Return ``n`` sentences drawn without replacement, each class in proportion; all where there are no more.

        For one seed the draws are nested but for the rounding of the classes' shares.
        """
        if n >= len(self):
            return self
        draw = np.random.default_rng(seed).permutation(len(self))
        labels = np.array(self.labels)[draw]
        # The k-th of c sentences of a class stands at (k + 1/2) / c: so each beginning has the classes in proportion.
        place = np.empty(len(self))
        for label in set(self.labels):
            rows = np.flatnonzero(labels == label)
            place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
        return self.select(draw[np.argsort(place, kind="stable")[:n]].tolist())


@dataclass(frozen=True)
class ProbingTask:
    """A linguistic label to be read from a model's representation of a sentence.

    Attributes:
        name: of the file, without its ending.
        classes: the labels, sorted.
        train: sentences that probes are trained on.
        test: sentences that they are scored on.
    """

    name: str
    classes: tuple[str, ...]
    train: Sentences
    test: Sentences

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything but the name, 64 hexadecimal digits."""
        content = [self.classes, self.train.texts, self.train.labels, self.test.texts, self.test.labels]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def majority(self) -> float:
        """Share of the test sentences that have the commonest label of the training sentences."""
        commonest = Counter(self.train.labels).most_common(1)[0][0]
        return self.test.labels.count(commonest) / len(self.test)

    @property
    def shared(self) -> int:
        """Number of test sentences that are training sentences too."""
        known = set(self.train.texts)
        return sum(text in known for text in self.test.texts)

    def take(self, n_train: int | None, n_test: int | None, seed: int) -> "ProbingTask":
        """Return the task with fewer sentences; None: all."""
        train = self.train if n_train is None else self.train.take(n_train, seed)
        test = self.test if n_test is None else self.test.take(n_test, seed)
        return ProbingTask(self.name, self.classes, train, test)


def load_probing_tasks(path: Path) -> tuple[ProbingTask, ...]:
    """Read one task from a file, or all tasks from the files of a folder, sorted by name.

    Rows of the split ``va`` are left out: nothing here is chosen on them.

    Args:
        path: a .tsv or .txt file, each also with .gz, or a folder with some.

    Raises:
        UsageError: there is no such file, two have the same name, or one is not of SentEval's format; with the line and
            what was seen.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if kind_of(file) in SUFFIXES)
        if not files:
            raise UsageError(f"{path} holds no probing task; tasks are {' or '.join(SUFFIXES)} files, each also .gz")
        for one, other in pairwise(files):
            if _name(one) == _name(other):
                raise UsageError(f"{path}: {one.name} and {other.name} are both task {_name(one)}; rename one of them")
    elif path.is_file():
        files = [path]
    else:
        raise UsageError(f"{path}: no such file or folder of probing tasks")
    return tuple(_read(file) for file in files)


def _read(file: Path) -> ProbingTask:
    rows: dict[str, list[tuple[str, str]]] = {"train": [], "validation": [], "test": []}
    # Not splitlines: sentences of the web hold other separators of lines, such as U+2028.
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        cells = line.removesuffix("\r").split("\t")
        if len(cells) != 3 or cells[0] not in SPLITS or not cells[1].strip() or not cells[2].strip():
            raise UsageError(
                f"{file}, line {number}: must be a split ({', '.join(SPLITS)}), a label and a sentence, with tabs "
                f"between them; saw {line[:60]!r}"
            )
        rows[SPLITS[cells[0]]].append((cells[1].strip(), cells[2]))
    classes = tuple(sorted({label for label, _ in rows["train"]}))
    if len(classes) < 2:
        raise UsageError(f"{file}: its training sentences have {len(classes)} labels; a probe needs at least two")
    if not rows["test"]:
        raise UsageError(f"{file}: it has no test sentences (split te)")
    unseen = sorted({label for label, _ in rows["test"]} - set(classes))
    if unseen:
        raise UsageError(f"{file}: no training sentence has the label {unseen[0]!r} of its test sentences")
    task = ProbingTask(_name(file), classes, _sentences(rows["train"], classes), _sentences(rows["test"], classes))
    if 2 * task.shared > len(task.test):
        raise UsageError(f"{file}: {task.shared} of {len(task.test)} test sentences are training sentences too")
    return task


def notes_on(tasks: Sequence[ProbingTask]) -> list[str]:
    """Return what a user should know of tasks whose test sentences were seen in training."""
    return [
        f"probing task {task.name}: {task.shared} of {len(task.test)} test sentences are training sentences too"
        for task in tasks
        if task.shared
    ]


def _name(file: Path) -> str:
    """Return a file's name without its endings."""
    return Path(file.stem).stem if file.suffix.lower() == ".gz" else file.stem


def _sentences(rows: Sequence[tuple[str, str]], classes: Sequence[str]) -> Sentences:
    index = {label: i for i, label in enumerate(classes)}
    return Sentences(tuple(text for _, text in rows), tuple(index[label] for label, _ in rows))
