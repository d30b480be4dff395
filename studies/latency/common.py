"""What the scripts of this study share: the model and data, named by environment, and the two profiles."""

import os
from pathlib import Path

from autolr.progress import Silent
from autolr.spec.study import StudySpec, make_spec

ASSETS = Path(os.environ.get("AUTOLR_ASSETS", Path(__file__).parents[3] / "shared"))
MODEL = ASSETS / "models" / "minilm-nli"
DATA = {part: ASSETS / f"data/nli/snli_{part}.jsonl.gz" for part in ("train", "validation", "test")}
THREADS = int(os.environ.get("THREADS", "2"))
PROFILES = {"8x32": {"batch_size": 8, "seq_len": 32}, "8x128": {"batch_size": 8, "seq_len": 128}}


class Lines(Silent):
    """Prints each phase."""

    def start(self, phase: str) -> None:
        print(f"  {phase}", flush=True)


def spec(profile: str, budget: str, seed: int = 0) -> StudySpec:
    """Return a specification of this study."""
    plain = {
        "model": str(MODEL),
        "data": {part: str(path) for part, path in DATA.items()},
        "budgets": [budget],
        "seed": seed,
        "run": {"threads": THREADS, "offline": True, **PROFILES[profile]},
    }
    return make_spec(plain, "study")
