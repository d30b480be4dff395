"""What the parts share: their arguments, their deadline, what they write, the study of part two and three."""

import argparse
import json
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from nli_fixture import write_inputs  # noqa: E402  of the tests

from autolr.errors import Stopped  # noqa: E402
from autolr.progress import Silent  # noqa: E402
from autolr.spec.study import StudySpec, make_spec  # noqa: E402

ASSETS = Path(os.environ.get("AUTOLR_ASSETS", ROOT.parent / "shared"))
NLI = {part: ASSETS / f"data/nli/snli_{part}.jsonl.gz" for part in ("train", "validation", "test")}
MODEL = ASSETS / "models/minilm-nli"
BEGAN = time.monotonic()


class Absent(Exception):
    """Something that a part needs is not there; the message says what."""


@dataclass(frozen=True)
class Part:
    """What a part is told.

    Attributes:
        out: file for its figures.
        seconds: that it has.
        rehearse: tiny sizes, on the CPU.
        scratch: folder that the parts share.
    """

    out: Path
    seconds: float
    rehearse: bool
    scratch: Path

    @classmethod
    def told(cls) -> "Part":
        """Read the command line."""
        parser = argparse.ArgumentParser()
        parser.add_argument("--out", type=Path, required=True)
        parser.add_argument("--seconds", type=float, required=True)
        parser.add_argument("--scratch", type=Path, required=True)
        parser.add_argument("--rehearse", action="store_true")
        given = parser.parse_args()
        return cls(given.out, given.seconds, given.rehearse, given.scratch)

    @property
    def device(self) -> torch.device:
        """The GPU; in a rehearsal the CPU."""
        return torch.device("cpu" if self.rehearse else "cuda")

    def left(self) -> float:
        """Seconds until its time is over."""
        return self.seconds - (time.monotonic() - BEGAN)

    def write(self, **figures: Any) -> None:
        """Write what is measured so far, so that a part that is ended leaves it."""
        temporary = self.out.with_suffix(".new")
        temporary.write_text(json.dumps(figures, indent=1) + "\n")
        temporary.replace(self.out)


class Phases(Silent):
    """Times the phases of a study, and ends it when its part's time is over.

    Attributes:
        part: whose time it is.
        reserve: seconds of it that are left for what comes after.
        seconds: phase -> seconds, without numbers and what follows them.
    """

    def __init__(self, part: Part, reserve: float = 0.0) -> None:
        self.part, self.reserve, self.seconds = part, reserve, {}
        self._phase, self._since = "", 0.0

    def start(self, phase: str) -> None:
        self.end()
        print(f"  {time.monotonic() - BEGAN:6.1f} s  {phase}", flush=True)
        words = re.split("[:,]| by | on | to ", phase)[0].split()
        self._phase, self._since = " ".join(word for word in words if not word.isdecimal()), time.monotonic()

    def end(self) -> None:
        """The phase under way is over."""
        if self._phase:
            self.seconds[self._phase] = round(self.seconds.get(self._phase, 0.0) + time.monotonic() - self._since, 2)
        self._phase = ""

    def check(self) -> None:
        if self.part.left() < self.reserve:
            raise Stopped("its time is over")


def study_spec(part: Part, device: torch.device, **changes: Any) -> StudySpec:
    """Return the specification of the study that part two runs, and whose bank part three uses.

    Raises:
        Absent: the model or the data is not there.
    """
    run = {"device": str(device), "threads": 1, "offline": True}
    if part.rehearse:
        options = write_inputs(part.scratch / "inputs")
        plain = {
            "model": options["--model"],
            "data": {name: options[f"--{name}"] for name in NLI} | {"search_examples": 40, "selection_examples": 40},
            "budgets": ["0.6x-flops"],
            "trials": 8,
            "search": {"multiple": 2},
        }
    else:
        if missing := [path.name for path in (MODEL, *NLI.values()) if not path.exists()]:
            raise Absent(f"{', '.join(missing)} not in AUTOLR_ASSETS")
        data = {name: str(path) for name, path in NLI.items()}
        plain = {"model": str(MODEL), "data": data, "budgets": ["0.35x-flops"], "trials": 20}
    return make_spec({**plain, "run": run, **changes}, "study")
