"""How much memory the bank takes in the workers of a node: the proportional set size of what they map of it.

    python studies/workers/memory.py WORKERS...     # 1 2 4; writes memory.json; needs the inputs of studies/nli-minilm

MiniLM, five methods; while trials run, the kernel's account of every worker (/proc/<pid>/smaps) is read again and again
and the largest total kept. A page that several processes map counts for each with its share.
"""

import json
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "nli-minilm"))
from common import spec

from autolr.optimization.study.folder import StudyFolder
from autolr.progress import Silent
from autolr.workflows.search import run_search

METHODS = ["kfac", "losparse", "drone", "asvd", "svd"]


def mapped(bank: Path) -> list[dict[str, int]]:
    """Return for each worker the bytes it maps of the bank: resident, and its share of them."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray::" not in (path / "cmdline").read_bytes():
                continue
            lines = (path / "smaps").read_text().splitlines()
        except OSError:
            continue
        inside, one = False, {"Rss": 0, "Pss": 0}
        for line in lines:
            name, _, rest = line.partition(":")
            if name in one and inside:
                one[name] += int(rest.split()[0]) * 1024
            elif "-" in line.split(" ", 1)[0]:
                inside = str(bank) in line
        if one["Rss"]:
            found.append(one)
    return found


def measure(workers: int, folder: Path, bank: Path) -> dict[str, float]:
    best: dict[str, float] = {"workers": 0, "Rss": 0, "Pss": 0}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.3):
            now = mapped(bank)
            total = {"workers": len(now), **{name: sum(one[name] for one in now) for name in ("Rss", "Pss")}}
            if total["Rss"] > best["Rss"]:
                best.update(total)

    thread = threading.Thread(target=watch)
    thread.start()
    study = StudyFolder(folder)
    study.bank = bank
    search = {"methods": METHODS, "sampler": "random", "space": "per-layer", "racing": False, "refit": False}
    data = {"search_examples": 100, "selection_examples": 100}
    plain = spec(budgets=["0.5x-flops"], trials=8 * workers + 6, search=search).model_dump(mode="json")
    plain["data"] |= data
    plain["run"]["threads"] = 1
    plain["crew"] |= {"workers": workers, "ray_address": "local" if workers == 1 else None}
    run_search(type(spec(budgets=["0.5x-flops"])).model_validate_json(json.dumps(plain)), study, Silent(), False)
    over.set()
    thread.join()
    size = sum(path.stat().st_size for path in bank.rglob("*.safetensors") if path.parent.name in METHODS)
    return {**best, "asked": workers, "decompositions on disk": size}


def main(counts: list[int]) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for workers in counts:
            rows.append(measure(workers, Path(scratch) / str(workers), Path(scratch) / "bank"))
            print(json.dumps(rows[-1]), flush=True)
            Path(__file__).with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
            time.sleep(1)


if __name__ == "__main__":
    main([int(count) for count in sys.argv[1:]])
