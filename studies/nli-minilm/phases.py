"""Where the time of a whole search goes: the command ``autolr search``, from its start to the exported checkpoint.

The bank is built beforehand (statistics and decompositions; nothing else is kept). A phase begins with the line that
the command prints for it, and its processor time is what the command's process has used by then.
``python studies/nli-minilm/phases.py FOLDER NAME [SEED]`` adds the measurement NAME to phases.json;
``python studies/nli-minilm/phases.py`` prints the tables.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

OUT = Path(__file__).with_name("phases.json")
TRIALS = 40
BUDGET = "0.2x-flops"
LATER = ("scales", "dense", "refit")
"""Folders of a bank that a search fills."""
_TICK = os.sysconf("SC_CLK_TCK")


def bank_of(folder: Path, seed: int, threads: int) -> Path:
    """Return a folder with the complete bank of a seed."""
    from common import Lines, spec

    from autolr.forms import FORMS
    from autolr.optimization.preparation import build_bank
    from autolr.problem import open_inputs

    directory = folder / f"bank-{seed}"
    forms = [form.name for form in FORMS]
    asked = spec(seed=seed, run={"threads": threads, "offline": True}, search={"forms": forms})
    build_bank(open_inputs(asked, Lines()), directory, Lines())
    return directory


def command(study: Path, seed: int, threads: int) -> list[str]:
    """Return the command that is measured."""
    from common import ASSETS

    data = {part: str(ASSETS / f"data/nli/snli_{part}.jsonl.gz") for part in ("train", "validation", "test")}
    options = {"model": str(ASSETS / "models/minilm-nli"), **data, "budget": BUDGET, "trials": TRIALS, "seed": seed}
    options |= {"threads": threads, "study": study}
    return [sys.executable, "-m", "autolr", "search", "--offline", *(f"--{k}={v}" for k, v in options.items())]


def processor_seconds(pid: int) -> float:
    """Return what a process has used until now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / _TICK


def phase_of(line: str) -> str | None:
    """Return the name of the phase that a line begins, without what differs from one to the next."""
    if not line.rstrip().endswith(" ..."):
        return None
    name = re.sub(r"/\S+", "FOLDER", line.strip().removesuffix(" ..."))
    return re.sub(r"\d+(, \d+)*", "N", name.replace("trials", "trial"))


def measured(arguments: list[str], log: Path) -> dict[str, Any]:
    """Run the command and return its phases in order: how often each began, wall and processor seconds."""
    phases: dict[str, dict[str, float]] = {}
    began = last = time.perf_counter()
    phase, used = "start", 0.0

    def close(now: float, processor: float) -> None:
        row = phases.setdefault(phase, {"times": 0, "wall seconds": 0.0, "processor seconds": 0.0})
        row["times"] += 1
        row["wall seconds"] += now - last
        row["processor seconds"] += processor - used

    with (
        log.open("w", buffering=1) as lines,
        subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process,
    ):
        assert process.stderr is not None
        for line in process.stderr:
            now = time.perf_counter()
            lines.write(f"{now - began:7.2f} {line}")
            found = phase_of(line)
            if found is not None:
                processor = processor_seconds(process.pid)
                close(now, processor)
                phase, last, used = found, now, processor
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        close(time.perf_counter(), usage.ru_utime + usage.ru_stime)
    if process.returncode:
        raise SystemExit(f"the command failed, see {log}")
    total = {"wall seconds": time.perf_counter() - began, "processor seconds": usage.ru_utime + usage.ru_stime}
    return {**total, "peak MB": usage.ru_maxrss / 1024, "phases": phases}


def table(name: str, row: dict[str, Any]) -> None:
    """Print a measurement."""
    print(
        f"{name}: {row['wall seconds']:.0f} s, {row['processor seconds']:.0f} s of processor, {row['threads']} threads"
    )
    for phase, part in row["phases"].items():
        print(f"{part['wall seconds']:8.1f} {part['processor seconds']:8.1f} {part['times']:3} x {phase}")


def main(folder: Path, name: str, seed: int) -> None:
    threads = int(os.environ.get("THREADS", "2"))
    bank, study = bank_of(folder, seed, threads), folder / f"study-{name}-{seed}"
    shutil.rmtree(study, ignore_errors=True)
    study.mkdir()
    shutil.copytree(bank, study / "bank", ignore=shutil.ignore_patterns(*LATER))
    row = {"seed": seed, "threads": threads, "load before": os.getloadavg()[0]}
    row |= measured(command(study, seed, threads), folder / f"{name}-{seed}.log")
    result = json.loads((study / "result.json").read_text())
    row |= {"winner": result["winner"], "report": result["report"]["compressed"]}
    rows = json.loads(OUT.read_text()) if OUT.is_file() else {}
    OUT.write_text(json.dumps(rows | {name: row}, indent=1) + "\n")
    table(name, row)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    else:
        for each, found in json.loads(OUT.read_text()).items():
            table(each, found)
