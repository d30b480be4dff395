"""Examples of any kind for a task of one's own: rows with named values, in memory, with a hash of their content."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autolr.data.files import read_table
from autolr.data.hub import local_path, read_hub
from autolr.data.parts import Parts, draw_parts, few_notes, part_sources
from autolr.errors import UsageError
from autolr.spec.study import DataSpec

Example = Mapping[str, object]


@dataclass(frozen=True)
class ExampleData:
    """Rows of a table.

    Attributes:
        name: where they came from.
        rows: by column; values that JSON knows.
        skipped: rows of the source that were left out.

    Example:
        >>> data = ExampleData("hand", ({"text": "a"}, {"text": "b"}))
        >>> len(data), data.select([1]).rows, data.take(1, seed=0).name
        (2, ({'text': 'b'},), 'hand')
    """

    name: str
    rows: tuple[Example, ...]
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the rows in order, 64 hexadecimal digits; the name does not count."""
        return hashlib.sha256("\n".join(map(_text, self.rows)).encode()).hexdigest()

    @property
    def contents(self) -> tuple[str, ...]:
        """What each row consists of."""
        return tuple(map(_text, self.rows))

    def select(self, indices: Iterable[int]) -> "ExampleData":
        """Return the rows at these positions, in this order."""
        return ExampleData(self.name, tuple(self.rows[i] for i in indices))

    def take(self, n: int, seed: int) -> "ExampleData":
        """Return ``n`` rows drawn without replacement; everything, unchanged, when there are no more.

        For one seed the draws are nested: ``take(10, 0)`` starts with ``take(5, 0)``.
        """
        if n >= len(self):
            return self
        return self.select(np.random.default_rng(seed).permutation(len(self))[:n].tolist())

    def divided(self, weights: Mapping[str, int], seed: int) -> dict[str, "ExampleData"]:
        """Divide the rows at random into named parts in proportion to weights; equal rows go to the same part.

        Rows are visited in the order of a hash of seed and content, so the parts do not depend on the rows' order.

        Raises:
            UsageError: a part would be empty.

        Example:
            >>> data = ExampleData("hand", tuple({"n": n // 2} for n in range(8)))
            >>> parts = data.divided({"search": 1, "selection": 1}, seed=0)
            >>> [sorted(row["n"] for row in part.rows) for part in parts.values()]
            [[0, 0, 3, 3], [1, 1, 2, 2]]
        """
        equal: dict[str, list[int]] = {}
        for index, row in enumerate(self.rows):
            equal.setdefault(_text(row), []).append(index)
        missing = {name: weight / sum(weights.values()) * len(self) for name, weight in weights.items()}
        chosen: dict[str, list[int]] = {name: [] for name in weights}
        for text in sorted(equal, key=lambda text: hashlib.sha256(f"{seed} {text}".encode()).digest()):
            neediest = max(missing, key=missing.__getitem__)
            chosen[neediest] += equal[text]
            missing[neediest] -= len(equal[text])
        for name, indices in chosen.items():
            if not indices:
                raise UsageError(
                    f"{self.name}: {len(self)} examples cannot be divided into {', '.join(weights)}: part {name!r} "
                    f"would be empty; give more data"
                )
        return {
            name: ExampleData(f"{self.name} [{name}]", self.select(sorted(indices)).rows)
            for name, indices in chosen.items()
        }


def _text(row: Example) -> str:
    return json.dumps(row, sort_keys=True, default=repr)


def load_examples(source: str, split: str | None = None, offline: bool = False) -> ExampleData:
    """Read the rows of a file (.jsonl, .csv, .tsv) or of a split of a data set of the hub.

    Raises:
        UsageError: it cannot be read, or is empty.
    """
    path = local_path(source)
    table = read_hub(source, split, offline=offline) if path is None else read_table(path)
    rows = tuple(dict(row) for _, row in table.rows)
    if not rows:
        raise UsageError(f"{table.name} has no rows")
    return ExampleData(table.name, rows)


Load = Callable[[str, str | None], ExampleData]
"""(source, split) -> its examples."""


def load_example_parts(spec: DataSpec, load: Load, noun: str, seed: int) -> Parts:
    """Load a study's examples and divide them, as :func:`autolr.data.parts.load_nli_parts` does with pairs.

    Args:
        spec: where the data are and how many of them are used.
        load: reads a source.
        noun: what an example is called, in the plural.
        seed: of the division and of the samples.

    Raises:
        UsageError: data are missing, unreadable or too few, or one part is another.
    """
    sources = part_sources(spec)
    data = {part: load(*source) for part, source in sources.items()}
    notes = _shared(data, noun)
    weights = {"search": spec.search_examples, "selection": spec.selection_examples}
    if "test" not in data:
        notes.append("no test data given: a part of the validation data, used for nothing else, is reported on")
        weights["report"] = max(weights.values())
    parts = data["validation"].divided(weights, seed)
    notes += [f"{one.name}: {one.skipped} {noun} left out" for one in data.values() if one.skipped]
    notes += few_notes(parts, noun)
    return draw_parts(spec, data["train"], parts, data.get("test"), notes, seed)


def _shared(data: Mapping[str, ExampleData], noun: str) -> list[str]:
    """Refuse a part that is mostly another; say how many rows two parts share."""
    notes: list[str] = []
    seen: Sequence[tuple[str, set[str]]] = [(part, set(data[part].contents)) for part in data]
    for index, (part, rows) in enumerate(seen):
        for other, others in seen[:index]:
            shared = len(rows & others)
            if 2 * shared > len(rows):
                raise UsageError(
                    f"{part} data {data[part].name} are the {other} data: {shared} of {len(rows)} {noun} are in both; "
                    f"give data that nothing was calibrated or chosen on"
                )
            if shared:
                notes.append(f"{shared} of {len(rows)} distinct {part} {noun} are also {other} {noun}")
    return notes
