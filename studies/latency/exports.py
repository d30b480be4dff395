"""Exports under latency budgets from 0.25x to 0.8x: timed in a process of their own, accuracy on snli_test.

Each is the knapsack's solution, refitted; no trials, and the predictions tuned once, by the study at 0.5x in FOLDER.
Writes exports.json. ``python studies/latency/exports.py FOLDER [PROFILE]``, FOLDER being that of search.py.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from common import Lines, spec

from autolr.allocate import allocate
from autolr.bank import Bank
from autolr.search.export import export
from autolr.search.finalists import corrections_of
from autolr.search.inputs import open_inputs
from autolr.search.preparation import scorer_of
from autolr.search.scales import make_menus
from autolr.search.selection import score_candidate
from autolr.search.verification import time_checkpoint

OUT = Path(__file__).parent / "exports.json"
BUDGETS = (0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8)


def main(folder: Path, profile: str) -> None:
    rows = []
    study = folder / f"{profile}-0.5x-latency"
    for budget in BUDGETS:
        inputs = open_inputs(spec(profile, f"{budget}x-latency"), Lines(), study / "latency.json")
        bank = Bank(study / "bank", inputs.model, inputs.units.units, inputs.calibration_key)
        candidate = allocate(make_menus(inputs, bank, Lines()), inputs.relative_limits).candidate
        directory = folder / f"export-{profile}-{budget}"
        costs = {"ratio": {}, "absolute": {}, "conditions": asdict(inputs.costs.dense.conditions)}
        one = {"trial": 0, "origin": "knapsack", "candidate": candidate.to_json(), "costs": costs, "scores": {}}
        corrections = corrections_of(inputs, bank, candidate, Lines())
        export(inputs, bank, one, corrections, None, directory, "hf", Lines())
        clock = time_checkpoint(inputs, directory, Lines())
        flops = inputs.costs.cost(candidate).flops / inputs.costs.dense.flops
        scorer = scorer_of(inputs, "report", Lines())
        found = score_candidate(inputs, bank, candidate, scorer, Lines(), corrections)
        dense = scorer.compare(scorer.dense)["accuracy"].value
        quality = {
            "accuracy": found["accuracy"].value,
            "dense_accuracy": dense,
            "divergence": found["divergence"].value,
        }
        rows.append({"budget": budget, "flops_ratio": flops, **quality, **clock})
        shown = [budget, clock["ratio"], *clock["ratio_range"], flops, quality["accuracy"] / dense]
        print([round(x, 4) for x in shown], clock["within"], flush=True)
    OUT.write_text(json.dumps({"profile": profile, "exports": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), (sys.argv[2:] or ["8x32"])[0])
