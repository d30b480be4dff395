"""Part 4: calibrating and factorizing a random decoder of Llama-2-7B's shape, extrapolated to its 32 blocks.

One block is done first, then as many as its time promises to fit; what a block more takes follows from the two.
"""

import json
import shutil
import subprocess
import sys
from typing import Any

from common import ROOT, Part

BLOCKS = 32
PROGRAM = ROOT / "studies/streaming/shape.py"
BYTES_OF_A_BLOCK = 6e9
MOST = 8


def measured(part: Part, blocks: int) -> dict[str, Any]:
    """Run the study of streaming on so many blocks, for as long as there is time."""
    out, bank = part.scratch / f"shape-{blocks}.json", part.scratch / "shape"
    command = [sys.executable, str(PROGRAM), str(bank), "--blocks", str(blocks), "--device", str(part.device)]
    command += ["--out", str(out), "--seconds", str(part.left() - 5)]
    command += ["--small", "--batches", "2", "--rows", "2", "--length", "16"] if part.rehearse else []
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    shutil.rmtree(bank, ignore_errors=True)
    if not out.exists():
        raise RuntimeError(f"shape.py ended with {done.returncode} before it measured anything")
    return json.loads(out.read_text())


def minutes(run: dict[str, Any]) -> dict[str, float]:
    """Return the minutes of the two halves, extended to the whole where its time was over before."""
    halves = {"calibrate": run["calibrate_minutes"] / max(run["calibrate_share"], 1e-9)}
    if run.get("factorize_share"):
        halves["factorize"] = run["factorize_minutes"] / run["factorize_share"]
    return halves


def extrapolated(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return the minutes of all 32 blocks: from two runs by what a block more takes, from one by proportion."""
    first, last = runs[0], runs[-1]
    more = last["shape"]["blocks"] - first["shape"]["blocks"]
    found = {}
    for half, start in minutes(first).items():
        end = minutes(last).get(half)
        each = (end - start) / more if more and end is not None else start / first["shape"]["blocks"]
        found[half] = round(start + (BLOCKS - first["shape"]["blocks"]) * max(each, 0.0), 2)
    return found


def main() -> None:
    part = Part.told()
    before = part.left()
    runs = [measured(part, 1)]
    part.write(runs=runs, all_blocks_minutes=extrapolated(runs))
    took = before - part.left()
    fits = min(MOST, int((part.left() - 10) / took), int(shutil.disk_usage(part.scratch).free / BYTES_OF_A_BLOCK))
    fits = 2 if part.rehearse else fits
    if fits >= 2 and runs[0].get("factorize_share") == 1.0:
        runs.append(measured(part, fits))
    part.write(runs=runs, all_blocks_minutes=extrapolated(runs))


if __name__ == "__main__":
    main()
