"""Does the search beat its own best seed on data it did not see? 60 trials at 0.2x FLOPs, three seeds.

Each study's winner (chosen on the selection part) is compared with the best of the knapsack's own solutions (by the
search part), on snli_test and on 4,000 pairs of snli_train that neither calibration nor search used.
Writes search-<budget>-seed<n>.json.
``python studies/nli-minilm/search.py STUDIES_FOLDER 0.2x-flops [SEED …]``
"""

import json
import statistics
import sys
from pathlib import Path

from common import Lines, spec

from autolr.data.nli import Columns, load_nli
from autolr.forms.swap import compressed
from autolr.model.inputs import pair_batches
from autolr.optimization.study.folder import StudyFolder
from autolr.scores.built_in import divergence
from autolr.tasks import mean_score
from autolr.tasks.class_scorer import ClassScorer, predict
from autolr.types import Candidate
from autolr.workflows.search import open_study, run_search

TRIALS = 60
UNSEEN = 4000


def unseen_pairs(inputs):
    """Return snli_train pairs whose premises the calibration did not use."""
    source = inputs.spec.data.train
    data = load_nli(source, columns=Columns(), label2id=inputs.model.config.label2id)
    used = set(inputs.parts.calibration.premises)
    return data.select(i for i, premise in enumerate(data.premises) if premise not in used).take(UNSEEN, 7)


def compare(opened, seed_candidate, winner, data):
    """Return accuracy and divergence of both candidates, and their paired differences."""
    inputs = opened.inputs
    scorer = ClassScorer.of(inputs.model, pair_batches(inputs.tokenizer, data, 64, inputs.max_length))
    logits = []
    for candidate in (seed_candidate, winner):
        with compressed(inputs.model, candidate, opened.bank):
            logits.append(predict(inputs.model, scorer.batches))
    a, b = (scorer.compare(x) for x in logits)
    right = [(x.argmax(-1) == scorer.labels).double() for x in logits]
    kl = [divergence(scorer.dense, x) for x in logits]
    gain, drop = mean_score(right[1] - right[0]), mean_score(kl[1] - kl[0])
    return {
        "n": len(data),
        "seed": {name: score.value for name, score in a.items()},
        "winner": {name: score.value for name, score in b.items()},
        "dense_accuracy": scorer.compare(scorer.dense)["accuracy"].value,
        "accuracy_gain": [gain.value, gain.stderr],
        "divergence_change": [drop.value, drop.stderr],
    }


def main(folder: Path, budget: str, seeds: list[int]) -> None:
    for seed in seeds:
        study = StudyFolder(folder / f"{budget}-{seed}")
        asked = spec(budgets=[budget], trials=TRIALS, seed=seed)
        result = run_search(asked, study, Lines())
        opened = open_study(study, Lines())
        trials = study.load_study().trials
        seeds = {t.user_attrs["origin"]: t for t in trials if t.user_attrs.get("origin", "").startswith("knapsack")}
        best = min(seeds.values(), key=lambda t: t.values[0])
        first = Candidate.from_json(best.user_attrs["candidate"])
        winner = Candidate.from_json(trials[result.winner].user_attrs["candidate"])
        parts = {"snli_test": opened.inputs.parts.report, "snli_train, unseen": unseen_pairs(opened.inputs)}
        row = {"seed": seed, "winner": result.winner, "winner_flops": trials[result.winner].values[1]}
        row["best_seed"] = best.user_attrs["origin"]
        row["on_the_search_part"] = {name: t.values[0] for name, t in seeds.items()}
        row["on_the_search_part"]["winner"] = trials[result.winner].values[0]
        row |= {name: compare(opened, first, winner, data) for name, data in parts.items()}
        overhead = [t.user_attrs["seconds"] for t in trials if t.user_attrs["seconds"]["score"] > 0]
        row["median_seconds"] = {k: statistics.median(s[k] for s in overhead) for k in ("propose", "compress", "score")}
        row |= {"budget": budget, "trials": TRIALS}
        print(json.dumps(row, indent=1), flush=True)
        (Path(__file__).parent / f"search-{budget}-seed{seed}.json").write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], [int(seed) for seed in sys.argv[3:]] or [0, 1, 2])
