"""What the refit is worth: the knapsack's solution and uniform compression, as truncated and refitted, without search.

Writes refit.json and prints the table. ``python studies/nli-minilm/refit.py FOLDER``
"""

import json
import sys
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

OUT = Path(__file__).parent / "refit.json"
BUDGETS = (0.2, 0.15, 0.35)


def main(folder: Path) -> None:
    progress = Lines()
    inputs = open_inputs(spec(), progress)
    bank = build_bank(inputs, folder / "bank", progress)
    menus = make_menus(inputs, bank, progress)
    scorer = scorer_of(inputs, bank, "report", progress)
    dense = scorer.compare(scorer.dense)["accuracy"]
    rows = []
    for share in BUDGETS:
        limit = share * inputs.costs.dense.flops

        def fits(candidate: Candidate, limit: float = limit) -> bool:
            return inputs.costs.cost(candidate).flops <= limit

        candidates = {"knapsack": allocate(menus, {"flops": limit - inputs.costs.dense.flops}).candidate}
        for method in ("kfac", "afm"):
            candidates[f"uniform {method}"] = uniform_candidate(inputs.units.by_name(), method, 1, fits)
        for name, candidate in candidates.items():
            for changes in (None, changes_of(inputs, bank, candidate, progress)):
                scores = score_candidate(inputs, bank, candidate, scorer, progress, changes)
                row = {"budget": share, "name": name, "refitted": 0 if changes is None else len(changes.layers)}
                row |= {"relative": scores["accuracy"].value / dense.value}
                row |= {key: [score.value, score.stderr, score.n] for key, score in scores.items()}
                rows.append(row)
                print({k: v if not isinstance(v, float) else round(v, 4) for k, v in row.items()}, flush=True)
        OUT.write_text(json.dumps({"dense": [dense.value, dense.stderr, dense.n], "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
