"""The example that ships with autolr: a small trained NLI model and sentence pairs made by a grammar of its own."""

from functools import cache
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Literal

from autolr.data.example.grammar import pairs
from autolr.data.example.scenes import LABELS
from autolr.data.nli import NliData

Part = Literal["train", "validation", "test"]

SIZES: dict[Part, int] = {"validation": 2000, "test": 2000, "train": 20_000}
"""Pairs in each part, in the order in which the parts choose their premises."""

EXAMPLE_MODEL: Path = Path(str(files("autolr.data.example"))) / "model"
"""A directory that ``AutoModelForSequenceClassification.from_pretrained`` reads."""


@cache
def example_data(part: Part) -> NliData:
    """Return one part of the example; the labels are ids of ``EXAMPLE_MODEL``.

    The parts share no premise. The validation and test parts take a tenth of a second or two, the training part
    a second.

    Args:
        part: ``train`` (20,000 pairs), ``validation`` or ``test`` (2,000 each).

    Example:
        >>> data = example_data("validation")
        >>> len(data), set(data.labels)
        (2000, {0, 1, 2})
    """
    taken = held_out_premises(before=part)
    stream = (row for row in pairs(f"autolr example {part}") if row[0] not in taken)
    premises, hypotheses, labels = zip(*islice(stream, SIZES[part]), strict=True)
    return NliData(f"example [{part}]", premises, hypotheses, tuple(map(LABELS.index, labels)))


def held_out_premises(before: Part = "train") -> frozenset[str]:
    """Return the premises of the parts that choose before this one, which it must not use."""
    earlier = list(SIZES)[: list(SIZES).index(before)]
    return frozenset(premise for part in earlier for premise in example_data(part).premises)
