"""autolr against every baseline on MiniLM/SNLI: one comparison a part, several parts in one folder share the banks.

    python studies/search/run.py FOLDER fixed        # uniform compression and published rules, nothing to search
    python studies/search/run.py FOLDER searched     # autolr, LEMS, Bolaco
    python studies/search/run.py FOLDER samplers     # autolr's space under other samplers, at three budgets
    python studies/search/table.py FOLDER            # the tables of README.md, and search.json

Each writes FOLDER/<part>.json. A part that was interrupted goes on.
"""

import json
import sys
from pathlib import Path

from pydantic import TypeAdapter

sys.path.insert(0, str(Path(__file__).parents[1] / "nli-minilm"))
from common import ASSETS, Lines

from autolr.forms import MATRIX_FORMS
from autolr.spec.plain import parse_plain
from autolr.workflows.compare import Comparison, compare

BUDGETS = ["0.5x-flops", "0.35x-flops", "0.25x-flops", "0.2x-flops", "0.15x-flops", "0.1x-flops"]
UNIFORM = ["svd", "fwsvd", "asvd", "drone", "afm", "kfac"]
RULES = ["asvd-strs", "laser", "svd-llm-v2", "aimet-greedy"]
SAMPLERS = ["tpe", "nsga2", "random", "gp"]

PARTS = {
    "fixed": {
        "budgets": BUDGETS,
        "trials": 3,
        "entries": [{"name": f"uniform {method}", "space": "uniform", "methods": [method]} for method in UNIFORM]
        + [{"name": rule, "space": rule} for rule in RULES],
    },
    "searched": {
        "budgets": BUDGETS,
        "trials": 40,
        "entries": [
            {"name": "autolr", "forms": MATRIX_FORMS},
            {"name": "lems", "space": "lems"},
            {"name": "bolaco", "space": "bolaco"},
        ],
    },
    "samplers": {
        "budgets": ["0.35x-flops", "0.2x-flops", "0.1x-flops"],
        "trials": 40,
        "entries": [
            {"name": "autolr", "forms": MATRIX_FORMS},
            {"name": "autolr, no racing", "forms": MATRIX_FORMS, "racing": False},
        ]
        + [{"name": sampler, "sampler": sampler, "forms": MATRIX_FORMS, "racing": False} for sampler in SAMPLERS],
    },
}
"""Nobody is refitted, so that nobody gains by it; every sampler proposes one candidate at a time."""


def comparison(part: str, seeds: list[int]) -> Comparison:
    plain = PARTS[part]
    few = part == "fixed"  # nothing is searched or chosen: those parts need not be large
    data = {name: str(ASSETS / f"data/nli/snli_{name}.jsonl.gz") for name in ("train", "validation", "test")}
    return parse_plain(
        TypeAdapter(Comparison),
        {
            "model": str(ASSETS / "models" / "minilm-nli"),
            "data": data | {"search_examples": 64 if few else 400, "selection_examples": 64 if few else 400},
            "run": {"threads": 1, "offline": True},
            "seeds": seeds,
            **plain,
            "entries": [{**entry, "refit": False, "proposals": 1} for entry in plain["entries"]],
        },
        part,
    )


def main(folder: Path, part: str, seeds: list[int]) -> None:
    found = compare(comparison(part, seeds), folder, Lines())
    (folder / f"{part}.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], [int(seed) for seed in sys.argv[3:]] or [0, 1, 2])
