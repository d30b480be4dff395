"""What factorization destroys in an encoder: NLI accuracy, probes of every layer and minimal pairs, against the ratio.

    python studies/probing-pitfalls/encoder.py FOLDER     # writes encoder.json; FOLDER keeps the bank

Needs the inputs of studies/nli-minilm, AUTOLR_ASSETS with data/probing and data/blimp. Compressed models: uniform by
five methods, and the knapsack's allocation of the default methods (the search's start), none of them refitted; and
where FOLDER has ``searched/<budget>/result.json``, a study's folder, its winner. Probes are ridge regressions on 400
sentences, scored on 300; pairs are asked by a probe on the last layer, 30 of each paradigm. Set MODEL to another
checkpoint (a hub id too) to run the same of it.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "nli-minilm"))
from common import ASSETS, spec

from autolr.allocate import allocate
from autolr.compress import compressed
from autolr.data.minimal_pairs import load_minimal_pairs
from autolr.data.probing import load_probing_tasks
from autolr.progress import Silent
from autolr.score import mean_score
from autolr.score.features import features
from autolr.score.minimal_pairs import preferred
from autolr.score.probing import probe_sentences
from autolr.search.inputs import Inputs, open_inputs
from autolr.search.objective import describe_score
from autolr.search.preparation import build_bank
from autolr.search.probe_checkpoint import probed
from autolr.search.scales import make_menus
from autolr.search.scorers import scorer_of
from autolr.search.spaces.grouped import uniform_candidate
from autolr.types import Candidate

METHODS = ("svd", "fwsvd", "asvd", "drone", "kfac")
BUDGETS = ("0.5x-flops", "0.35x-flops", "0.2x-flops")
OUT = Path(__file__).with_suffix(".json")


def opened(budget: str, methods: tuple[str, ...], folder: Path) -> Inputs:
    search = {"methods": list(methods), "refit": False}
    plain = spec(budgets=[budget], search=search)
    changes = {"run": plain.run.model_copy(update={"threads": 1})}
    if "MODEL" in os.environ:
        changes["model"] = os.environ["MODEL"]
    return open_inputs(plain.model_copy(update=changes), Silent(), folder / "latency.json")


def candidates(folder: Path) -> list[tuple[str, str, Candidate]]:
    """Return (how, budget, candidate) of every model."""
    found = [("dense", "1x-flops", Candidate())]
    for budget in BUDGETS:
        inputs = opened(budget, (*METHODS, "losparse"), folder)
        units = inputs.units.by_name()
        found += [(f"uniform {m}", budget, uniform_candidate(units, m, 8, inputs.fits)) for m in METHODS]
        inputs = opened(budget, ("kfac", "losparse"), folder)
        bank = build_bank(inputs, folder / "bank", Silent())
        menus = make_menus(inputs, bank, Silent())
        found.append(("knapsack", budget, allocate(menus, inputs.relative_limits).candidate))
        result = folder / "searched" / budget / "result.json"
        if result.is_file():
            plain = json.loads(result.read_text())
            winner = next(one for one in plain["members"] if one["trial"] == plain["winner"])
            found.append(("searched", budget, Candidate.from_json(winner["candidate"])))
    return found


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    inputs = opened("0.5x-flops", (*METHODS, "losparse"), folder)
    bank = build_bank(inputs, folder / "bank", Silent())
    scorer = scorer_of(inputs, bank, "report", Silent())
    tasks = [task.take(400, 300, 0) for task in load_probing_tasks(ASSETS / "data/probing")]
    paradigms = [one.take(30) for one in load_minimal_pairs(ASSETS / "data/blimp")]
    batches = [probe_sentences(inputs.tokenizer, [task], 64, inputs.max_length, inputs.model.device) for task in tasks]
    rows = json.loads(OUT.read_text()) if OUT.is_file() else []
    for how, budget, candidate in candidates(folder):
        if any((row["how"], row["budget"]) == (how, budget) for row in rows):
            continue
        with compressed(inputs.model, candidate, bank):
            scores = scorer.score(inputs.model)
            by_task = {
                task.name: probed(task, features(inputs.model, batch), "ridge", 0)
                for task, batch in zip(tasks, batches, strict=True)
            }
            fields: dict[str, list] = {}
            for one in paradigms:
                right = preferred(inputs.model, inputs.tokenizer, one, 64, inputs.max_length)
                fields.setdefault(one.field.replace("/", "_"), []).append(right)
        rows.append(
            {
                "how": how,
                "budget": budget,
                "ratio": inputs.costs.cost(candidate).flops / inputs.costs.dense.flops,
                "nli": {name: describe_score(score) for name, score in scores.items()},
                "tasks": by_task,
                "pairs": {name: describe_score(mean_score(_joined(parts))) for name, parts in fields.items()},
            }
        )
        best = [max(layer["accuracy"]["value"] for layer in task["layers"]) for task in by_task.values()]
        accuracy = scores["accuracy"].value
        print(f"{how:14} {budget:12} nli {accuracy:.3f}, probes {sum(best) / len(best):.3f}", flush=True)
        OUT.write_text(json.dumps(rows, indent=1) + "\n")


def _joined(parts: list) -> object:
    import torch

    return torch.cat(parts)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
