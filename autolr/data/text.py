"""Running text for language models: documents tokenized, joined and cut into blocks of one length."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from autolr.data.files import FORMATS, TEXT, check_whole, kind_of, no_column, read_table, read_text
from autolr.data.hub import local_path, read_hub
from autolr.errors import UsageError

Block = tuple[int, ...]


@dataclass(frozen=True)
class TextData:
    """Blocks of token ids, all of one length.

    Attributes:
        name: where the text came from.
        blocks: the ids.
        skipped: tokens at the end that fill no block.

    Example:
        >>> data = TextData("hand", ((1, 2), (3, 4), (5, 6)))
        >>> len(data), data.select([2]).blocks, data.parts({"a": 2, "b": 1})["b"].blocks
        (3, ((5, 6),), ((5, 6),))
    """

    name: str
    blocks: tuple[Block, ...]
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.blocks)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the blocks in order, 64 hexadecimal digits; the name does not count."""
        return hashlib.sha256(np.array(self.blocks, dtype=np.int64).tobytes()).hexdigest()

    @property
    def contents(self) -> tuple[Block, ...]:
        """What each block consists of."""
        return self.blocks

    def select(self, indices: Iterable[int]) -> "TextData":
        """Return the blocks at these positions, in this order."""
        return TextData(self.name, tuple(self.blocks[i] for i in indices))

    def take(self, n: int, seed: int) -> "TextData":
        """Return ``n`` blocks drawn without replacement; everything, unchanged, when there are no more.

        For one seed the draws are nested: ``take(10, 0)`` starts with ``take(5, 0)``.
        """
        if n >= len(self):
            return self
        return self.select(np.random.default_rng(seed).permutation(len(self))[:n].tolist())

    def parts(self, weights: dict[str, int]) -> dict[str, "TextData"]:
        """Divide the text into stretches in proportion to weights, so that parts meet at one place only.

        Raises:
            UsageError: a part would be empty.
        """
        ends = np.round(np.cumsum([0, *weights.values()]) / sum(weights.values()) * len(self)).astype(int).tolist()
        found = {}
        for name, (start, end) in zip(weights, pairwise(ends), strict=True):
            if start == end:
                raise UsageError(
                    f"{self.name}: {len(self)} blocks of text cannot be divided into {', '.join(weights)}: part "
                    f"{name!r} would be empty; give more text or a shorter --seq-len"
                )
            found[name] = TextData(f"{self.name} [{name}]", self.blocks[start:end])
        return found


def load_text(
    source: str, tokenizer: Any, length: int, *, column: str = "text", split: str | None = None, offline: bool = False
) -> TextData:
    """Read text, tokenize it and cut it into blocks.

    A .txt file is one document; of other files and of data sets each row is one. A document begins with what the
    tokenizer itself puts before a text (Llama's ``<s>``); documents are joined, and the blocks are cut without regard
    to where one ends, as language models are trained and their perplexity is commonly stated.

    Args:
        source: a path (.txt, .jsonl, .csv, .tsv, each also .gz), or an id on the hub.
        tokenizer: a Hugging Face tokenizer.
        length: tokens of a block, ≥ 2.
        column: where a row keeps its text.
        split: of a hub data set.
        offline: use only what is on this machine.

    Raises:
        UsageError: the source cannot be read, or it has fewer tokens than one block.
    """
    ids: list[int] = []
    for document in _documents(source, column, split, offline):
        ids.extend(tokenizer(document, truncation=False, verbose=False)["input_ids"])
    n = len(ids) // length
    if not n:
        raise UsageError(f"{source} has {len(ids)} tokens, fewer than one block of {length}; give more, or --seq-len")
    name = f"{source} [{split}]" if split else source
    return TextData(name, tuple(tuple(ids[i * length : (i + 1) * length]) for i in range(n)), len(ids) - n * length)


def _documents(source: str, column: str, split: str | None, offline: bool) -> Sequence[str]:
    path = local_path(source)
    if path is not None and kind_of(path) == TEXT:
        return [read_text(path)]
    if path is not None and kind_of(path) == "":
        raise UsageError(f"{path}: do not know how to read it; it must be {TEXT} or {FORMATS}")
    table = read_hub(source, split, offline=offline) if path is None else read_table(path)
    documents = []
    for place, row in table.rows:
        if column not in row:
            raise no_column(row, {column: "--text-column"}, table.at(place))
        text = row[column]
        if not isinstance(text, str):
            raise UsageError(f"{table.at(place)}: {column!r} must be text, saw {text!r}")
        check_whole(text, column, table.at(place))
        documents.append(text)
    return documents
