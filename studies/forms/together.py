"""Refits that share the dense model's part, against the refits of minilm.json, which were computed one by one.

    python studies/forms/together.py FOLDER [SEED ...]    # writes studies/forms/together.json

``FOLDER`` is that of knapsack.py, with the bank of each seed. The same candidates (0.2x and 0.1x FLOPs, all forms) are
refitted together, as the finalists of a study are, and scored on the report part.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from knapsack import ALL, Lines, asked

from autolr.allocation.modes import allocate_modes
from autolr.forms.swap import compressed
from autolr.optimization.curve_scales import make_menus
from autolr.optimization.preparation import build_bank
from autolr.optimization.scorers import scorer_of
from autolr.problem import open_inputs
from autolr.recovery.refit import REFIT, correct, refit_together

BUDGETS = (0.2, 0.1)
RECORDED = Path(__file__).with_name("minilm.json")
OUT = Path(__file__).with_name("together.json")


def row_of(folder: Path, seed: int) -> dict[str, Any]:
    """Return what a seed's candidates score, now and as recorded, and what refitting them together takes."""
    inputs = open_inputs(asked("minilm", folder, seed), Lines())
    torch.set_num_threads(1)
    bank = build_bank(inputs, folder / f"bank-minilm-{seed}", Lines())
    menus = make_menus(inputs, bank, Lines())
    units = {unit.name: unit for unit in inputs.units.all}
    scorer = scorer_of(inputs, bank, "report", Lines())
    batches = inputs.batches_of(inputs.parts.calibration.take(REFIT.examples or len(inputs.parts.calibration), 0))
    limits = [{"flops": share * inputs.costs.dense.flops - inputs.costs.base.flops} for share in BUDGETS]
    candidates = [allocate_modes(menus, units, limit).candidate for limit in limits]
    began = time.process_time()
    found = refit_together(inputs.model, candidates, bank, batches)
    row: dict[str, Any] = {"seed": seed, "processor seconds of both": time.process_time() - began}
    for share, candidate, corrections in zip(BUDGETS, candidates, found, strict=True):
        [before] = [
            old
            for old in json.loads(RECORDED.read_text())
            if (old["seed"], old["budget"], old["menu"]) == (seed, share, *ALL)
        ]
        with compressed(inputs.model, candidate, bank) as small:
            for layer, correction in corrections.items():
                correct(small.get_submodule(layer), correction)
            scores = scorer.score(small)
        assert before["pairs"] == {name: dict(c.sizes) for name, c in candidate.choices if units[name].matrices}
        row[f"{share}x"] = {
            name: {"now": scores[name].value, "recorded": before["refitted"][name]["value"]}
            for name in ("divergence", "accuracy", "agreement")
        }
    print(json.dumps(row, indent=1), flush=True)
    return row


if __name__ == "__main__":
    asked_for = [int(seed) for seed in sys.argv[2:]] or [0, 1, 2]
    OUT.write_text(json.dumps([row_of(Path(sys.argv[1]), seed) for seed in asked_for], indent=1) + "\n")
