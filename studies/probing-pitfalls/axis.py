"""Do probes as a third objective find models that know more of their language? MiniLM on SNLI, with and without.

    python studies/probing-pitfalls/axis.py FOLDER BUDGET SEED...     # 0.25x-flops 0 1 2; writes axis.json

Needs the inputs of studies/nli-minilm and AUTOLR_ASSETS with data/probing. Both searches see the same tasks and as many
trials; without the axis the probes are measured of the winner alone. Nothing is refitted. Winners: by divergence, or by
probes among those within a point of accuracy of the best, each on the selection part. Accuracies are of the report
part; probes of both winners are trained on 1,000 sentences of each task and asked all test sentences that neither
search nor selection saw, so that the differences are paired.
"""

import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "nli-minilm"))
from common import ASSETS, spec

from autolr.bank import Bank
from autolr.data.probe_parts import load_probe_parts
from autolr.data.probing import ProbingTask, Sentences, load_probing_tasks
from autolr.forms.swap import compressed
from autolr.optimization.study.folder import StudyFolder
from autolr.probes.scorer import Correct, ProbeScorer, mean_accuracy, probe_sentences
from autolr.problem import open_inputs
from autolr.progress import Silent
from autolr.spec.study import make_spec
from autolr.types import Candidate
from autolr.workflows.search import run_search

TASKS = ("bigram_shift", "obj_number", "past_present", "subj_number", "top_constituents")
"""Those that MiniLM's representations answer clearly above chance and not by the sentence's length or a word."""
TRIALS = 30


def unseen_tasks(study: StudyFolder, seed: int) -> list[ProbingTask]:
    """Return the tasks with the test sentences that no choice was made on."""
    data = study.spec().data
    seen = load_probe_parts(data, seed)
    found = []
    for number, task in enumerate(load_probing_tasks(Path(data.probes))):
        used = {text for part in ("search", "selection") for text in seen[part][number].test.texts}
        kept = [row for row in zip(task.test.texts, task.test.labels, strict=True) if row[0] not in used]
        test = Sentences(tuple(text for text, _ in kept), tuple(label for _, label in kept))
        found.append(ProbingTask(task.name, task.classes, task.train, test).take(1000, None, seed))
    return found


def probed(study: StudyFolder, winners: dict[str, Candidate], seed: int) -> dict:
    """Return the probes' accuracies of the dense model and of two winners, and the difference of these."""
    inputs = open_inputs(study.spec(), Silent())
    bank = Bank(study.bank, inputs.model, inputs.units.units, inputs.calibration_key)
    bank.complete(inputs.methods)
    tasks = unseen_tasks(study, seed)
    sentences = probe_sentences(inputs.tokenizer, tasks, 64, inputs.max_length, inputs.model.device)
    scorer = ProbeScorer.of(inputs.model, tasks, sentences, "mean")
    found = {"dense": scorer.dense}
    for name, candidate in winners.items():
        with compressed(inputs.model, candidate, bank):
            found[name] = scorer.correct(inputs.model)
    gaps = {task: found["with"][task].double() - found["without"][task].double() for task in scorer.dense}
    return {
        "layers": list(scorer.layers),
        "models": {name: _described(correct) for name, correct in found.items()},
        "with minus without": {
            "value": sum(float(gap.mean()) for gap in gaps.values()) / len(gaps),
            "stderr": sum(float(gap.var()) / len(gap) for gap in gaps.values()) ** 0.5 / len(gaps),
        },
    }


def _described(correct: Correct) -> dict:
    return {"mean": mean_accuracy(correct).to_json()} | {
        task: mean_accuracy({task: one}).to_json() for task, one in correct.items()
    }


def main(folder: Path, budget: str, seeds: list[int]) -> None:
    tasks = folder / "tasks"
    tasks.mkdir(parents=True, exist_ok=True)
    for name in TASKS:
        shutil.copy(ASSETS / "data/probing" / f"{name}.tsv", tasks)
    rows = []
    for seed in seeds:
        row, winners = {"seed": seed}, {}
        for axis in (False, True):
            plain = spec(budgets=[budget], trials=TRIALS, seed=seed).model_dump(mode="json")
            plain["data"] |= {"search_examples": 400, "selection_examples": 1000}
            plain["data"] |= {"probes": str(tasks), "probe_train": 300, "probe_test": 600}
            plain["search"] |= {"probe_axis": axis, "refit": False}
            plain["run"]["threads"] = 1
            how = "with" if axis else "without"
            study = StudyFolder(folder / budget / f"{how}-{seed}")
            study.bank = folder / f"bank-{seed}"
            result = run_search(make_spec(plain, "study"), study, Silent(), checkpoint=False).to_json()
            report = result["report"]["compressed"]
            winner = next(one for one in result["members"] if one["trial"] == result["winner"])
            winners[how] = Candidate.from_json(winner["candidate"])
            row[how] = {"trial": result["winner"], "ratio": winner["costs"]["ratio"]["flops"]}
            row[how] |= {name: report[name] for name in ("accuracy", "divergence")}
        rows.append(row | {"probes": probed(study, winners, seed)})
        print(json.dumps(rows[-1]), flush=True)
        Path(__file__).with_suffix(".json").write_text(json.dumps({"budget": budget, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], [int(seed) for seed in sys.argv[3:]])
