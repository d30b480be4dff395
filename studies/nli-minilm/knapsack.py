"""Accuracy without search and without training: the knapsack and uniform baselines at several FLOP budgets.

Writes knapsack.json and prints the table. ``python studies/nli-minilm/knapsack.py BANK_FOLDER``
"""

import json
import sys
import time
from pathlib import Path

from common import Lines, spec

from autolr.allocation.knapsack import allocate
from autolr.optimization.curve_scales import make_menus
from autolr.optimization.preparation import build_bank
from autolr.optimization.scorers import scorer_of
from autolr.optimization.spaces.grouped import uniform_candidate
from autolr.problem import open_inputs
from autolr.types import Candidate
from autolr.workflows.finalists import changes_of
from autolr.workflows.select import score_candidate

BUDGETS = (0.5, 0.35, 0.25, 0.2, 0.15, 0.1)
REFITTED = ("knapsack, all methods", "uniform kfac", "uniform drone", "uniform svd")
METHODS = ("kfac", "svd", "fwsvd", "asvd", "drone", "afm", "losparse")


def main(folder: Path) -> None:
    progress = Lines()
    inputs = open_inputs(spec(search={"methods": list(METHODS)}), progress)
    started = time.perf_counter()
    bank = build_bank(inputs, folder / "bank", progress)
    print(f"bank (calibration included, where it was missing): {time.perf_counter() - started:.1f} s")
    menus = make_menus(inputs, bank, progress)
    kfac = open_inputs(spec(search={"methods": ["kfac"]}), progress)
    kfac_menus = make_menus(kfac, build_bank(kfac, folder / "bank-kfac", progress), progress)
    scorer = scorer_of(inputs, bank, "report", progress)
    dense = scorer.compare(scorer.dense)["accuracy"]
    rows = []
    for share in BUDGETS:
        change = {"flops": (share - 1) * inputs.costs.dense.flops}
        candidates = {
            "knapsack, all methods": allocate(menus, change).candidate,
            "knapsack, kfac": allocate(kfac_menus, change).candidate,
        }
        limit = share * inputs.costs.dense.flops

        def fits(candidate: Candidate, limit: float = limit) -> bool:
            return inputs.costs.cost(candidate).flops <= limit

        for method in METHODS:
            candidates[f"uniform {method}"] = uniform_candidate(inputs.units.by_name(), method, 1, fits)
        candidates |= {f"{name}, refitted": candidates[name] for name in REFITTED}
        for name, candidate in candidates.items():
            changes = changes_of(inputs, bank, candidate, progress) if name.endswith("refitted") else None
            scores = score_candidate(inputs, bank, candidate, scorer, progress, changes)
            ratio = inputs.costs.cost(candidate).ratios(inputs.costs.dense)["flops"]
            row = {
                "budget": share,
                "name": name,
                "flops_ratio": ratio,
                "relative": scores["accuracy"].value / dense.value,
            }
            row |= {key: [score.value, score.stderr, score.n] for key, score in scores.items()}
            rows.append(row)
            print(
                f"{share:4} {name:24} flops {ratio:.4f} accuracy {100 * scores['accuracy'].value:.2f} "
                f"± {100 * scores['accuracy'].stderr:.2f} ({100 * row['relative']:.1f} % of dense) "
                f"divergence {scores['divergence'].value:.4f}",
                flush=True,
            )
    result = {"dense_accuracy": [dense.value, dense.stderr, dense.n], "rows": rows}
    (Path(__file__).parent / "knapsack.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
