"""The form ``embedding``: frequent tokens keep their vectors, all others share two thin matrices.

A look-up multiplies nothing, so this saves parameters and memory, and costs the FLOPs of its projection.
"""

from collections.abc import Sequence, Set
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from autolr.checkpoint.runtime.embeddings import LowRankEmbedding
from autolr.forms.base import Form, Given
from autolr.forms.gauge import balance
from autolr.records import Choice, Unit

NAME = LowRankEmbedding.kind
_TIMED = (1 / 6, 5 / 6)
"""Ranks at which a table is timed beside 0, without a core and with one, as shares of break-even."""
REFERENCES = (1 / 3, 1 / 6, 1 / 12, 1 / 24)
"""Ranks at which a table's divergence is measured, as shares of a vector's size (heuristic: at still smaller ranks a
model says nothing any more)."""
_INDEX_BYTES = 4


def embedding(method: str, rank: int, core: int) -> Choice:
    """Return the choice of a rank and a number of tokens that keep their vectors."""
    return Choice(NAME, method, (("rank", rank), ("core", core)))


class Embedding(Form):
    """Two thin matrices and some rows in place of a table of token vectors."""

    name = NAME
    layer = LowRankEmbedding
    sizes: ClassVar = {"rank": "rank", "core": "tokens kept"}
    scale = NAME
    methods = ("groupreduce",)
    of = "embedding"

    def options(self, given: Given, multiple: int) -> tuple[Sequence[Choice], np.ndarray]:
        """Return the multiples of a rank with each core, as far as they save, and the expected error of a token."""
        choices, errors = [], []
        for core in given.decomposition.cores:
            tails = given.decomposition.tails(core.count).numpy()
            for rank in range(0, len(tails), multiple):
                choice = embedding(given.method, rank, core.count)
                if self.weights(given.unit, choice) < given.unit.weights:
                    choices.append(choice)
                    errors.append(tails[rank])
        return choices, np.array(errors)

    def weights(self, unit: Unit, choice: Choice) -> int:
        """Return the entries of the kept vectors, the factors and the projection."""
        others = unit.in_features - choice["core"]
        return choice["core"] * unit.out_features + choice["rank"] * others + self.multiplied(unit, choice)

    def multiplied(self, unit: Unit, choice: Choice) -> int:
        """Return the weights of the projection."""
        return choice["rank"] * unit.out_features

    def bias_entries(self, unit: Unit, choice: Choice, biased: Set[str]) -> int:
        """Return the entries of the mean."""
        return unit.out_features

    def index_bytes(self, unit: Unit, choice: Choice) -> int:
        """Return the bytes of the tokens' places."""
        return _INDEX_BYTES * unit.in_features if choice["core"] else 0

    def build(self, given: Given, choice: Choice, like: Tensor) -> LowRankEmbedding:
        """Return the layer of a choice; tokens of the core have the vectors that they had, to the last bit."""
        rank, count, table = choice["rank"], choice["core"], given.weight.mT
        found, device = given.decomposition, given.weight.device
        core, order, root = found.core(count), found.order.to(device).long(), found.root.double().to(device)
        mean = core.mean.double().to(device)
        layer = LowRankEmbedding(given.unit.in_features, given.unit.out_features, rank, count, like.device, like.dtype)
        # The rows of a core are in the order of frequency, all others in that of their numbers.
        rows = torch.cat([order[:count], order[count:].sort().values])
        with torch.no_grad():
            if count:
                layer.frequent.weight.copy_(table[rows[:count]])
                layer.place[rows] = torch.arange(len(rows), dtype=torch.int32, device=device)
            if rank:
                vectors = core.vectors[:, :rank].double().to(device)
                inner = root @ vectors
                outer = torch.linalg.solve(root, vectors)
                exact = torch.promote_types(table.dtype, torch.float32)  # of half precision products are too coarse
                factor = (table[rows[count:]].to(exact) - mean.to(exact)) @ inner.to(exact)
                left, right = balance(outer.to(exact), factor.mT)
                layer.projection.weight.copy_(left)
                layer.factor.weight.copy_(right.mT)
            layer.bias.copy_(mean)
        return layer

    def reference(self, unit: Unit, choices: Sequence[Choice], errors: np.ndarray) -> int:
        """Return the place of the largest rank of :meth:`more_references`; calibration data say nothing of a core."""
        return _references(unit, choices)[0]

    def more_references(self, unit: Unit, choices: Sequence[Choice]) -> tuple[tuple[int, ...], np.ndarray | None]:
        """Return smaller ranks without a core; between ranks the logarithms of their factors are interpolated.

        What a table loses beside its predicted error was measured to depend on the rank alone: MiniLM on SNLI, factors
        of 4.6, 7, 10, 17 at ranks of 128, 64, 32, 16, with and without a core (studies/embeddings).
        """
        places = _references(unit, choices)
        rank = np.log([max(choice["rank"], 1) for choice in choices])
        at = rank[places][::-1]  # rising, as np.interp wants it
        shares = [np.interp(rank, at, row[::-1]) for row in np.eye(len(places))]
        return tuple(places[1:]), np.array(shares)

    def timed(self, unit: Unit) -> Sequence[Choice]:
        """Return few and many ranks, without a core and with an eighth of the tokens."""
        ranks = [0, *(max(1, round(share * unit.break_even)) for share in _TIMED)]
        cores = sorted({0, unit.in_features // 8})
        return [embedding("", rank, core) for core in cores for rank in sorted(set(ranks))]

    def terms(self, unit: Unit, choice: Choice) -> tuple[float, ...]:
        """Return a fixed part, whether there is a core, whether there is a projection, and the rank."""
        rank = choice["rank"]
        return 1.0, float(choice["core"] > 0), float(rank > 0), float(rank)


def _references(unit: Unit, choices: Sequence[Choice]) -> list[int]:
    """Return the places of the choices without a core nearest to each of ``REFERENCES``, ranks falling."""
    ranks = {choice["rank"]: place for place, choice in enumerate(choices) if not choice["core"]}
    wanted = [share * unit.out_features for share in REFERENCES]
    found = [min(ranks, key=lambda rank: abs(rank - at)) for at in wanted]
    return [ranks[rank] for rank in dict.fromkeys(found)]


FORM = Embedding()
