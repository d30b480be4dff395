"""Kwon et al.'s masks of heads and neurons (`--space kwon`) on MiniLM/SNLI, step by step.

    python studies/search/masks.py FOLDER        # writes studies/search/masks.json
    python studies/search/masks.py               # prints the table

``FOLDER`` holds the bank. Nothing is trained and nothing is chosen by a score, so all pairs of the report part are
unseen. The seed draws the calibration data. Rows:

    scaled             searched, rearranged, scaled for the dense model's inputs: what the preset gives without recovery
    tuned              scaled layer by layer, on what the compressed model feeds them: the preset with its recovery
    no swaps, tuned    of each layer the masks of the largest Fisher information
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "nli-minilm"))
from common import Lines, spec

from autolr.bank import Bank
from autolr.methods.masks import Masks
from autolr.optimization.preparation import build_bank
from autolr.optimization.scorers import scorer_of
from autolr.optimization.spaces.mask_search import masks_by_fisher
from autolr.problem import open_inputs
from autolr.recovery.base import Changes, recovered
from autolr.recovery.mask_tuning import MASK_TUNING
from autolr.spec.study import StudySpec

BUDGETS = (0.7, 0.6, 0.5, 0.35)
SEED = 0
FILE = Path(__file__).with_name("masks.json")


class Searched(Masks):
    """Nothing is swapped."""

    def selected(self, columns: int) -> Tensor:
        return self.importance.topk(columns // self.width).indices.sort().values


STEPS = {"scaled": (Masks, False), "tuned": (Masks, True), "no swaps, tuned": (Searched, True)}
"""Name -> the record of masks, and whether it is tuned."""


class Source:
    """A bank whose records of masks are of another kind."""

    def __init__(self, bank: Bank, kind: Callable[..., Masks]) -> None:
        self.bank, self.kind = bank, kind

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bank, name)

    def decomposition(self, name: str, method: str) -> Masks:
        record = self.bank.decomposition(name, method)
        return self.kind(record.fisher, record.gram, record.reader, record.errors)


def asked(budget: float) -> StudySpec:
    search = {"space": "kwon", "methods": ["svd"], "forms": ["masked-neurons", "masked-heads"]}
    return spec(search=search, budgets=[f"{budget}x-flops"], seed=SEED)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    inputs = open_inputs(asked(BUDGETS[0]), Lines())
    bank = build_bank(inputs, folder / f"bank-masks-{SEED}", Lines())
    scorer = scorer_of(inputs, bank, "report", Lines())
    batches = inputs.batches("calibration")
    dense = scorer.score(inputs.model)["accuracy"].value
    rows: list[Mapping[str, Any]] = []
    for budget in BUDGETS:
        candidate = masks_by_fisher(replace(inputs, spec=asked(budget)), bank)
        for name, (kind, tuned) in STEPS.items():
            source = Source(bank, kind)
            changes = None
            if tuned:
                tensors = MASK_TUNING.compute(inputs.model, candidate, source, batches, lambda _: None)
                changes = Changes(MASK_TUNING, tensors)
            with recovered(inputs.model, candidate, source, changes) as small:
                scores = {score: value.to_json() for score, value in scorer.score(small).items()}
            ratio = inputs.costs.cost(candidate).flops / inputs.costs.dense.flops
            row = {"seed": SEED, "budget": budget, "ratio": ratio, "step": name, "dense_accuracy": dense, **scores}
            rows.append(row | {"sizes": {unit: dict(choice.sizes) for unit, choice in candidate.choices}})
            print(budget, name, {score: round(value["value"], 4) for score, value in scores.items()}, flush=True)
        FILE.write_text(json.dumps(rows, indent=1) + "\n")
    table()


def table() -> None:
    """Print accuracy as a share of dense, with its standard error, and divergence."""
    rows = {(row["budget"], row["step"]): row for row in json.loads(FILE.read_text())}
    print("| | " + " | ".join(f"{budget}x" for budget in BUDGETS) + " |\n|" + "---|" * (len(BUDGETS) + 1))
    for name in STEPS:
        print(f"| {name} | " + " | ".join(cell(rows[budget, name]) for budget in BUDGETS) + " |")


def cell(row: Mapping[str, Any]) -> str:
    accuracy, nats, dense = row["accuracy"], row["divergence"], row["dense_accuracy"]
    share, error = 100 * accuracy["value"] / dense, 100 * accuracy["stderr"] / dense
    return f"{share:.1f} ± {error:.1f} ({nats['value']:.3f} ± {nats['stderr']:.3f})"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        table()
