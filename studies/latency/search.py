"""The checkpoints that ``autolr search --budget 0.5x-latency`` and ``0.35x-latency`` export: time and accuracy.

Runs the command itself, 24 trials, for each profile and budget, and collects what it measured: the exported checkpoint
against the dense model in a process of its own, accuracy on snli_test.
Writes search.json. ``python studies/latency/search.py FOLDER [PROFILE:BUDGET …]``
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from common import DATA, MODEL, PROFILES, THREADS

OUT = Path(__file__).parent / "search.json"
DEFAULT = [f"{profile}:{budget}x-latency" for profile in PROFILES for budget in ("0.5", "0.35")]


def main(folder: Path, wanted: list[str]) -> None:
    rows = json.loads(OUT.read_text()) if OUT.exists() else {}
    for one in wanted:
        profile, budget = one.split(":")
        study = folder / f"{profile}-{budget}"
        sizes = PROFILES[profile]
        command = [sys.executable, "-c", "from autolr.cli import app; app()", "search", "--model", str(MODEL)]
        for part, path in DATA.items():
            command += [f"--{part}", str(path)]
        command += ["--budget", budget, "--batch-size", str(sizes["batch_size"]), "--seq-len", str(sizes["seq_len"])]
        command += ["--threads", str(THREADS), "--trials", "24", "--study", str(study), "--offline", "--json"]
        started = time.time()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        result = json.loads(done.stdout)
        table = json.loads((study / "latency.json").read_text())["table"]
        winner = next(m for m in result["members"] if m["trial"] == result["winner"])
        report = result["report"]
        rows[one] = {
            "exit_code": done.returncode,
            "seconds": round(time.time() - started),
            "winner": result["winner"],
            "predicted_ratio": winner["costs"]["ratio"]["latency"],
            "tried": [[m["trial"], m["latency"]["ratio"]] for m in result["members"] if "latency" in m],
            "fresh_process": report["latency"],
            "flops_ratio": winner["costs"]["ratio"]["flops"],
            "accuracy": report["compressed"]["accuracy"],
            "dense_accuracy": report["dense"]["accuracy"],
            "accuracy_ratio": report["accuracy_ratio"],
            "accuracy_difference": report["accuracy_difference"],
            "checks": table["checks"],
            "dense_ms": table["dense_ms"],
        }
        OUT.write_text(json.dumps(rows, indent=1) + "\n")
        short = {k: rows[one][k] for k in ("exit_code", "seconds", "predicted_ratio", "flops_ratio", "accuracy_ratio")}
        print(one, short, rows[one]["fresh_process"], flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or DEFAULT)
