"""Which search signal tells best how a candidate does on data it was not scored on? Rank correlations over trials.

The trials of a finished study of search.py within its budget are scored again on 4,000 pairs of snli_train that neither
calibration nor search used. Each signal of the search part (1,000 pairs) is compared with the accuracy there.
Writes search_signal.json. ``python studies/nli-minilm/search_signal.py STUDY_FOLDER``
"""

import json
import sys
from pathlib import Path

from common import Lines
from scipy.stats import bootstrap, kendalltau
from search import unseen_pairs

from autolr.forms.swap import compressed
from autolr.model.inputs import pair_batches
from autolr.optimization.study.folder import StudyFolder
from autolr.optimization.study.front import feasible, finished
from autolr.tasks.class_scorer import ClassScorer
from autolr.types import Candidate
from autolr.workflows.search import open_study

MOST = 32
SIGNALS = ("divergence", "agreement", "accuracy")


def main(folder: Path) -> None:
    study = StudyFolder(folder)
    opened = open_study(study, Lines())
    inputs = opened.inputs
    trials = {t.user_attrs["digest"]: t for t in finished(study.load_study()) if feasible(t)}
    chosen = list(trials.values())[:: max(1, -(-len(trials) // MOST))]
    data = unseen_pairs(inputs)
    scorer = ClassScorer.of(inputs.model, pair_batches(inputs.tokenizer, data, 64, inputs.max_length))
    rows = []
    for trial in chosen:
        with compressed(inputs.model, Candidate.from_json(trial.user_attrs["candidate"]), opened.bank):
            unseen = {name: score.value for name, score in scorer.score(inputs.model).items()}
        searched = {name: trial.user_attrs["scores"][name]["value"] for name in SIGNALS}
        rows.append({"trial": trial.number, "search": searched, "unseen": unseen})
    result = {"n_trials": len(rows), "n_unseen": len(data), "kendall_tau_with_unseen_accuracy": {}, "trials": rows}
    accuracy = [row["unseen"]["accuracy"] for row in rows]
    for name in SIGNALS:
        sign = -1.0 if name == "divergence" else 1.0
        signal = [sign * row["search"][name] for row in rows]
        found = bootstrap(
            (signal, accuracy),
            lambda a, b: kendalltau(a, b).statistic,
            paired=True,
            vectorized=False,
            n_resamples=999,
            method="percentile",
            rng=0,
        )
        interval = [found.confidence_interval.low, found.confidence_interval.high]
        result["kendall_tau_with_unseen_accuracy"][name] = {
            "value": kendalltau(signal, accuracy).statistic,
            "interval_95": interval,
        }
    print(json.dumps(result["kendall_tau_with_unseen_accuracy"], indent=1))
    (Path(__file__).parent / "search_signal.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
