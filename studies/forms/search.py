"""What the default command finds with all forms, and what its search adds to the knapsack's own solution.

    python studies/forms/search.py FOLDER SEED BUDGET ...    # 40 trials each; writes studies/forms/search.json
    python studies/forms/search.py                           # prints the table

``FOLDER`` holds the studies, of which those of a seed share a bank. The winner was chosen on the selection part; it and
the knapsack's solution, both refitted, are scored on ``snli_test`` and on pairs of ``snli_train`` that neither
calibration nor search used. Differences are paired; their standard error is over the pairs.
"""

import json
import os
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "nli-minilm"))
from common import ASSETS, Lines

from autolr.data.nli import Columns, load_nli
from autolr.model.inputs import pair_batches
from autolr.optimization.study.folder import StudyFolder
from autolr.recovery.base import recovered
from autolr.scores.built_in import divergence
from autolr.spec.study import make_spec
from autolr.tasks import mean_score
from autolr.tasks.class_scorer import ClassScorer, predict
from autolr.types import Candidate
from autolr.workflows.finalists import changes_of
from autolr.workflows.search import open_study, run_search

FILE = Path(__file__).with_name("search.json")
TRIALS, UNSEEN = 40, 4000


def row_of(folder: Path, seed: int, budget: str) -> dict[str, Any]:
    """Run a study and return what its winner and the knapsack's solution reach."""
    study = StudyFolder(folder / f"{budget}-{seed}")
    plain: dict[str, Any] = {
        "model": str(ASSETS / "models" / "minilm-nli"),
        "data": {
            "train": str(ASSETS / "data/nli/snli_train.jsonl.gz"),
            "validation": str(ASSETS / "data/nli/snli_validation.jsonl.gz"),
            "test": str(ASSETS / "data/nli/snli_test.jsonl.gz"),
        },
        "budgets": [budget],
        "trials": TRIALS,
        "seed": seed,
        "run": {"threads": int(os.environ.get("THREADS", "1")), "offline": True},
    }
    kept = folder / f"bank-{seed}"
    if kept.is_dir() and not study.bank.is_dir():
        shutil.copytree(kept, study.bank)
    began = time.monotonic(), time.process_time()
    result = run_search(make_spec(plain, "study"), study, Lines())
    seconds = {"wall": time.monotonic() - began[0], "processor": time.process_time() - began[1]}
    shutil.copytree(study.bank, kept, dirs_exist_ok=True)
    opened = open_study(study, Lines())
    trials = study.load_study().trials
    first = next(t for t in trials if t.user_attrs.get("origin") == "knapsack 0")
    winner = Candidate.from_json(trials[result.winner].user_attrs["candidate"])
    solution = Candidate.from_json(first.user_attrs["candidate"])
    inputs = opened.inputs
    train = load_nli(inputs.spec.data.train, columns=Columns(), label2id=inputs.model.config.label2id)
    used = set(inputs.parts.calibration.premises)
    unseen = train.select(i for i, premise in enumerate(train.premises) if premise not in used).take(UNSEEN, 7)
    row: dict[str, Any] = {"seed": seed, "budget": budget, "winner": result.winner, "seconds": seconds}
    row["forms"] = {unit: choice.form for unit, choice in winner.choices}
    for name, data in {"snli_test": inputs.parts.report, "snli_train, unseen": unseen}.items():
        scorer = ClassScorer.of(inputs.model, pair_batches(inputs.tokenizer, data, 64, inputs.max_length))
        logits = []
        for candidate in (solution, winner):
            changes = changes_of(inputs, opened.bank, candidate, Lines())
            with recovered(inputs.model, candidate, opened.bank, changes) as small:
                logits.append(predict(small, scorer.batches))
        kl = [divergence(scorer.dense, x) for x in logits]
        right = [(x.argmax(-1) == scorer.labels).double() for x in logits]
        drop, gain = mean_score(kl[1] - kl[0]), mean_score(right[1] - right[0])
        row[name] = {
            "n": len(data),
            "dense accuracy": scorer.compare(scorer.dense)["accuracy"].value,
            "knapsack": {score: value.to_json() for score, value in scorer.compare(logits[0]).items()},
            "winner": {score: value.to_json() for score, value in scorer.compare(logits[1]).items()},
            "divergence change": [drop.value, drop.stderr],
            "accuracy gain": [gain.value, gain.stderr],
        }
    return row


def table() -> None:
    """Print the means over the seeds."""
    rows = json.loads(FILE.read_text())
    for budget in sorted({row["budget"] for row in rows}, reverse=True):
        of = [row for row in rows if row["budget"] == budget]
        for part in ("snli_test", "snli_train, unseen"):
            told = [budget, part]
            for who in ("knapsack", "winner"):
                kl = [row[part][who]["divergence"]["value"] for row in of]
                kept = [row[part][who]["accuracy"]["value"] / row[part]["dense accuracy"] for row in of]
                told.append(f"{who} {statistics.mean(kl):.4f} ({min(kl):.4f} to {max(kl):.4f})")
                told.append(f"{100 * statistics.mean(kept):.1f} % of dense")
            changes = [row[part]["divergence change"] for row in of]
            told.append("change " + ", ".join(f"{value:+.4f} ± {stderr:.4f}" for value, stderr in changes))
            print("; ".join(told), f"({len(of)} seeds)")


def main(folder: Path, seed: int, budgets: list[str]) -> None:
    torch.set_num_threads(int(os.environ.get("THREADS", "1")))
    for budget in budgets:
        row = row_of(folder, seed, budget)
        rows = json.loads(FILE.read_text()) if FILE.is_file() else []
        rows = [other for other in rows if (other["seed"], other["budget"]) != (seed, budget)] + [row]
        FILE.write_text(json.dumps(sorted(rows, key=lambda r: (r["budget"], r["seed"])), indent=1) + "\n")
    table()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]) if len(sys.argv) > 3 else table()
