"""What the method of tables was chosen by: floor of unseen tokens, order of the core, metric, mean, and factors.

    python studies/embeddings/choices.py FOLDER     # after knapsack.py, whose bank it reads; writes choices.json

Errors are expected squared errors of a token in the metric of the gradients, under the frequencies of the search and
selection parts, which nothing was counted on. Divergences are on 400 search pairs.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "nli-minilm"))
from common import Lines, spec

from autolr.bank import Bank
from autolr.methods.kfac import OUT_SHRINKAGE
from autolr.methods.weighted_svd import psd_power, shrink
from autolr.model.record_calls import token_mask
from autolr.problem import LoadedProblem, open_inputs

SIZES = ((64, 0), (64, 500), (64, 1000), (32, 2000), (32, 1000), (16, 2000), (96, 4000), (0, 4000), (8, 4000))
"""Ranks and cores."""
FLOORS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
ORDERS = ("frequency", "energy")
FACTORS = ((16, 0), (32, 0), (64, 0), (128, 0), (32, 953), (16, 1907), (64, 3815), (0, 3815))
VARIANTS = {"metric and mean": (True, True), "metric": (True, False), "mean": (False, True), "neither": (False, False)}


class Table:
    """A table with what was counted of it.

    Args:
        inputs: the opened inputs.
        bank: with the table's statistics.
    """

    def __init__(self, inputs: LoadedProblem, bank: Bank) -> None:
        [unit] = inputs.units.tables
        stats = bank.stats(unit.name)
        assert stats.out_gram is not None
        self.vectors = inputs.model.get_input_embeddings().weight.detach().double()
        self.counts, self.tokens = stats.mean * stats.n_tokens, stats.n_tokens
        self.per_example = stats.tokens_per_example
        self.root = psd_power(shrink(stats.out_gram.clone(), OUT_SHRINKAGE))
        seen = torch.zeros_like(self.counts)
        for part in ("search", "selection"):
            for batch in inputs.batches(part):
                seen += torch.bincount(batch["input_ids"][token_mask(batch)], minlength=len(seen))
        self.held_out = seen / seen.sum()

    def approximated(
        self, rank: int, core: int, floor: float = 0.1, order: str = "frequency", metric: bool = True, mean: bool = True
    ) -> tuple[Tensor, float]:
        """Return the vectors that a rank and a core leave, and the error that the calibration data predict."""
        root = self.root if metric else torch.eye(len(self.root), dtype=torch.float64)
        p = (self.counts + floor) / (self.tokens + floor * len(self.counts))
        whole = (self.vectors - p @ self.vectors) @ root
        worth = self.counts if order == "frequency" else p * whole.square().sum(1)
        kept = worth.argsort(descending=True, stable=True)[:core]
        p = p.index_fill(0, kept, 0.0)
        centre = p @ self.vectors / p.sum() if mean else torch.zeros_like(self.vectors[0])
        gap = (self.vectors - centre) @ root
        values, directions = torch.linalg.eigh((gap * p[:, None]).mT @ gap)
        left = directions.flip(1)[:, :rank]
        found = torch.linalg.solve(root, left @ (left.mT @ gap.mT)).mT + centre
        found[kept] = self.vectors[kept]
        return found, float(values.clamp(min=0.0).flip(0)[rank:].sum())

    def error(self, found: Tensor) -> float:
        """Return the expected squared error of a held-out token in the metric."""
        return float(self.held_out @ ((found - self.vectors) @ self.root).square().sum(1))


def main(folder: Path) -> None:
    """Measure, print and write."""
    search = {"methods": ["kfac"], "forms": ["low-rank", "neurons", "embedding"]}
    inputs = open_inputs(spec(budgets=["1x-params"], search=search), Lines())
    table = Table(inputs, Bank(folder / "bank-whole-0", inputs.model, inputs.units.all, inputs.calibration_key))
    data = inputs.parts.search.take(400, 0)
    scorer = inputs.task.comparer(inputs.model, data, inputs.batches_of(data))
    weight = inputs.model.get_input_embeddings().weight
    rows: list[dict[str, Any]] = []

    def held_out(**asked: Any) -> None:
        found, told = table.approximated(**asked)
        rows.append({**asked, "predicted": told, "held out": table.error(found)})

    def diverging(**asked: Any) -> None:
        found, told = table.approximated(**asked)
        with torch.no_grad():
            weight.copy_(found)
            scores = scorer.score(inputs.model)
            weight.copy_(table.vectors)
        nats = 0.5 * table.per_example * told
        row = {**asked, "predicted nats": nats, "divergence": scores["divergence"].to_json()}
        rows.append(row | {"accuracy": scores["accuracy"].to_json(), "factor": scores["divergence"].value / nats})

    for rank, core in SIZES:
        for floor in FLOORS:
            held_out(rank=rank, core=core, floor=floor)
        held_out(rank=rank, core=core, order=ORDERS[1])
    for rank, core in FACTORS:
        diverging(rank=rank, core=core)
    for name, (metric, mean) in VARIANTS.items():
        print(name, flush=True)
        diverging(rank=64, core=0, metric=metric, mean=mean)
    for row in rows:
        print(json.dumps(row))
    (Path(__file__).parent / "choices.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
