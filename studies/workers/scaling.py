"""Trials per minute of one and two workers beside the loop in one process, taken in turn.

    python studies/workers/scaling.py ROUNDS     # writes scaling.json beside this file

The embedded example at 0.5x FLOPs, 100 trials, random candidates that are all scored on everything (so that all trials
cost about the same and proposals nothing). Rates are those of the last 60: the start of Ray and of the workers is left
out. One thread a worker.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from optuna.trial import TrialState

from autolr.optimization.study.folder import StudyFolder
from autolr.progress import Silent
from autolr.spec.study import make_spec
from autolr.workflows.search import run_search

TRIALS, COUNTED = 100, 60
KINDS = {"in process": {}, "1 worker": {"workers": 1, "ray_address": "local"}, "2 workers": {"workers": 2}}


def seconds_per_trial(crew: dict, folder: Path, bank: Path) -> tuple[float, float]:
    """Return the seconds from one result to the next, and of them those spent on evaluating (mean over the trials)."""
    search = {"sampler": "random", "space": "per-layer", "racing": False, "refit": False}
    plain = {"budgets": ["0.5x-flops"], "trials": TRIALS, "run": {"threads": 1}, "search": search, "crew": crew}
    study = StudyFolder(folder)
    study.bank = bank
    run_search(make_spec(plain, "scaling"), study, Silent(), checkpoint=False)
    trials = [t for t in study.load_study().trials if t.state == TrialState.COMPLETE]
    ends = sorted(t.datetime_complete.timestamp() for t in trials)[-COUNTED:]
    worked = [sum(t.user_attrs["seconds"].values()) for t in trials[-COUNTED:]]
    return (ends[-1] - ends[0]) / (len(ends) - 1), statistics.mean(worked)


def main(rounds: int) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(rounds):
            row = {}
            for name, crew in KINDS.items():
                began = time.monotonic()
                each, worked = seconds_per_trial(crew, Path(scratch) / f"{name} {turn}", Path(scratch) / "bank")
                row[name] = {"seconds a trial": each, "evaluating": worked, "whole run": time.monotonic() - began}
            row["2 against 1"] = row["1 worker"]["seconds a trial"] / row["2 workers"]["seconds a trial"]
            row["2 against in process"] = row["in process"]["seconds a trial"] / row["2 workers"]["seconds a trial"]
            row["overhead of a worker, s"] = row["1 worker"]["seconds a trial"] - row["in process"]["seconds a trial"]
            rows.append(row)
            print(json.dumps(row), flush=True)
            Path(__file__).with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
