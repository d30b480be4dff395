"""Scores of a classifier on natural language inference pairs.

accuracy    share of pairs whose most probable class is the gold label
agreement   share of pairs on which the compressed model and the dense one predict the same class
divergence  E[KL(p_dense ‖ p_compressed)], nats per pair, ≥ 0
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from autolr.errors import AutolrError
from autolr.types import Score

Batch = Mapping[str, Tensor]
Logits = Float[Tensor, "examples classes"]


def predict(
    model: nn.Module, batches: Sequence[Batch], tick: Callable[[], None] = lambda: None, halved: bool = False
) -> Logits:
    """Return the model's logits of every example, in the batches' order, float32 on the CPU.

    A batch that does not fit into the device's memory is run again in two halves, once.

    Args:
        model: a sequence classifier.
        batches: tokenized pairs.
        tick: called after each batch; may raise to stop.
        halved: run each batch in two halves from the first.

    Raises:
        torch.OutOfMemoryError: half a batch does not fit either.
    """
    model.eval()
    parts: list[Logits] = []
    with torch.inference_mode():
        for batch in batches:
            inputs = {k: v for k, v in batch.items() if k != "labels"}
            try:
                parts.extend(_logits(model, one) for one in (_halves(inputs) if halved else [inputs]))
            except torch.OutOfMemoryError:
                if halved:
                    raise
                parts.extend(_logits(model, half) for half in _halves(inputs))
            tick()
    return torch.cat(parts)


def _logits(model: nn.Module, inputs: Batch) -> Logits:
    logits: Logits = model(**inputs).logits.float().cpu()
    return logits


def _halves(inputs: Batch) -> list[Batch]:
    """Return a batch in two parts, one where it has a single example; the device's cached memory is given back."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    n = len(next(iter(inputs.values())))
    cuts = [slice(0, (n + 1) // 2), slice((n + 1) // 2, n)] if n > 1 else [slice(0, n)]
    return [{name: tensor[cut] for name, tensor in inputs.items()} for cut in cuts]


@dataclass(frozen=True)
class NliScorer:
    """Scores a model on fixed batches against the gold labels and the dense model's logits.

    Attributes:
        batches: tokenized pairs with labels.
        dense: the dense model's logits on them, (examples, classes).
    """

    batches: Sequence[Batch]
    dense: Logits

    @classmethod
    def of(cls, model: nn.Module, batches: Sequence[Batch], tick: Callable[[], None] = lambda: None) -> "NliScorer":
        """Build a scorer whose reference is this dense model.

        Raises:
            AutolrError: the model's outputs are not finite.
        """
        return cls(batches, _finite(predict(model, batches, tick)))

    @property
    def labels(self) -> Int[Tensor, " examples"]:
        """The gold labels."""
        return torch.cat([batch["labels"].cpu() for batch in self.batches])

    def score(self, model: nn.Module, tick: Callable[[], None] = lambda: None) -> dict[str, Score]:
        """Run the model and return its scores.

        Raises:
            AutolrError: the model's outputs are not finite.
        """
        return self.compare(predict(model, self.batches, tick))

    def compare(self, logits: Logits) -> dict[str, Score]:
        """Return the scores of given logits.

        Raises:
            AutolrError: the logits are not finite.
        """
        return {name: mean_score(values) for name, values in self.values(logits).items()}

    def values(self, logits: Logits, rows: Int[Tensor, " examples"] | None = None) -> dict[str, Float[Tensor, " n"]]:
        """Return what each score is the mean of, one value for each example, float64.

        Args:
            logits: of some examples.
            rows: which, in the batches' order; None: all.

        Raises:
            AutolrError: the logits are not finite.
        """
        predicted = _finite(logits).argmax(-1)
        labels, dense = (self.labels, self.dense) if rows is None else (self.labels[rows], self.dense[rows])
        return {
            "accuracy": (predicted == labels).double(),
            "agreement": (predicted == dense.argmax(-1)).double(),
            "divergence": divergence(dense, logits),
        }


def _finite(logits: Logits) -> Logits:
    bad = int((~torch.isfinite(logits)).any(-1).sum())
    if bad:
        raise AutolrError(f"the model's output is NaN or infinite on {bad} of {len(logits)} examples")
    return logits


def divergence(dense: Logits, compressed: Logits) -> Float[Tensor, " examples"]:
    """Return ``KL(softmax(dense) ‖ softmax(compressed))`` of each example, nats, float64.

    Example:
        >>> divergence(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]])).round(decimals=4).tolist()
        [0.1201]
    """
    p, q = dense.double().log_softmax(-1), compressed.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).clamp(min=0.0)


def mean_score(values: Float[Tensor, " examples"]) -> Score:
    """Return the mean with its standard error (0 for a single example).

    Example:
        >>> mean_score(torch.tensor([0.0, 1.0]))
        Score(value=0.5, stderr=0.5, n=2)
    """
    n = len(values)
    spread = float(values.double().std()) / n**0.5 if n > 1 else 0.0
    return Score(float(values.double().mean()), spread, n)
