"""What the knapsack finds at equal budgets with and without the forms of pairs, before any search, plain and refitted.

    python studies/forms/knapsack.py FOLDER minilm [SEED ...]     # writes studies/forms/minilm.json
    python studies/forms/knapsack.py FOLDER stories [SEED ...]    # writes studies/forms/stories.json
    python studies/forms/knapsack.py                              # prints the tables

``FOLDER`` holds the bank of each seed. One method, ``kfac``; nothing is trained and nothing is chosen by a score, so
all examples of the report part are unseen. A seed draws the calibration data.
"""

import json
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "nli-minilm"))
sys.path.insert(0, str(Path(__file__).parents[1] / "probing-pitfalls"))
from common import ASSETS, Lines, spec
from decoder import stretches

from autolr.allocation.modes import allocate_modes
from autolr.forms.swap import compressed
from autolr.optimization.curve_scales import make_menus
from autolr.optimization.preparation import build_bank
from autolr.optimization.scorers import scorer_of
from autolr.problem import open_inputs
from autolr.records import Candidate
from autolr.recovery.refit import REFIT, refit_together
from autolr.recovery.regression import correct
from autolr.spec.study import StudySpec, make_spec

LOW_RANK = {"low rank": ("low-rank",)}
NEURONS = {"and neurons": ("low-rank", "neurons")}
REST = {"and low rank of the rest": ("low-rank", "neurons", "neurons-low-rank")}
FORMS = ("low-rank", "neurons", "neurons-low-rank", "ov-pair", "qk-pair", "heads")
ALL = {"all": FORMS}
WITHOUT = {f"all but {form}": tuple(other for other in FORMS if other != form) for form in FORMS}
MENUS = {"minilm": LOW_RANK | REST | ALL | WITHOUT, "stories": LOW_RANK | NEURONS | REST | ALL}
BUDGETS = {"minilm": (0.35, 0.2, 0.15, 0.1), "stories": (0.8, 0.6)}
QUANTITY = {"minilm": "flops", "stories": "nonembedding-params"}
SHOWN = {"minilm": ("divergence", "accuracy", "agreement"), "stories": ("loss", "divergence")}


def asked(model: str, folder: Path, seed: int) -> StudySpec:
    """Return the specification of a model's study."""
    search = {"methods": ["kfac"], "forms": list(FORMS)}
    common: dict[str, Any] = {"seed": seed, "budgets": [f"1x-{QUANTITY[model]}"]}
    if model == "minilm":
        return spec(search=search, **common)
    sizes = {"calibration_examples": 400, "search_examples": 200, "selection_examples": 200}
    return make_spec(
        {
            "model": str(ASSETS / "models/stories260k-llama"),
            "task": "lm",
            "data": {**stretches(folder), **sizes},
            "run": {"seq_len": 256, "threads": 1, "scoring_batch_size": 16},
            "search": search | {"multiple": 1},
            **common,
        },
        "study",
    )


def rows_of(model: str, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Return what each menu reaches at each budget."""
    inputs = open_inputs(asked(model, folder, seed), Lines())
    bank = build_bank(inputs, folder / f"bank-{model}-{seed}", Lines())
    menus = make_menus(inputs, bank, Lines())
    units = {unit.name: unit for unit in inputs.units.all}
    scorer = scorer_of(inputs, bank, "report", Lines())
    batches = inputs.batches_of(inputs.parts.calibration.take(REFIT.examples or len(inputs.parts.calibration), 0))
    quantity, rows = QUANTITY[model], []
    for budget in BUDGETS[model]:
        limit = {quantity: budget * inputs.costs.dense.get(quantity) - inputs.costs.base.get(quantity)}
        found: dict[str, Candidate] = {}
        for name, forms in MENUS[model].items():
            keep = [[not any(c.form not in forms for _, c in option) for option in menu.options] for menu in menus]
            offered = [menu.kept(torch.tensor(k).nonzero()[:, 0].numpy()) for menu, k in zip(menus, keep, strict=True)]
            began = time.perf_counter()
            found[name] = allocate_modes(offered, units, limit).candidate
            milliseconds = 1e3 * (time.perf_counter() - began)
            rows.append({"seed": seed, "budget": budget, "menu": name, "milliseconds": milliseconds})
        candidates = list(dict.fromkeys(found.values()))
        began = time.process_time()
        corrections = refit_together(inputs.model, candidates, bank, batches)
        seconds = (time.process_time() - began) / len(candidates)
        measured = {}
        for candidate, found_corrections in zip(candidates, corrections, strict=True):
            with compressed(inputs.model, candidate, bank) as small:
                plain = {score: value.to_json() for score, value in scorer.score(small).items()}
                for layer, correction in found_corrections.items():
                    correct(small.get_submodule(layer), correction)
                refitted = {score: value.to_json() for score, value in scorer.score(small).items()}
            forms_of = dict(Counter(choice.form for _, choice in candidate.choices))
            several = {unit: dict(c.sizes) for unit, c in candidate.choices if units[unit].matrices}
            measured[candidate] = {
                "refit processor seconds": seconds,
                "plain": plain,
                "refitted": refitted,
                "forms": forms_of,
                "pairs": several,
            }
        for row in rows[-len(found) :]:
            row.update(measured[found[row["menu"]]])
            shown = {w: round(row[w][SHOWN[model][0]]["value"], 4) for w in ("plain", "refitted")}
            print(seed, budget, row["menu"], shown, row["forms"], flush=True)
    return rows


def table(model: str) -> None:
    """Print the means over the seeds."""
    rows = json.loads(_file(model).read_text())
    for budget in BUDGETS[model]:
        for name in MENUS[model]:
            of = [row for row in rows if (row["budget"], row["menu"]) == (budget, name)]
            means = [
                f"{statistics.mean(row[when][score]['value'] for row in of):.4f}"
                for when in ("plain", "refitted")
                for score in SHOWN[model]
            ]
            print(f"{model} {budget}x {name:26}", *means, f"({len(of)} seeds)")


def _file(model: str) -> Path:
    return Path(__file__).with_name(f"{model}.json")


def main(folder: Path, model: str, seeds: list[int]) -> None:
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    rows = json.loads(_file(model).read_text()) if _file(model).is_file() else []
    for seed in seeds:
        if not any(row["seed"] == seed for row in rows):
            rows += rows_of(model, seed, folder)
            _file(model).write_text(json.dumps(rows, indent=1) + "\n")
    table(model)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        main(Path(sys.argv[1]), sys.argv[2], [int(seed) for seed in sys.argv[3:]] or [0, 1, 2])
    else:
        for each in BUDGETS:
            if _file(each).is_file():
                table(each)
