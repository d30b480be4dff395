"""What the scripts of this study share: the inputs, named by environment, and small helpers."""

import os
from pathlib import Path
from typing import Any

from autolr.forms import MATRIX_FORMS
from autolr.progress import Silent
from autolr.spec.study import StudySpec, make_spec

ASSETS = Path(os.environ.get("AUTOLR_ASSETS", Path(__file__).parents[3] / "shared"))
"""Holds models/minilm-nli and data/nli/snli_{train,validation,test}.jsonl.gz; see README.md."""


class Lines(Silent):
    """Prints each phase."""

    def start(self, phase: str) -> None:
        print(f"  {phase}", flush=True)

    def note(self, text: str) -> None:
        print(f"  note: {text}", flush=True)


def spec(**changes: object) -> StudySpec:
    """Return the study's specification: 1,024 calibration pairs, 1,000 search and 1,000 selection pairs.

    Layers are compressed one by one, as they were when these studies were made, unless ``search`` names other forms.
    """
    plain: dict[str, Any] = {
        "model": str(ASSETS / "models" / "minilm-nli"),
        "data": {
            "train": str(ASSETS / "data/nli/snli_train.jsonl.gz"),
            "validation": str(ASSETS / "data/nli/snli_validation.jsonl.gz"),
            "test": str(ASSETS / "data/nli/snli_test.jsonl.gz"),
        },
        "budgets": ["0.2x-flops"],
        "run": {"threads": int(os.environ.get("THREADS", "2")), "offline": True},
        **changes,
    }
    plain["search"] = {"forms": MATRIX_FORMS, **dict(plain.get("search", {}))}
    return make_spec(plain, "study")
