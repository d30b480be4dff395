"""Runs the parts one after another, each in a process of its own and within its share of the time, and writes OUT.

What a part leaves of its time goes to the next ones. Each is told how long it has and ends by itself; one that does not
is ended, and what it had written by then counts.
"""

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tables import as_markdown

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TOTAL = 480.0
"""Seconds of everything, from the start of run.sh."""
REHEARSAL = 240.0
GRACE = 8.0
"""Seconds that a part has for ending after its time is over."""
LIBRARIES = ("torch", "transformers", "botorch", "gpytorch", "optuna", "datasets", "numpy", "ray")


@dataclass(frozen=True)
class PartKind:
    """A part: its script beside this one, its share of the seconds, in a rehearsal, and the least it is begun with."""

    name: str
    script: str
    share: float
    rehearsal: float
    least: float

    def seconds(self, rehearse: bool) -> float:
        """Return its share."""
        return self.rehearsal if rehearse else self.share


PARTS = (
    PartKind("tests", "checks.py", 85.0, 90.0, 30.0),
    PartKind("search", "search.py", 85.0, 30.0, 30.0),
    PartKind("workers", "workers.py", 65.0, 45.0, 30.0),
    PartKind("shape", "shape.py", 165.0, 40.0, 30.0),
    PartKind("layers", "layers.py", 60.0, 25.0, 10.0),
)


def machine(rehearse: bool) -> dict[str, Any]:
    """Return what ran: libraries, processor, GPU."""
    import torch

    found: dict[str, Any] = {"python": platform.python_version(), "cores": os.cpu_count()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    found["device"] = "cpu" if rehearse else torch.cuda.get_device_name()
    return found


def without_places(text: str) -> str:
    """Return a message without the folders of this machine."""
    return re.sub(r"(?<![\w.])/(?:[\w.+-]+/)+", "", text)


def run(kind: PartKind, seconds: float, folder: Path, rehearse: bool, log: Path) -> dict[str, Any]:
    """Run a part and return its figures, how it ended and how long it took."""
    out = folder / f"{kind.name}.json"
    command = [sys.executable, str(HERE / kind.script), "--out", str(out), "--seconds", f"{seconds:.1f}"]
    command += ["--scratch", str(folder), *["--rehearse"] * rehearse]
    began = time.monotonic()
    with log.open("a") as stream:
        stream.write(f"\n== {kind.name}, {seconds:.0f} s\n")
        stream.flush()
        place = stream.tell()
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code: int | None = process.wait(seconds + GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the part's own processes, which are a group
            process.wait()
            code = None
    taken = round(time.monotonic() - began, 1)
    figures = json.loads(out.read_text()) if out.exists() else None
    ended = "in time" if code == 0 else "by the clock" if code is None else "failed"
    found: dict[str, Any] = {"ended": ended, "seconds": taken, "given": round(seconds, 1), "figures": figures}
    if code:
        said = log.read_bytes()[place:].decode(errors="replace").strip().splitlines()
        found["said"] = without_places(said[-1]) if said else f"exit status {code}"
        if "Absent: " in found["said"]:
            found |= {"ended": "skipped", "said": found["said"].partition("Absent: ")[2]}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on the CPU")
    parser.add_argument("--part", action="append", choices=[kind.name for kind in PARTS], help="only this; repeatable")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    log = given.out / "log.txt"
    log.write_text("")
    before = max(0.0, time.time() - float(os.environ.get("AUTOLR_GPU_STARTED", time.time())))
    total = REHEARSAL if given.rehearse else TOTAL
    over = time.monotonic() + total - before
    import torch

    if not given.rehearse and not torch.cuda.is_available():
        print("torch finds no CUDA device here; --rehearse runs tiny sizes on the CPU", file=sys.stderr)
        return 2
    result: dict[str, Any] = {"machine": machine(given.rehearse), "rehearsal": given.rehearse, "parts": {}}
    kinds = [kind for kind in PARTS if given.part is None or kind.name in given.part]
    with tempfile.TemporaryDirectory(prefix="autolr-gpu-") as scratch:
        for number, kind in enumerate(kinds):
            left = over - time.monotonic() - GRACE
            later = sum(other.seconds(given.rehearse) for other in kinds[number + 1 :])
            seconds = max(kind.seconds(given.rehearse), left - later)  # what others left of their time is at hand
            if left < kind.least:
                result["parts"][kind.name] = {"ended": "skipped", "said": "the time was over", "seconds": 0.0}
            else:
                result["parts"][kind.name] = run(kind, min(seconds, left), Path(scratch), given.rehearse, log)
            result["seconds"] = round(total - (over - time.monotonic()), 1)
            (given.out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
            (given.out / "gpu.md").write_text(as_markdown(result))
            part = result["parts"][kind.name]
            print(f"{kind.name}: {part['ended']}, {part['seconds']} s {part.get('said', '')}", flush=True)
    print((given.out / "gpu.md").read_text())
    failed = [name for name, part in result["parts"].items() if part["ended"] == "failed"]
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
