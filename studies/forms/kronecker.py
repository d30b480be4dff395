"""What sums of Kronecker products are worth to the knapsack beside low rank, and against the SVD without a metric.

    python studies/forms/kronecker.py FOLDER [SEED]    # writes studies/forms/kronecker.json

``FOLDER`` is that of knapsack.py. MiniLM on SNLI, as truncated: nothing is trained or refitted, and nothing is chosen
by a score, so all examples of the report part are unseen.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from knapsack import Lines, spec

from autolr.allocation.knapsack import Menu
from autolr.allocation.modes import allocate_modes
from autolr.errors import BudgetError
from autolr.forms.swap import compressed
from autolr.optimization.curve_scales import make_menus
from autolr.optimization.preparation import build_bank
from autolr.optimization.scorers import scorer_of
from autolr.problem import open_inputs

MENUS = {
    "low rank by kfac": ("kfac",),
    "and kronecker": ("kfac", "van-loan", "van-loan-kfac"),
    "kronecker by van-loan-kfac": ("van-loan-kfac",),
    "low rank by svd": ("svd",),
    "svd and kronecker": ("svd", "van-loan"),
    "kronecker by van-loan": ("van-loan",),
}
BUDGETS = {"flops": (0.35, 0.2), "nonembedding-params": (0.35, 0.2)}
SHOWN = ("divergence", "accuracy", "agreement")
OUT = Path(__file__).with_name("kronecker.json")


def made_by(menu: Menu, methods: tuple[str, ...]) -> Menu:
    """Return the options of a menu that these methods make, and dense."""
    return menu.kept(np.flatnonzero([all(choice.method in methods for _, choice in option) for option in menu.options]))


def rows_of(folder: Path, seed: int) -> list[dict[str, Any]]:
    """Return what each menu reaches at each budget."""
    inputs = open_inputs(
        spec(search={"methods": ["kfac", "svd"], "forms": ["low-rank", "kronecker"]}, seed=seed, budgets=["1x-flops"]),
        Lines(),
    )
    torch.set_num_threads(1)
    bank = build_bank(inputs, folder / f"bank-minilm-{seed}", Lines())
    menus = make_menus(inputs, bank, Lines())
    units = {unit.name: unit for unit in inputs.units.all}
    scorer = scorer_of(inputs, bank, "report", Lines())
    rows = []
    for quantity, shares in BUDGETS.items():
        for share in shares:
            limit = {quantity: share * inputs.costs.dense.get(quantity) - inputs.costs.base.get(quantity)}
            for name, methods in MENUS.items():
                row: dict[str, Any] = {"seed": seed, "budget": f"{share}x-{quantity}", "menu": name}
                try:
                    candidate = allocate_modes([made_by(menu, methods) for menu in menus], units, limit).candidate
                except BudgetError:
                    rows.append(row | {"scores": None})
                    continue
                with compressed(inputs.model, candidate, bank) as small:
                    scores = {score: value.to_json() for score, value in scorer.score(small).items()}
                counted = Counter(choice.form for _, choice in candidate.choices)
                rows.append(row | {"scores": scores, "forms": dict(counted)})
                print(row, {score: round(scores[score]["value"], 4) for score in SHOWN}, dict(counted), flush=True)
    return rows


if __name__ == "__main__":
    found = rows_of(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    OUT.write_text(json.dumps(found, indent=1) + "\n")
