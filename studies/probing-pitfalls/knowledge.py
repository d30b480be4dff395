"""What factorization destroys: task score, probes of every layer and minimal pairs of one model, against the ratio.

    python studies/probing-pitfalls/knowledge.py encoder FOLDER     # MiniLM; writes knowledge-encoder.json
    python studies/probing-pitfalls/knowledge.py decoder FOLDER     # the small Llama; writes knowledge-decoder.json
    MODEL=someone/bert-base-mnli … encoder OTHER        # another checkpoint or hub id; writes into the folder OTHER
    MODEL=meta-llama/Llama-2-7b-hf DEVICE=cuda DTYPE=bfloat16 … decoder OTHER

Needs the inputs of studies/nli-minilm, AUTOLR_ASSETS with data/probing and data/blimp; for the decoder FOLDER is that
of decoder.py, whose text and winners it takes. Compressed models: uniform by five methods, the knapsack's allocation of
the default methods (the search's start), and the winner of a search by them, which is run where FOLDER does not hold
one yet (under the same conditions: those of studies/search or of decoder.py); none is refitted. Probes are
ridge regressions on 400 sentences, scored on 300; minimal pairs are 30 of each paradigm, asked by likelihood or, of an
encoder without a language head, by a probe on the last layer.
"""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "nli-minilm"))
from common import ASSETS, spec
from decoder import stretches

from autolr.allocation.knapsack import allocate
from autolr.data.minimal_pairs import load_minimal_pairs
from autolr.data.probing import load_probing_tasks
from autolr.forms.swap import compressed
from autolr.optimization.curve_scales import make_menus
from autolr.optimization.preparation import build_bank
from autolr.optimization.scorers import scorer_of
from autolr.optimization.spaces.grouped import uniform_candidate
from autolr.optimization.study.evaluator import describe_score
from autolr.optimization.study.folder import StudyFolder
from autolr.probes.features import features
from autolr.probes.minimal_pairs import preferred
from autolr.probes.scorer import probe_sentences
from autolr.problem import LoadedProblem, open_inputs
from autolr.progress import Silent
from autolr.spec.study import StudySpec, make_spec
from autolr.tasks import mean_score
from autolr.types import Candidate
from autolr.workflows.probe import probed
from autolr.workflows.search import run_search

MODEL = os.environ.get("MODEL")
METHODS = ("svd", "fwsvd", "asvd", "drone", "kfac")
DEFAULT = ("kfac", "losparse")
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Subject:
    """A model with what it is asked.

    Attributes:
        out: name of the file of the results.
        budgets: to compress to.
        multiple: of ranks.
        searched: where the winner of a budget's search is, within the folder.
    """

    out: str
    budgets: tuple[str, ...]
    multiple: int
    searched: str

    def spec(self, budget: str, methods: tuple[str, ...], folder: Path) -> StudySpec:
        """Return the specification of a study at this budget, on one thread, nothing refitted."""
        plain = self.plain(folder) | {"budgets": [budget]}
        plain["search"] = {**plain["search"], "methods": list(methods), "refit": False, "multiple": self.multiple}
        conditions = {name.lower(): os.environ[name] for name in ("DEVICE", "DTYPE") if name in os.environ}
        plain["run"] = {**plain["run"], **conditions, "threads": 1, "offline": MODEL is None}
        plain["model"] = MODEL or plain["model"]
        return make_spec(plain, "study")

    def plain(self, folder: Path) -> dict:
        """Return model and data."""
        plain = spec().model_dump(mode="json")
        plain["data"] |= {"search_examples": 400, "selection_examples": 400}
        plain["search"] |= {"proposals": 1}
        plain["trials"] = 40
        return plain


class Decoder(Subject):
    """The small Llama on its stories."""

    def plain(self, folder: Path) -> dict:
        """Return model and data."""
        sizes = {"calibration_examples": 400, "search_examples": 200, "selection_examples": 200}
        return {
            "model": str(ASSETS / "models/stories260k-llama"),
            "task": "lm",
            "data": {**stretches(folder), **sizes},
            "run": {"seq_len": 256, "scoring_batch_size": 16},
            "search": {},
            "trials": 20,
        }


ENCODER_BUDGETS = ("0.5x-flops", "0.35x-flops", "0.2x-flops")
DECODER_BUDGETS = ("0.8x-nonembedding-params", "0.6x-nonembedding-params")
SUBJECTS = {
    "encoder": Subject("knowledge-encoder.json", ENCODER_BUDGETS, 8, "searched/{}"),
    "decoder": Decoder("knowledge-decoder.json", DECODER_BUDGETS, 8 if MODEL else 1, "studies/searched-kfac/{}/seed-0"),
}


def opened(subject: Subject, budget: str, methods: tuple[str, ...], folder: Path) -> LoadedProblem:
    """Return the opened inputs of a budget."""
    return open_inputs(subject.spec(budget, methods, folder), Silent(), folder / "latency.json")


def candidates(subject: Subject, folder: Path) -> Iterator[tuple[str, str, Candidate]]:
    """Yield (how, budget, candidate) of every model."""
    yield "dense", "dense", Candidate()
    for budget in subject.budgets:
        inputs = opened(subject, budget, (*METHODS, "losparse"), folder)
        units = inputs.units.by_name()
        for method in METHODS:
            yield f"uniform {method}", budget, uniform_candidate(units, method, subject.multiple, inputs.fits)
        inputs = opened(subject, budget, DEFAULT, folder)
        bank = build_bank(inputs, folder / "bank", Silent())
        menus = make_menus(inputs, bank, Silent())
        yield "knapsack", budget, allocate(menus, inputs.relative_limits).candidate
        yield "searched", budget, winner(subject, budget, folder)


def winner(subject: Subject, budget: str, folder: Path) -> Candidate:
    """Return what a search within this budget found, run now where its folder has no result."""
    study = StudyFolder(folder / subject.searched.format(budget))
    if not (study.path / "result.json").is_file():
        run_search(subject.spec(budget, DEFAULT, folder), study, Silent())
    result = json.loads((study.path / "result.json").read_text())
    found = next(one for one in result["members"] if one["trial"] == result["winner"])
    return Candidate.from_json(found["candidate"])


def in_lines(rows: list[dict]) -> str:
    """Return the rows as JSON, one in a line, numbers to six digits: there are some thousand of them."""
    short = json.loads(json.dumps(rows), parse_float=lambda text: round(float(text), 6))
    return "[\n" + ",\n".join(json.dumps(row) for row in short) + "\n]\n"


def main(subject: Subject, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    inputs = opened(subject, subject.budgets[0], (*METHODS, "losparse"), folder)
    bank = build_bank(inputs, folder / "bank", Silent())
    scorer = scorer_of(inputs, bank, "report", Silent())
    model, tokenizer, longest = inputs.model, inputs.tokenizer, inputs.max_length
    tasks = [task.take(400, 300, 0) for task in load_probing_tasks(ASSETS / "data/probing")]
    paradigms = [one.take(30) for one in load_minimal_pairs(ASSETS / "data/blimp")]
    batches = [probe_sentences(tokenizer, [task], 64, longest, model.device) for task in tasks]
    out = (folder if MODEL else HERE) / subject.out
    rows = json.loads(out.read_text()) if out.is_file() else []
    for how, budget, candidate in candidates(subject, folder):
        if any((row["how"], row["budget"]) == (how, budget) for row in rows):
            continue
        with compressed(model, candidate, bank):
            scores = scorer.score(model)
            by_task = {
                task.name: probed(task, features(model, batch), "ridge", 0).to_json()
                for task, batch in zip(tasks, batches, strict=True)
            }
            fields: dict[str, list[torch.Tensor]] = {}
            for one in paradigms:
                right = preferred(model, tokenizer, one, 64, longest)
                fields.setdefault(one.field.replace("/", "_"), []).append(right)
        cost = inputs.costs.cost(candidate)
        rows.append(
            {
                "how": how,
                "budget": budget,
                "flops": cost.flops / inputs.costs.dense.flops,
                "scores": {name: describe_score(score) for name, score in scores.items()},
                "tasks": by_task,
                "pairs": {name: describe_score(mean_score(torch.cat(parts))) for name, parts in fields.items()},
            }
        )
        last = [task["layers"][-1]["accuracy"]["value"] for task in by_task.values()]
        score = {name: round(one.value, 3) for name, one in scores.items()}
        print(f"{how:14} {budget:26} {score}, probes of the last layer {sum(last) / len(last):.3f}", flush=True)
        out.write_text(in_lines(rows))


if __name__ == "__main__":
    main(SUBJECTS[sys.argv[1]], Path(sys.argv[2]))
