"""Winners refitted, autolr's and others': the same candidates, the report part touched once more for them.

python studies/search/refitted.py FOLDER        # FOLDER/refitted.json
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "nli-minilm"))
from common import Lines
from run import BUDGETS, comparison

from autolr.types import Candidate
from autolr.workflows.compare import cells
from autolr.workflows.final_report import report_on
from autolr.workflows.finalists import changes_of
from autolr.workflows.search import open_study

REFITTED = {"searched": ["autolr", "lems"], "fixed": ["uniform kfac"]}


def main(folder: Path) -> None:
    rows = []
    for cell in [one for part in REFITTED for one in cells(comparison(part, [0, 1, 2]), folder)]:
        result = cell.folder.result() if cell.folder.spec_file.is_file() else None
        wanted = [name for names in REFITTED.values() for name in names]
        if cell.entry.name not in wanted or cell.budget not in BUDGETS or result is None:
            continue
        opened = open_study(cell.folder, Lines())
        inputs = opened.inputs
        search = inputs.spec.search.model_copy(update={"refit": True})
        object.__setattr__(inputs, "spec", inputs.spec.model_copy(update={"search": search}))
        winner = next(one for one in result["members"] if one["trial"] == result["winner"])
        candidate = Candidate.from_json(winner["candidate"])
        changes = changes_of(inputs, opened.bank, candidate, Lines())
        report = report_on(inputs, opened.bank, candidate, changes, Lines()).to_json()
        row = {
            "entry": f"{cell.entry.name}, refitted",
            "budget": cell.budget,
            "seed": cell.seed,
            "reached": result["reached"],
        }
        row |= {"ratio": winner["costs"]["ratio"]["flops"], "accuracy": report["compressed"]["accuracy"]}
        row |= {"dense_accuracy": report["dense"]["accuracy"], "accuracy_ratio": report["accuracy_ratio"]}
        rows.append(row | {"divergence": report["compressed"]["divergence"], "optimism": report["optimism"]})
        print(json.dumps(rows[-1]), flush=True)
        (folder / "refitted.json").write_text(json.dumps({"rows": rows}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
