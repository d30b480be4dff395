"""Do probes as a third objective find models that know more of their language? MiniLM on SNLI, with and without.

    python studies/probing-pitfalls/axis.py FOLDER BUDGET SEED...     # 0.25x-flops 0 1 2; writes axis.json

Needs the inputs of studies/nli-minilm and AUTOLR_ASSETS with data/probing. Both searches see the same tasks and as many
trials; without the axis the probes are measured of the winner alone. Nothing is refitted. Winners: by divergence, or by
probes among those within a point of accuracy of the best, each on the selection part; figures are of the report part.
"""

import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "nli-minilm"))
from common import ASSETS, spec

from autolr.config import make_spec
from autolr.progress import Silent
from autolr.search.folder import StudyFolder
from autolr.search.run import run_search

TASKS = ("bigram_shift", "obj_number", "past_present", "subj_number", "top_constituents")
"""Those that MiniLM's representations answer clearly above chance and not by the sentence's length or a word."""
TRIALS = 30


def main(folder: Path, budget: str, seeds: list[int]) -> None:
    tasks = folder / "tasks"
    tasks.mkdir(parents=True, exist_ok=True)
    for name in TASKS:
        shutil.copy(ASSETS / "data/probing" / f"{name}.tsv", tasks)
    rows = []
    for seed in seeds:
        for axis in (False, True):
            plain = spec(budgets=[budget], trials=TRIALS, seed=seed).model_dump(mode="json")
            plain["data"] |= {"search_examples": 400, "selection_examples": 1000}
            plain["data"] |= {"probes": str(tasks), "probe_train": 300, "probe_test": 600}
            plain["search"] |= {"probe_axis": axis, "refit": False}
            plain["run"]["threads"] = 1
            study = StudyFolder(folder / budget / f"{'with' if axis else 'without'}-{seed}")
            study.bank = folder / f"bank-{seed}"
            result = run_search(make_spec(plain, "study"), study, Silent(), checkpoint=False)
            report = result["report"]
            winner = next(one for one in result["members"] if one["trial"] == result["winner"])
            row = {"seed": seed, "axis": axis, "ratio": winner["costs"]["ratio"]["flops"]}
            row |= {name: report[name] for name in ("probes", "accuracy_ratio")}
            row |= {"accuracy": report["compressed"]["accuracy"], "divergence": report["compressed"]["divergence"]}
            rows.append({**row, "trial": result["winner"], "origin": winner["origin"]})
            print(json.dumps(rows[-1]), flush=True)
            Path(__file__).with_suffix(".json").write_text(
                json.dumps({"budget": budget, "rows": rows}, indent=1) + "\n"
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], [int(seed) for seed in sys.argv[3:]])
