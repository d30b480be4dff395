"""What three studies find, trial by trial, to the last digit: a change that should change no result is held against it.

    python studies/recorded/record.py FOLDER            # runs them in FOLDER and writes FOLDER/recorded.json
    python studies/recorded/record.py FOLDER --check    # and compares with recorded.json beside this script
    python studies/recorded/record.py FOLDER --check --study embedded    # one of them alone

Digest, costs and scores of every trial, the winner, the report and a checksum of each exported tensor. One thread, seed
0. Digits are of one kind of processor: record on the machine that checks.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).parents[1] / "nli-minilm"))
from common import ASSETS

OUT = Path(__file__).with_name("recorded.json")
NLI = {"train": "snli_train", "validation": "snli_validation", "test": "snli_test"}
TEXT = {"train": (0.0, 0.5), "validation": (0.5, 0.75), "test": (0.75, 1.0)}
STUDIES = ("embedded", "minilm", "stories260k")
CLOSE = 1e-6
"""Difference of a score that another order of summation explains."""


def options(name: str, folder: Path) -> list[str]:
    """Return a study's options beside thread and seed."""
    if name == "embedded":
        return ["--budget", "0.5x-flops"]
    if name == "minilm":
        files = {part: ASSETS / f"data/nli/{file}.jsonl.gz" for part, file in NLI.items()}
        rest = ["--model", str(ASSETS / "models/minilm-nli"), "--budget", "0.35x-flops", "--trials", "12"]
    else:
        text = (ASSETS / "data/lm/tinystories_valid_head.txt").read_text(encoding="utf-8")
        files = {part: folder / f"{part}.txt" for part in TEXT}
        for part, (start, end) in TEXT.items():
            files[part].write_text(text[int(start * len(text)) : int(end * len(text))], encoding="utf-8")
        rest = ["--model", str(ASSETS / "models/stories260k-llama"), "--task", "lm", "--trials", "6"]
        rest += ["--budget", "0.8x-nonembedding-params"]
    return [*rest, *(text for part, file in files.items() for text in (f"--{part}", str(file)))]


def record(name: str, folder: Path) -> dict[str, Any]:
    """Run a study and return what it found."""
    study = folder / name
    began = time.perf_counter()
    command = [sys.executable, "-m", "autolr", "search", *options(name, folder), "--study", str(study)]
    subprocess.run([*command, "--threads", "1", "--seed", "0", "--offline"], check=True)
    seconds = time.perf_counter() - began
    files = sorted((study / "trials").glob("*.json"), key=lambda file: int(file.stem))
    trials = [{key: json.loads(file.read_text())[key] for key in ("digest", "costs", "scores")} for file in files]
    result = json.loads((study / "result.json").read_text())
    tensors = {}
    for file in sorted((study / result["checkpoint"]).glob("*.safetensors")):
        with safe_open(file, framework="np") as weights:
            for key in weights.keys():  # noqa: SIM118  not a dict
                tensors[key] = hashlib.sha256(weights.get_tensor(key).tobytes()).hexdigest()[:16]
    report = {key: value for key, value in result["report"].items() if key != "data"}  # a path of this machine
    winner = {"winner": result["winner"], "report": report, "tensors": tensors}
    return {"seconds": round(seconds, 1), "trials": trials, **winner}


def differences(name: str, known: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return what is not as it was."""
    lines = []
    if known["winner"] != found["winner"] or len(known["trials"]) != len(found["trials"]):
        lines.append(f"{name}: winner {known['winner']} of {len(known['trials'])} trials was, now {found['winner']}")
    for number, (was, now) in enumerate(zip(known["trials"], found["trials"], strict=False)):
        if was["digest"] != now["digest"] or was["costs"] != now["costs"]:
            lines.append(f"{name}, trial {number}: another candidate or cost")
            continue
        gap = max(abs(was["scores"][key]["value"] - now["scores"][key]["value"]) for key in was["scores"])
        if gap > CLOSE:
            lines.append(f"{name}, trial {number}: a score differs by {gap:.2g}")
    old, new = known["tensors"], found["tensors"]
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if changed:
        lines.append(f"{name}: {len(changed)} of {len(old)} exported tensors differ, {changed[0]} first")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--study", choices=STUDIES, action="append", help="one of the studies; repeatable; none: all")
    given = parser.parse_args()
    folder, check = given.folder, given.check
    folder.mkdir(parents=True, exist_ok=True)
    found = {name: record(name, folder) for name in given.study or STUDIES}
    (folder / OUT.name).write_text(json.dumps(found, indent=1) + "\n")
    if not check:
        return 0
    known = json.loads(OUT.read_text())
    lines = [line for name in found for line in differences(name, known[name], found[name])]
    for name in found:
        print(f"{name}: {found[name]['seconds']} s, {known[name]['seconds']} s when recorded")
    print("\n".join(lines) or "all as recorded")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
