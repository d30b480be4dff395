"""The four disjoint parts of a study's data: calibration, search, selection, report."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

from autolr.data.example import example_data
from autolr.data.files import check_exists
from autolr.data.hub import local_path
from autolr.data.nli import Columns, NliData, load_nli
from autolr.data.splits import split_by_premise
from autolr.data.text import TextData, load_text
from autolr.errors import UsageError
from autolr.spec.study import DataSpec


@runtime_checkable
class Data(Protocol):
    """Examples in memory, with a hash of their content."""

    @property
    def name(self) -> str:
        """Where they came from."""

    @property
    def digest(self) -> str:
        """Identifies their content."""

    def __len__(self) -> int: ...

    def select(self, indices: Iterable[int]) -> "Data":
        """Return the examples at these positions, in this order."""

    def take(self, n: int, seed: int) -> "Data":
        """Return ``n`` examples drawn without replacement."""


class Recognizable(Data, Protocol):
    """Data of which an example can be recognised in another part."""

    @property
    def contents(self) -> Sequence[Hashable]:
        """What each example consists of, without its label."""


PARTS = ("calibration", "search", "selection", "report")
FEW = 30
"""Examples with which two models can hardly be told apart."""


@dataclass(frozen=True)
class Parts:
    """What each part is for.

    Attributes:
        calibration: statistics are measured on it.
        search: candidates are compared on it during the search.
        selection: the members of the front are compared on it, and the winner chosen.
        report: nothing is chosen on it; the printed figures come from it.
        notes: what a reader should know about how the parts were made.
        overlap: how many examples of the report part are also in one of the other parts.
        train: how many examples there are to calibrate on; None where that was not counted.
    """

    calibration: Data
    search: Data
    selection: Data
    report: Data
    notes: tuple[str, ...] = ()
    overlap: int = 0
    train: int | None = None

    def digests(self) -> dict[str, str]:
        """Return part name -> hash of its content."""
        return {name: getattr(self, name).digest for name in PARTS}


def draw_parts(
    spec: DataSpec,
    train: Recognizable,
    divided: Mapping[str, Recognizable],
    test: Recognizable | None,
    notes: Sequence[str],
    seed: int,
) -> Parts:
    """Draw what each part uses, and count the examples that are reported on and were used before.

    Args:
        spec: how much of the data is used.
        train: the train data.
        divided: the validation data as search, selection and, without test data, report part.
        test: the test data, or None.
        notes: on how the parts were made.
        seed: of the samples.
    """

    def drawn(data: Recognizable, examples: int) -> Recognizable:
        return cast(Recognizable, data.take(examples, seed))

    used = {
        "calibration": drawn(train, spec.calibration_examples),
        "search": drawn(divided["search"], spec.search_examples),
        "selection": drawn(divided["selection"], spec.selection_examples),
    }
    report = test if test is not None else divided["report"]
    before = {content for data in used.values() for content in data.contents}
    overlap = sum(content in before for content in report.contents)
    return Parts(**used, report=report, notes=tuple(notes), overlap=overlap, train=len(train))


def check_sources(spec: DataSpec) -> None:
    """Refuse files that are not there, before a model is loaded.

    Raises:
        UsageError: with the nearest file.
    """
    if spec.dataset is None:
        for source in (spec.train, spec.validation, spec.test):
            check_source(source)


def check_source(source: str | None) -> None:
    """Refuse a file that is not there; an id of the hub may be anything but empty."""
    if source is not None and not source.strip():
        raise UsageError("the data's place is empty; name a file, or a data set of the hub")
    path = None if source is None else local_path(source)
    if path is not None:
        check_exists(path)


def load_nli_parts(spec: DataSpec, label2id: Mapping[str, int], embedded: bool, offline: bool, seed: int) -> Parts:
    """Load a study's pairs and divide them.

    Train data calibrates. Validation data is divided by premise into a search and a selection part and, where there is
    no test data, a report part. Test data only reports.

    Args:
        spec: where the data are and how much of them is used.
        label2id: the model's label names.
        embedded: use the embedded example when the specification names no data.
        offline: no access to the hub.
        seed: of the division and of the samples.

    Raises:
        UsageError: data are missing, unreadable or too few, or the test data are the validation data.
    """
    notes: list[str] = []
    if embedded and spec.dataset is None and spec.train is None:
        train, validation = example_data("train"), example_data("validation")
        test: NliData | None = example_data("test")
    else:
        _check_complete(spec)
        train = _load(spec, "train", label2id, offline)
        validation = _load(spec, "validation", label2id, offline)
        test = _load(spec, "test", label2id, offline) if spec.test else None
    _check_disjoint(train, validation, test, notes)
    weights = {"search": spec.search_examples, "selection": spec.selection_examples}
    if test is None:
        notes.append("no test data given: a part of the validation data, used for nothing else, is reported on")
        weights["report"] = max(weights.values())
    total = sum(weights.values())
    parts = split_by_premise(validation, {name: weight / total for name, weight in weights.items()}, seed)
    for data in (train, validation, test):
        if data is not None and data.skipped:
            notes.append(f"{data.name}: {data.skipped} rows without a gold label left out")
    notes += few_notes(parts, "pairs")
    return draw_parts(spec, train, parts, test, notes, seed)


def _check_disjoint(train: NliData, validation: NliData, test: NliData | None, notes: list[str]) -> None:
    """Refuse test or validation data that are mostly data of another part; say how many pairs two parts share."""
    named = [("train", train), ("validation", validation)] + ([("test", test)] if test is not None else [])
    for index, (name, data) in enumerate(named):
        pairs = set(data.contents)
        for other_name, other in named[:index]:
            shared = len(pairs.intersection(other.contents))
            if 2 * shared > len(pairs):
                raise UsageError(
                    f"{name} data {data.name} are the {other_name} data: {shared} of {len(pairs)} pairs are in both; "
                    f"give data that nothing was calibrated or chosen on"
                )
            if shared:
                notes.append(f"{shared} of {len(pairs)} distinct {name} pairs are also {other_name} pairs")


def few_notes(parts: Mapping[str, Data], noun: str) -> list[str]:
    """Return what is to be said of parts in which models can hardly be told apart."""
    return [
        f"the {name} part of the validation data has {len(parts[name])} {noun}, too few to tell models apart"
        for name in ("search", "selection")
        if len(parts[name]) < FEW
    ]


def _check_complete(spec: DataSpec) -> None:
    for name, use in (("train", "calibrates"), ("validation", "scores candidates")):
        if getattr(spec, name) is None and spec.dataset is None:
            raise UsageError(f"--{name} is missing: it {use}; give a file, or a --dataset")


def _load(spec: DataSpec, part: str, label2id: Mapping[str, int], offline: bool) -> NliData:
    return load_pairs(spec, *_source(spec, part), label2id, offline)


def load_pairs(spec: DataSpec, source: str, split: str | None, label2id: Mapping[str, int], offline: bool) -> NliData:
    """Read pairs from one source with the specification's columns and names of labels; see :func:`load_nli`."""
    columns = Columns(spec.premise_column, spec.hypothesis_column, spec.label_column)
    return load_nli(
        source, columns=columns, label2id=label2id, split=split, label_names=spec.label_names, offline=offline
    )


def part_sources(spec: DataSpec) -> dict[str, tuple[str, str | None]]:
    """Return the source and split of train, validation and, where there are some, test data.

    Raises:
        UsageError: there are no train or no validation data.
    """
    _check_complete(spec)
    return {part: _source(spec, part) for part in ("train", "validation", *["test"] * bool(spec.test))}


def _source(spec: DataSpec, part: str) -> tuple[str, str | None]:
    """Return where a part comes from, and its split where that is a data set of the hub."""
    named: str | None = getattr(spec, part)
    source, split = (spec.dataset, named or part) if spec.dataset else (named, None)
    assert source is not None
    return source, split


def load_text_parts(spec: DataSpec, tokenizer: Any, length: int, offline: bool, seed: int) -> Parts:
    """Load a study's text and divide it into stretches, as :func:`load_nli_parts` does with pairs.

    Args:
        spec: where the text is and how many blocks of it are used.
        tokenizer: the model's.
        length: tokens of a block.
        offline: no access to the hub.
        seed: of the samples.

    Raises:
        UsageError: text is missing, unreadable or too short, or one part is another.
    """
    _check_complete(spec)

    def load(part: str) -> TextData:
        source, split = _source(spec, part)
        return load_text(source, tokenizer, length, column=spec.text_column, split=split, offline=offline)

    train, validation, test = load("train"), load("validation"), load("test") if spec.test else None
    notes = []
    weights = {"search": spec.search_examples, "selection": spec.selection_examples}
    if test is None:
        notes.append("no test text given: a stretch of the validation text, used for nothing else, is reported on")
        weights["report"] = max(weights.values())
    named = {"train": train, "validation": validation} | ({} if test is None else {"test": test})
    for one, other in (("validation", "train"), ("test", "train"), ("test", "validation")):
        if one in named and other in named:
            shared = len(set(named[one].blocks) & set(named[other].blocks))
            if 2 * shared > len(named[one]):
                raise UsageError(
                    f"{one} text {named[one].name} is the {other} text: {shared} of {len(named[one])} blocks are in "
                    f"both; give text that nothing was calibrated or chosen on"
                )
    parts = validation.parts(weights)
    notes += few_notes(parts, "blocks")
    return draw_parts(spec, train, parts, test, notes, seed)
