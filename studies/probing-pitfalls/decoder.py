"""A small Llama, nothing trained: perplexity at two shares of its linear layers' FLOPs, methods uniform and searched.

    python studies/probing-pitfalls/decoder.py FOLDER       # writes decoder.json; FOLDER keeps the studies, to go on

Needs AUTOLR_ASSETS with models/stories260k-llama and data/lm/tinystories_valid_head.txt. The text is cut into three
stretches: 55 % calibrates, 25 % searches and selects, 20 % is reported on, in blocks of 256 tokens. The non-embedding
parameters of this model are those of its linear layers (and norms), so their ratio is the linear layers' FLOPs ratio.
A seed draws the blocks that calibrate and search, too.
"""

import json
import sys
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).parents[1] / "nli-minilm"))
from common import ASSETS

from autolr.forms import MATRIX_FORMS
from autolr.progress import Silent
from autolr.workflows.compare import Comparison, compare

METHODS = ("svd", "fwsvd", "asvd", "drone", "afm", "kfac", "losparse")
SHARES = {"train": 0.55, "validation": 0.25, "test": 0.2}


def stretches(folder: Path) -> dict[str, str]:
    """Write the three stretches of the text and return their files."""
    text = (ASSETS / "data/lm/tinystories_valid_head.txt").read_text(encoding="utf-8")
    files, start = {}, 0.0
    for name, share in SHARES.items():
        file = folder / f"{name}.txt"
        file.write_text(text[int(start * len(text)) : int((start + share) * len(text))], encoding="utf-8")
        files[name], start = str(file), start + share
    return files


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    entries = [{"name": f"uniform {m}", "space": "uniform", "methods": [m], "refit": False} for m in METHODS]
    forms = {"forms": MATRIX_FORMS}
    entries += [{"name": f"searched {m}", "methods": [m], "refit": False, **forms} for m in METHODS]
    entries += [{"name": "searched kfac, refitted", "methods": ["kfac"], "refit": True, **forms}]
    sizes = {"calibration_examples": 400, "search_examples": 200, "selection_examples": 200}
    plain = {
        "model": str(ASSETS / "models/stories260k-llama"),
        "task": "lm",
        "data": {**stretches(folder), **sizes},
        "run": {"seq_len": 256, "threads": 1, "scoring_batch_size": 16},
        "budgets": ["0.8x-nonembedding-params", "0.6x-nonembedding-params"],
        "multiple": 1,
        "trials": 20,
        "seeds": [0, 1, 2],
        "entries": entries,
    }
    summary = compare(Comparison.model_validate_json(json.dumps(plain)), folder / "studies", Silent()).to_json()
    rows = [{name: value for name, value in row.items() if name != "trace"} for row in summary["rows"]]
    Path(__file__).with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    cells: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        cells.setdefault((row["entry"], row["budget"]), []).append(row["perplexity"])
    for (entry, budget), found in cells.items():
        print(f"{entry:26} {budget:26} {mean(found):8.2f} of {', '.join(f'{one:.2f}' for one in found)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
