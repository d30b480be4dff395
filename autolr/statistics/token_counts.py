"""Running sums of a table of token vectors: how often each token occurs, and the gradients of the vectors.

A table is a matrix of one-hot inputs, whose second moment is diagonal: the tokens' frequencies.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from autolr.errors import AutolrError
from autolr.model.record_calls import Call
from autolr.statistics.accumulate import Sums
from autolr.types import LayerStats


class TokenSums(Sums):
    """Running sums of one table, float64."""

    def add_batch(self, call: Call, gradients: Sequence[Tensor | None], mask: Tensor) -> None:
        """Add what one batch says.

        Args:
            call: of the table: it is looked up once in each pass.
            gradients: of the call's output for each cotangent; empty for moments only.
            mask: (batch, positions) of the real tokens.
        """
        self.n_tokens += int(mask.sum())
        self.n_examples += len(mask)
        self.add("mean", torch.bincount(call.x[mask], minlength=self.unit.in_features).float())
        for gradient in gradients:
            g = (torch.zeros_like(call.y) if gradient is None else gradient)[mask].float()
            self.add("out_gram", g.mT @ g)

    def finish(self) -> LayerStats:
        """Return the statistics.

        Raises:
            AutolrError: the table was never reached, or a gradient is not finite.
        """
        if not self.n_tokens:
            raise AutolrError(f"{self.unit.name} was never reached by the calibration data")
        frequency = self.terms["mean"] / self.n_tokens
        gram = self.terms.get("out_gram")
        if gram is not None and not torch.isfinite(gram).all():
            raise AutolrError(f"the calibration statistics of {self.unit.name} (out_gram) are not finite")
        gram = None if gram is None else gram / self.n_tokens
        copies = (frequency, frequency.clone(), frequency.clone())  # a file of tensors holds no memory twice
        return LayerStats(self.n_tokens, self.n_examples, *copies, out_gram=gram)
