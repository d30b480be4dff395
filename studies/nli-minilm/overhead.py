"""How much longer a trial takes than scoring its model alone, over a finished study. Writes overhead.json.

A trial's time is Optuna's, from ask to tell: proposal, knapsack, compression, scoring, storage. The model alone is the
same candidate, compressed beforehand, scored on the same examples; the two are measured in turn for a sample of trials.
``python studies/nli-minilm/overhead.py STUDY``
"""

import json
import statistics
import sys
import time
from pathlib import Path

from common import Lines

from autolr.forms.swap import compressed
from autolr.optimization.scorers import scorer_of
from autolr.optimization.study.evaluator import Objective
from autolr.optimization.study.folder import StudyFolder
from autolr.types import Candidate
from autolr.workflows.search import open_study

SAMPLE = 9


def main(study: Path) -> None:
    folder = StudyFolder(study)
    opened = open_study(folder, Lines())
    scorer = scorer_of(opened.inputs, opened.bank, "search", Lines())
    objective = Objective(opened.inputs, opened.bank, scorer)
    trials = [t for t in folder.load_study().trials if t.params and t.user_attrs["seconds"]["score"] > 0]
    whole = [(t.datetime_complete - t.datetime_start).total_seconds() for t in trials if t.datetime_start]
    parts = {k: [t.user_attrs["seconds"][k] for t in trials] for k in ("propose", "compress", "score")}
    ratios = []
    for trial in trials[:: max(1, len(trials) // SAMPLE)]:
        candidate = Candidate.from_json(trial.user_attrs["candidate"])
        started = time.perf_counter()
        objective.evaluate(candidate, Lines().check)
        evaluated = time.perf_counter() - started
        with compressed(opened.inputs.model, candidate, opened.bank):
            started = time.perf_counter()
            scorer.score(opened.inputs.model)
            alone = time.perf_counter() - started
        ratios.append(evaluated / alone)
    result = {
        "trials": len(trials),
        "median_trial_seconds_ask_to_tell": statistics.median(whole),
        "median_seconds": {name: statistics.median(values) for name, values in parts.items()},
        "median_trial_over_its_own_scoring": statistics.median(
            w / s for w, s in zip(whole, parts["score"], strict=True)
        ),
        "evaluation_over_scoring_alone": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "sample": len(ratios),
    }
    print(json.dumps(result, indent=1))
    (Path(__file__).parent / "overhead.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
