"""What the knapsack finds at equal FLOPs with and without the form ``neurons``, before any search, plain and refitted.

    python studies/forms/knapsack.py FOLDER [SEED ...]    # writes studies/forms/knapsack.json

``FOLDER`` holds the bank of each seed. One method, ``kfac``; 1,024 calibration pairs, 512 of them refit; nothing is
trained and nothing is chosen by a score, so all 1,415 pairs of the test file are unseen.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "nli-minilm"))
from common import Lines, spec

from autolr.allocation.error_curves import build_menus
from autolr.allocation.knapsack import allocate
from autolr.allocation.modes import exclusive
from autolr.forms.swap import compressed
from autolr.optimization.curve_scales import _curves, _scales
from autolr.optimization.preparation import build_bank
from autolr.optimization.scorers import scorer_of
from autolr.problem import open_inputs
from autolr.recovery.refit import correct, refit

OUT = Path(__file__).with_name("knapsack.json")
BUDGETS = (0.35, 0.2, 0.15, 0.1)
REFIT_PAIRS = 512
FORMS = {"low-rank": ("low-rank",), "low-rank and neurons": ("low-rank", "neurons")}


def rows_of(seed: int, folder: Path) -> list[dict]:
    """Return what each menu reaches at each budget."""
    asked = spec(seed=seed, search={"methods": ["kfac"], "forms": ["low-rank", "neurons"]}, budgets=["1x-flops"])
    inputs = open_inputs(asked, Lines())
    bank = build_bank(inputs, folder / f"bank{seed}", Lines())
    curves = _curves(inputs, bank)
    menus = build_menus(curves, _scales(inputs, bank, curves, Lines()), inputs.costs)
    units = {unit.name: unit for unit in inputs.units.all}
    scorer = scorer_of(inputs, bank, "report", Lines())
    batches = inputs.batches_of(inputs.parts.calibration.take(REFIT_PAIRS, 0))
    rows = []
    for budget in BUDGETS:
        limit = {"flops": budget * inputs.costs.dense.flops - inputs.costs.base.flops}
        for name, forms in FORMS.items():
            offered = [menu for menu in menus if "neurons" in forms or not units[menu.name].matrices]
            began = time.perf_counter()
            solved = allocate(exclusive(offered, units, ["flops"]), limit)
            milliseconds = 1e3 * (time.perf_counter() - began)
            began = time.perf_counter()
            corrections = refit(inputs.model, solved.candidate, bank, batches)
            seconds = time.perf_counter() - began
            with compressed(inputs.model, solved.candidate, bank) as model:
                plain = scorer.score(model)
                for unit, correction in corrections.items():
                    correct(model.get_submodule(unit), correction)
                refitted = scorer.score(model)
            row = {"seed": seed, "budget": budget, "forms": name, "milliseconds": milliseconds, "refit": seconds}
            row["neurons"] = {
                u: choice["neurons"] for u, choice in solved.candidate.choices if choice.form == "neurons"
            }
            for when, scores in (("plain", plain), ("refitted", refitted)):
                row[when] = {score: found.to_json() for score, found in scores.items()}
            rows.append(row)
            print(
                seed,
                budget,
                name,
                {w: round(row[w]["divergence"]["value"], 4) for w in ("plain", "refitted")},
                flush=True,
            )
    return rows


def main(folder: Path, seeds: list[int]) -> None:
    torch.set_num_threads(1)
    rows = json.loads(OUT.read_text()) if OUT.is_file() else []
    for seed in seeds:
        if not any(row["seed"] == seed for row in rows):
            rows += rows_of(seed, folder)
            OUT.write_text(json.dumps(rows, indent=1) + "\n")
    for budget in BUDGETS:
        for name in FORMS:
            of = [row for row in rows if (row["budget"], row["forms"]) == (budget, name)]
            means = [
                statistics.mean(row[when][score]["value"] for row in of)
                for when in ("plain", "refitted")
                for score in ("divergence", "accuracy", "agreement")
            ]
            print(f"{budget}x {name}: " + "  ".join(f"{mean:.4f}" for mean in means))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(seed) for seed in sys.argv[2:]] or [0, 1, 2])
