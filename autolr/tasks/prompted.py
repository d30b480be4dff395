"""Natural language inference by a language model without a head: how likely it finds a label's word after a prompt.

Symbols:
    T: templates; K: labels. A pair fills each template; after it stands one of K words.
    ``score (T, K)``: the log-probability of the word's tokens after the prompt.
    ``prior (T, K)``: the same after a prompt without content ("N/A"), of the same model, dense or compressed.
    logits (K,): mean over the templates of ``score − prior``.

Without the prior a model's habit of saying "No" would be taken for its judgement.

Source: Zhao et al. 2021, Calibrate Before Use, arXiv 2102.09690 (contextual calibration).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, device, nn
from transformers import PreTrainedModel

from autolr.data.nli import NliData
from autolr.data.parts import Data, Parts, load_nli_parts, load_pairs
from autolr.errors import UsageError
from autolr.model.inputs import Batch, grouped, input_device, mean_length, rounded_length
from autolr.spec.study import StudySpec
from autolr.statistics.calibrate import class_cotangents
from autolr.tasks.class_scorer import ClassScorer

LABELS = ("entailment", "neutral", "contradiction")
_IDS = {name: index for index, name in enumerate(LABELS)}
TEMPLATES = (
    "{premise}\nQuestion: {hypothesis} Yes, maybe or no?\nAnswer:",
    "Premise: {premise}\nHypothesis: {hypothesis}\nDoes the hypothesis follow from the premise? Answer:",
)
WORDS = ("Yes", "Maybe", "No")
NOTHING = "N/A"
"""Premise and hypothesis without content."""

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class WordReadout:
    """Reads the labels' logits from the model's output at the end of each prompt.

    Attributes:
        words: for each template the K labels' tokens.
        nothing: the prompts without content, one pair's batch on the CPU.
        prior: (T, K), of the model that is read.
    """

    words: tuple[tuple[Tokens, ...], ...]
    nothing: Batch
    prior: Float[Tensor, "templates labels"]

    def of_model(self, model: nn.Module) -> "WordReadout":
        """Return the readout with the prior of this model."""
        inputs = {name: tensor.to(input_device(model)) for name, tensor in self.nothing.items()}
        with torch.inference_mode():
            [prior] = self._scores(model(**inputs).logits, inputs["attention_mask"].bool())
        return replace(self, prior=prior.cpu().clone())

    @property
    def single(self) -> bool:
        """Each word is one token: then a prompt is run once, not once for each word."""
        return all(len(word) == 1 for template in self.words for word in template)

    @property
    def together(self) -> int:
        """Rows of a batch that make one pair: its prompts, each with each word unless those are single tokens."""
        return len(self.words) * (1 if self.single else len(self.words[0]))

    def __call__(self, logits: Tensor, inputs: Mapping[str, Tensor]) -> Float[Tensor, "pairs labels"]:
        """Return the labels' logits, float32."""
        return self.read(logits, inputs["attention_mask"].bool())

    def read(
        self, logits: Float[Tensor, "rows positions vocabulary"], mask: Bool[Tensor, "rows positions"]
    ) -> Float[Tensor, "pairs labels"]:
        """Return the labels' logits from the output at every position and the mask of real tokens."""
        scores = self._scores(logits, mask)
        return (scores - self.prior.to(scores)).mean(1)

    def _scores(self, logits: Tensor, mask: Tensor) -> Float[Tensor, "pairs templates labels"]:
        last = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
        pairs = len(logits) // self.together
        return self._single(logits, last, pairs) if self.single else self._whole(logits, last, pairs)

    def _single(self, logits: Tensor, last: Tensor, pairs: int) -> Float[Tensor, "pairs templates labels"]:
        at_end = logits[torch.arange(len(logits), device=logits.device), last].float().log_softmax(-1)
        by_template = at_end.reshape(pairs, len(self.words), -1)
        chosen = torch.tensor([[word[0] for word in template] for template in self.words], device=logits.device)
        return by_template.gather(-1, chosen.expand(pairs, -1, -1))

    def _whole(self, logits: Tensor, last: Tensor, pairs: int) -> Float[Tensor, "pairs templates labels"]:
        labels = len(self.words[0])
        words = [word for template in self.words for word in template]
        sums = []
        for row in range(len(logits)):
            word = words[row % self.together]
            end = int(last[row])
            said = logits[row, end - len(word) : end].float().log_softmax(-1)
            sums.append(said[range(len(word)), list(word)].sum())
        return torch.stack(sums).reshape(pairs, len(self.words), labels)


@dataclass(frozen=True)
class Prompted:
    """Pairs of sentences for a causal language model.

    Attributes:
        tokenizer: the model's.
        max_length: tokens that a prompt may have.
        templates: with ``{premise}`` and ``{hypothesis}``.
        words: of entailment, neutral and contradiction.
        readout: of the labels' logits of the dense model.
    """

    tokenizer: Any
    max_length: int
    templates: tuple[str, ...]
    words: tuple[str, ...]
    readout: WordReadout
    noun: str = "pairs"
    batched: bool = True
    backward_passes: int = len(LABELS) - 1
    _known: dict[tuple[str, str], list[Tokens]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: Any, max_length: int, spec: StudySpec) -> "Prompted":
        """Return the task, with the prior of this dense model.

        Raises:
            UsageError: a template lacks a place for a sentence, there are not three words, or two begin alike so that
                one is the beginning of another.
        """
        templates, words = spec.data.templates or TEMPLATES, spec.data.words or WORDS
        for template in templates:
            if "{premise}" not in template or "{hypothesis}" not in template:
                raise UsageError(f"--template {template!r} must hold {{premise}} and {{hypothesis}}")
        if len(words) != len(LABELS) or len(set(words)) != len(LABELS):
            raise UsageError(f"--words {','.join(words)} must be three different words, for {', '.join(LABELS)}")
        tokens = tuple(_continuations(tokenizer, template, words, NOTHING, NOTHING)[1] for template in templates)
        readout = WordReadout(tokens, {}, torch.zeros(len(templates), len(words)))
        bare = cls(tokenizer, max_length, tuple(templates), tuple(words), readout)
        [nothing] = bare.batches(NliData("nothing", (NOTHING,), (NOTHING,), (0,)), 1, "cpu")
        del nothing["labels"]
        return replace(bare, readout=replace(readout, nothing=nothing).of_model(model))

    def cotangents(self, logits: Tensor, mask: Tensor, /) -> list[Tensor]:
        """Return vectors whose outer products sum to the Fisher information of the labels."""
        output = logits.detach().requires_grad_(True)
        with torch.enable_grad():
            labels = self.readout.read(output, mask)
            vectors = class_cotangents(labels.detach())
            return [torch.autograd.grad(labels, output, vector, retain_graph=True)[0] for vector in vectors]

    def fingerprint(self) -> Mapping[str, Any]:
        """Return templates and words."""
        return {"templates": list(self.templates), "words": list(self.words)}

    def load_parts(self, spec: StudySpec) -> Parts:
        """Read the pairs; see :meth:`Task.load_parts`."""
        return load_nli_parts(spec.data, _IDS, spec.model is None, spec.run.offline, spec.seed)

    def load(self, spec: StudySpec, source: str, split: str | None) -> NliData:
        """Read pairs from one source."""
        return load_pairs(spec.data, source, split, _IDS, spec.run.offline)

    def seq_len(self, parts: Parts) -> int:
        """Return the mean length of the search data's prompts in tokens, rounded up to a multiple of 8."""
        return rounded_length(mean_length(self.batches(parts.search, 256, "cpu")), self.max_length)

    def batches(self, data: Data, size: int, where: device | str) -> list[Batch]:
        """Return batches of prompts with ``labels``, sorted by length; ``size`` counts pairs."""
        assert isinstance(data, NliData)
        encoded = self._encoded(data)
        order = _by_length(encoded)
        found = []
        for group in grouped([self.readout.together * max(map(len, encoded[row])) for row in order], size):
            rows = order[group]
            ids = [list(one) for row in rows for one in encoded[row]]
            # On the right, whatever the tokenizer's own side: GPT-2 counts positions from the padding on.
            padded = dict(self.tokenizer.pad({"input_ids": ids}, padding_side="right", return_tensors="pt"))
            padded["labels"] = torch.tensor([data.labels[row] for row in rows])
            found.append({name: padded[name].to(where) for name in ("input_ids", "attention_mask", "labels")})
        return found

    def order(self, data: Data) -> list[int]:
        """Return the pairs in order of their first prompt's length."""
        assert isinstance(data, NliData)
        return _by_length(self._encoded(data))

    def cut(self, data: Data) -> int:
        """Return how many pairs have a prompt that is cut."""
        assert isinstance(data, NliData)
        return sum(any(len(row) > self.max_length for row in rows) for rows in self._whole(data))

    def scorer(
        self, model: nn.Module, data: Data, batches: Sequence[Batch], tick: Callable[[], None] = lambda: None
    ) -> ClassScorer:
        """Return a scorer whose reference is this dense model."""
        return ClassScorer.of(model, batches, tick, self.readout)

    def comparer(self, model: nn.Module, data: Data, batches: Sequence[Batch]) -> ClassScorer:
        """Return the task's scorer, which gives divergence and agreement."""
        return self.scorer(model, data, batches)

    def stored_scorer(self, data: Data, batches: Sequence[Batch], kept: Mapping[str, Tensor]) -> ClassScorer:
        """Return the scorer with the dense model's logits."""
        return ClassScorer(batches, kept["logits"], self.readout)

    def _encoded(self, data: NliData) -> list[list[Tokens]]:
        """Return each pair's rows, cut at their beginning to what the model takes."""
        return [[row[max(0, len(row) - self.max_length) :] for row in rows] for rows in self._whole(data)]

    def _whole(self, data: NliData) -> list[list[Tokens]]:
        """Return each pair's rows: its prompts, each with each word unless those are single tokens."""
        return [self._rows(*pair) for pair in zip(data.premises, data.hypotheses, strict=True)]

    def _rows(self, premise: str, hypothesis: str) -> list[Tokens]:
        """Return a pair's rows; each pair is tokenized once."""
        if (premise, hypothesis) not in self._known:
            rows: list[Tokens] = []
            for template, words in zip(self.templates, self.readout.words, strict=True):
                prompt, said = _continuations(self.tokenizer, template, self.words, premise, hypothesis)
                if said != words:
                    raise UsageError(
                        f"the tokenizer splits the words {', '.join(self.words)} differently after different prompts; "
                        f"end --template {template!r} so that they stand apart, for instance with a colon"
                    )
                rows += [prompt] if self.readout.single else [(*prompt, *word) for word in said]
            self._known[premise, hypothesis] = rows
        return self._known[premise, hypothesis]


def _continuations(
    tokenizer: Any, template: str, words: Sequence[str], premise: str, hypothesis: str
) -> tuple[Tokens, tuple[Tokens, ...]]:
    """Return what the prompts with the words have in common, and what follows there for each word."""
    filling = {"premise": premise, "hypothesis": hypothesis}
    prompt = re.sub(r"\{(premise|hypothesis)\}", lambda place: filling[place[1]], template)
    whole = [_without_end(tokenizer, tokenizer(f"{prompt} {word}")["input_ids"]) for word in words]
    length = next((i for i, ids in enumerate(zip_longest(*whole)) if len(set(ids)) > 1), None)
    if length is None:
        raise UsageError(
            f"the words {', '.join(words)} are the same tokens to this tokenizer; name others by --words, or choose "
            f"--task lm"
        )
    common, rest = whole[0][:length], tuple(tuple(one[length:]) for one in whole)
    if any(one is not other and other[: len(one)] == one for one in rest for other in rest):
        raise UsageError(f"of the words {', '.join(words)} one is the beginning of another for this tokenizer")
    return tuple(common), rest


def _without_end(tokenizer: Any, ids: list[int]) -> list[int]:
    """Drop the end-of-text token that some tokenizers put after a text."""
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def _by_length(encoded: Sequence[Sequence[Tokens]]) -> list[int]:
    return sorted(range(len(encoded)), key=lambda row: (len(encoded[row][0]), row))
