"""What the knapsack finds at equal shares of all parameters, with and without tables of token vectors compressed.

    python studies/embeddings/knapsack.py FOLDER [SEED ...]       # writes studies/embeddings/knapsack.json
    python studies/embeddings/knapsack.py FOLDER --cut [SEED ...]  # adds the rows of the model in FOLDER/cut
    python studies/embeddings/knapsack.py                         # prints the tables

``FOLDER`` holds the bank of each seed, and the model whose vocabulary was cut. One method for matrices, ``kfac``;
nothing is trained and nothing is chosen by a score, so all examples of the report part are unseen. A seed draws the
calibration data.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "nli-minilm"))
from common import Lines, spec

from autolr.allocation.modes import allocate_modes
from autolr.errors import BudgetError
from autolr.forms import MATRIX_FORMS, TABLE_FORMS
from autolr.forms.swap import compressed
from autolr.optimization.curve_scales import make_menus
from autolr.optimization.preparation import build_bank
from autolr.optimization.scorers import scorer_of
from autolr.problem import open_inputs
from autolr.recovery.refit import REFIT, correct, refit

RESULT = Path(__file__).parent / "knapsack.json"
LAYERS = (*MATRIX_FORMS, "neurons", "neurons-low-rank")
MENUS = {"layers": LAYERS, "layers and table": (*LAYERS, *TABLE_FORMS), "table": TABLE_FORMS}
SHARES = {False: (0.6, 0.3), True: (0.3,)}
"""Whether the vocabulary was cut -> shares of the whole model's parameters."""
ALONE = (0.6,)
"""Shares at which the table alone is compressed: without it there are 0.48 of the parameters."""
SHOWN = ("divergence", "accuracy", "agreement")


def rows_of(seed: int, folder: Path, model: dict[str, str], dense_params: int | None) -> list[dict[str, Any]]:
    """Return what each menu reaches at each share of the parameters.

    Args:
        seed: of the calibration data.
        folder: for the bank.
        model: other places of the model than the study's own.
        dense_params: of the model that shares are stated for; None: of the model itself.
    """
    search = {"methods": ["kfac"], "forms": list(MENUS["layers and table"])}
    inputs = open_inputs(spec(seed=seed, budgets=["1x-params"], search=search, **model), Lines())
    bank = build_bank(inputs, folder / f"bank-{'cut' if model else 'whole'}-{seed}", Lines())
    menus = make_menus(inputs, bank, Lines())
    units = {unit.name: unit for unit in inputs.units.all}
    scorer = scorer_of(inputs, bank, "report", Lines())
    batches = inputs.batches_of(inputs.parts.calibration.take(REFIT.examples or len(inputs.parts.calibration), 0))
    dense, rows = dense_params or inputs.costs.dense.params, []
    for share in SHARES[bool(model)]:
        for name, forms in MENUS.items():
            if name == "table" and share not in ALONE:
                continue
            keep = [[not any(c.form not in forms for _, c in option) for option in menu.options] for menu in menus]
            offered = [menu.kept(torch.tensor(k).nonzero()[:, 0].numpy()) for menu, k in zip(menus, keep, strict=True)]
            row: dict[str, Any] = {"seed": seed, "share": share, "menu": name, "cut": bool(model)}
            try:
                found = allocate_modes(offered, units, {"params": share * dense - inputs.costs.base.params})
            except BudgetError as error:
                rows.append(row | {"refused": str(error)})
                continue
            cost = inputs.costs.cost(found.candidate)
            row |= {"predicted": found.loss, "params": cost.params, "flops": cost.flops, "memory": cost.memory}
            row["table"] = [choice.to_json() for name, choice in found.candidate.choices if name == _table(inputs)]
            with compressed(inputs.model, found.candidate, bank) as small:
                row["plain"] = _scores(scorer.score(small))
            began = time.perf_counter()
            corrections = refit(inputs.model, found.candidate, bank, batches)
            row["refit_seconds"] = time.perf_counter() - began
            with compressed(inputs.model, found.candidate, bank) as small:
                for unit, correction in corrections.items():
                    correct(small.get_submodule(unit), correction)
                row["refitted"] = _scores(scorer.score(small))
            print(json.dumps(row), flush=True)
            rows.append(row)
    rows.append({"seed": seed, "menu": "dense", "cut": bool(model), "params": inputs.costs.dense.params})
    rows[-1] |= {"flops": inputs.costs.dense.flops, "plain": _scores(scorer.score(inputs.model))}
    return rows


def _table(inputs: Any) -> str | None:
    return next((unit.name for unit in inputs.units.tables), None)


def _scores(found: Any) -> dict[str, Any]:
    return {name: found[name].to_json() for name in SHOWN}


def show(rows: list[dict[str, Any]]) -> None:
    """Print a table of all rows."""
    print("| seed | vocabulary | share | menu | params | FLOPs | table | divergence | accuracy | refitted | accuracy |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        cells = [str(row["seed"]), "cut" if row["cut"] else "whole", str(row.get("share", "")), row["menu"]]
        if "refused" in row:
            print("| " + " | ".join([*cells, row["refused"]]) + " |")
            continue
        sizes = [f"rank {c['rank']}, {c['core']} kept" for c in row.get("table", [])]
        cells += [f"{row['params'] / 1e6:.2f} M", f"{row['flops'] / 1e9:.2f} G", *(sizes or ["dense"])]
        for which in ("plain", "refitted"):
            for score in SHOWN[:2]:
                found = row.get(which, {}).get(score)
                cells.append(f"{found['value']:.4f} ± {found['stderr']:.4f}" if found else "")
        print("| " + " | ".join(cells) + " |")


def main(arguments: list[str]) -> None:
    """Measure what is asked, or print."""
    stored: list[dict[str, Any]] = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else []
    if not arguments:
        show(stored)
        return
    folder, cut = Path(arguments[0]), "--cut" in arguments
    seeds = [int(word) for word in arguments[1:] if word != "--cut"] or [0]
    dense = next((row["params"] for row in stored if row["menu"] == "dense" and not row["cut"]), None)
    for seed in seeds:
        stored = [row for row in stored if (row["seed"], row["cut"]) != (seed, cut)]
        model = {"model": str(folder / "cut")} if cut else {}
        stored += rows_of(seed, folder, model, dense if cut else None)
        RESULT.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
