"""What each exact rewrite gains: a checkpoint of search.py with and without it, and the dense model with all of them.

All forms of one profile are timed in turn in one process. Writes rewriting.json.
``python studies/latency/rewriting.py FOLDER [PROFILE ...]``
"""

import json
import sys
from pathlib import Path

from common import MODEL, PROFILES, THREADS, Lines

from autolr.checkpoint.load import load_checkpoint
from autolr.checkpoint.runtime import rewrites
from autolr.cost.forward import shared_copy, time_models
from autolr.types import Conditions

OUT = Path(__file__).parent / "rewriting.json"
SECONDS = 60.0


def main(folder: Path, profiles: list[str]) -> None:
    rows = json.loads(OUT.read_text()) if OUT.exists() else {}
    for profile in profiles:
        study = folder / f"{profile}-0.35x-latency"
        result = json.loads((study / "result.json").read_text())
        dense, small = load_checkpoint(MODEL), load_checkpoint(study / result["checkpoint"])
        models = {"dense": dense, "compressed": small}
        for name in rewrites.REWRITES:
            without = shared_copy(small)
            rewrites.undo(without, (name,))
            models[f"compressed, without {name}"] = without
        models["compressed, without both"] = shared_copy(small)
        rewrites.undo(models["compressed, without both"])
        models["dense, with both"] = shared_copy(dense)
        for name in rewrites.REWRITES:
            assert rewrites.apply(models["dense, with both"], name)
        sizes = PROFILES[profile]
        conditions = Conditions(sizes["batch_size"], sizes["seq_len"], "float32", threads=THREADS)
        timed = time_models(models, conditions, 0.005, SECONDS, Lines())
        rows[profile] = {name: [one.ratio, one.ratio_low, one.ratio_high] for name, one in timed.items()}
        print(profile, {name: [round(x, 3) for x in row] for name, row in rows[profile].items()}, flush=True)
        OUT.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(PROFILES))
