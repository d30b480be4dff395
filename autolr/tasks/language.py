"""Language modelling by a decoder: next tokens of blocks of text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, device, nn

from autolr.data.parts import Data, Parts, load_text_parts
from autolr.data.text import TextData, load_text
from autolr.model.inputs import Batch, grouped
from autolr.spec.study import StudySpec
from autolr.statistics.calibrate import SampledCotangents
from autolr.tasks.language_scorer import LanguageScorer

BLOCK = 128
"""Tokens of a block where nothing else is asked for."""


@dataclass(frozen=True)
class LanguageModelling:
    """Blocks of text for a causal language model.

    Attributes:
        tokenizer: the model's.
        length: tokens of a block.
        seed: of the next tokens that the model draws for its gradients.
    """

    tokenizer: Any
    length: int
    seed: int
    noun: str = "blocks"
    batched: bool = True
    backward_passes: int = 1

    @classmethod
    def of(cls, tokenizer: Any, max_length: int, spec: StudySpec) -> "LanguageModelling":
        """Return the task at a study's length of sequence."""
        return cls(tokenizer, spec.run.seq_len or min(BLOCK, max_length), spec.seed)

    def cotangents(self, logits: Tensor, mask: Tensor, /) -> list[Tensor]:
        """Return one vector for each block: of next tokens that the model draws itself."""
        return SampledCotangents(self.seed)(logits, mask)

    def fingerprint(self) -> Mapping[str, Any]:
        """Return the seed of the drawn next tokens: the blocks are the data."""
        return {"draws": self.seed}

    def load_parts(self, spec: StudySpec) -> Parts:
        """Read the text; see :meth:`Task.load_parts`."""
        return load_text_parts(spec.data, self.tokenizer, self.length, spec.run.offline, spec.seed)

    def load(self, spec: StudySpec, source: str, split: str | None) -> TextData:
        """Read text from one source."""
        column, offline = spec.data.text_column, spec.run.offline
        return load_text(source, self.tokenizer, self.length, column=column, split=split, offline=offline)

    def seq_len(self, parts: Parts) -> int:
        """Return the length of the blocks."""
        del parts
        return self.length

    def batches(self, data: Data, size: int, where: device | str) -> list[Batch]:
        """Return batches of blocks in their own order."""
        assert isinstance(data, TextData)
        return text_batches(data, size, where)

    def order(self, data: Data) -> list[int]:
        """Return the blocks' own order."""
        return list(range(len(data)))

    def cut(self, data: Data) -> int:
        """Return 0: text is cut into blocks, nothing of which is left out."""
        del data
        return 0

    def scorer(
        self, model: nn.Module, data: Data, batches: Sequence[Batch], tick: Callable[[], None] = lambda: None
    ) -> LanguageScorer:
        """Return a scorer whose reference is this dense model."""
        return LanguageScorer.of(model, batches, tick)

    def comparer(self, model: nn.Module, data: Data, batches: Sequence[Batch]) -> LanguageScorer:
        """Return the task's scorer, which gives divergence and agreement."""
        return self.scorer(model, data, batches)

    def stored_scorer(self, data: Data, batches: Sequence[Batch], kept: Mapping[str, Tensor]) -> LanguageScorer:
        """Return the scorer with the dense model's next tokens."""
        return LanguageScorer(batches, kept["values"], kept["first"], kept["tokens"], kept["log_probabilities"])


def text_batches(data: TextData, size: int, where: device | str = "cpu") -> list[Batch]:
    """Return blocks of text in batches, in their own order.

    Example:
        >>> [batch["input_ids"].tolist() for batch in text_batches(TextData("hand", ((1, 2), (3, 4), (5, 6))), 2)]
        [[[1, 2], [3, 4]], [[5, 6]]]
    """
    found = []
    for group in grouped([len(block) for block in data.blocks], size):
        ids = torch.tensor(data.blocks[group], device=where)
        found.append({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    return found
