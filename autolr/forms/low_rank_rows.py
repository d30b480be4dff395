"""The form ``low-rank-rows``: a low-rank layer of which some output neurons are computed densely.

Source: LoSparse's low rank plus neurons (Li et al. 2023, arXiv 2306.11222), without its training.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from autolr.checkpoint.runtime.layers import LowRankRowsLinear
from autolr.forms.base import Form, Given
from autolr.forms.low_rank import NAME as LOW_RANK
from autolr.forms.low_rank import Factors, fill_, make_factors, rank_grid, terms_of_rank, timed_ranks
from autolr.records import Choice, Unit
from autolr.types import Method

NAME = LowRankRowsLinear.kind
SHARES = (1 / 32, 1 / 16, 1 / 8)
"""Shares of the output rows that may be kept dense."""
_TIMED = ((0, 1 / 8), (1, 1 / 32), (1, 1 / 8), (3, 1 / 32), (3, 1 / 8))
"""Places among the ranks that the form low-rank is timed at, and shares of the rows."""
_INDEX_BYTES = 8


def low_rank_rows(method: str, rank: int, rows: int) -> Choice:
    """Return the choice of a rank and a number of rows kept dense, at least 1."""
    return Choice(NAME, method, (("rank", rank), ("rows", rows)))


def make_row_factors(given: Given, rank: int, rows: int) -> tuple[Factors, Int[Tensor, " rows"]]:
    """Return the factors of a rank, zero in the rows that are kept dense, and these rows' places, rising.

    Kept are the rows that the truncation serves worst, in the method's metric. They take their dense weights and bias.
    """
    factors = make_factors(given, rank)
    index = given.decomposition.row_residuals(rank).topk(rows).indices.sort().values.to(given.weight.device)
    kept = replace(factors, left=factors.left.index_fill(0, index, 0.0), shift=factors.shift.index_fill(0, index, 0.0))
    return kept, index


class LowRankRows(Form):
    """A low-rank layer of which some output neurons are computed densely."""

    name = NAME
    layer = LowRankRowsLinear
    sizes: ClassVar = {"rank": "rank", "rows": "rows kept dense"}
    scale = LOW_RANK

    def applies(self, unit: Unit, method: Method) -> bool:
        """Tell whether the method says what each row loses."""
        return super().applies(unit, method) and method.keeps_rows

    def options(self, given: Given, multiple: int) -> tuple[Sequence[Choice], np.ndarray]:
        """Return each rank with each number of rows that is cheaper than the dense layer, and what both leave out."""
        unit, choices, errors = given.unit, [], []
        counts = sorted({max(1, round(share * unit.out_features)) for share in SHARES})
        for rank in rank_grid(unit, multiple):
            residuals = given.decomposition.row_residuals(rank).sort(descending=True).values.numpy()
            for rows in counts:
                choice = low_rank_rows(given.method, rank, rows)
                if self.weights(unit, choice) < unit.weights:
                    choices.append(choice)
                    errors.append(float(residuals[rows:].sum()))
        return choices, np.array(errors)

    def weights(self, unit: Unit, choice: Choice) -> int:
        """Return ``rank (out + in) + rows in``."""
        return choice["rank"] * (unit.out_features + unit.in_features) + choice["rows"] * unit.in_features

    def index_bytes(self, unit: Unit, choice: Choice) -> int:
        """Return the bytes of the rows' places."""
        return choice["rows"] * _INDEX_BYTES

    def arguments(self, unit: Unit, choice: Choice) -> dict[str, int]:
        """Return the arguments that build the choice's layer."""
        sizes = {"in_features": unit.in_features, "out_features": unit.out_features}
        return {**sizes, "rank": choice["rank"], "n_rows": choice["rows"]}

    def build(self, given: Given, choice: Choice, like: Tensor) -> LowRankRowsLinear:
        """Return the layer of a rank and a number of rows."""
        arguments = self.arguments(given.unit, choice)
        layer = LowRankRowsLinear(**arguments, device=like.device, dtype=like.dtype)
        factors, index = make_row_factors(given, choice["rank"], choice["rows"])
        fill_(layer, factors, given.bias)
        with torch.no_grad():
            layer.rows.weight.copy_(given.weight.to(factors.left.dtype)[index])
            layer.row_index.copy_(index)
        return layer

    def timed(self, unit: Unit) -> Sequence[Choice]:
        """Return few and many rows at low and high ranks, and many alone."""
        ranks = timed_ranks(unit)
        choices = [
            low_rank_rows("", ranks[min(place, len(ranks) - 1)], max(1, round(share * unit.out_features)))
            for place, share in _TIMED
        ]
        return sorted(set(choices), key=lambda choice: self.weights(unit, choice))

    def terms(self, unit: Unit, choice: Choice) -> tuple[float, ...]:
        """Return those of the rank, and the rows."""
        return *terms_of_rank(choice["rank"]), float(choice["rows"])


FORM = LowRankRows()
