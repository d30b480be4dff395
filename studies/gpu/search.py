"""Part 2: a search on the GPU, and its front beside the CPU's.

    python studies/gpu/search.py record FOLDER    # on a CPU: writes cpu-front.json from a study's folder

The members of the CPU's front are scored on the GPU, from the GPU's own bank, and each front is held against the other.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from common import HERE, Part, Phases, study_spec
from front_agreement import compared

from autolr.errors import Stopped
from autolr.optimization.scorers import scorer_of
from autolr.optimization.study.evaluator import Objective
from autolr.optimization.study.folder import StudyFolder
from autolr.types import Candidate
from autolr.workflows.search import open_study, run_search

RECORDED = HERE / "cpu-front.json"
HEADLINE = "divergence"
RESERVE = 0.25
"""Share of the part's time for scoring the CPU's front."""


def found(folder: Path) -> dict[str, Any]:
    """Return a study's trials and its front."""
    files = sorted((folder / "trials").glob("*.json"), key=lambda file: int(file.stem))
    trials = [json.loads(file.read_text()) for file in files]
    members = json.loads((folder / "front.json").read_text())["members"]
    return {
        "trials": [trial["digest"] for trial in trials],
        "front": [
            {"candidate": m["candidate"], "flops": m["costs"]["ratio"]["flops"], "scores": m["scores"]} for m in members
        ],
    }


def points(front: list[dict[str, Any]]) -> list[tuple[float, float, float]]:
    """Return (cost, score, its error) of each member."""
    return [(m["flops"], m["scores"][HEADLINE]["value"], m["scores"][HEADLINE]["stderr"]) for m in front]


def rescored(folder: StudyFolder, front: list[dict[str, Any]], progress: Phases) -> dict[str, float]:
    """Score members of another front here, and return how far off each score is at most, in its standard errors."""
    opened = open_study(folder, progress)
    objective = Objective(opened.inputs, opened.bank, scorer_of(opened.inputs, opened.bank, "search", progress))
    progress.start("score the CPU's front")
    worst: dict[str, float] = {}
    for member in front:
        evaluation = objective.evaluate(Candidate.from_json(member["candidate"]), progress.check)
        for name, score in evaluation.scores.items():
            there = member["scores"][name]
            gap = abs(score.value - there["value"]) / max(there["stderr"], 1e-9)
            worst[name] = max(worst.get(name, 0.0), gap)
    progress.end()
    return worst


def main() -> None:
    part = Part.told()
    progress, folder = Phases(part, RESERVE * part.seconds), StudyFolder(part.scratch / "search")
    spec = study_spec(part, part.device)
    if part.rehearse:
        run_search(spec, StudyFolder(part.scratch / "cpu"), Phases(part))
        expected = found(part.scratch / "cpu")
    else:
        expected = json.loads(RECORDED.read_text())
    stopped = False
    try:
        run_search(spec, folder, progress)
    except Stopped:
        stopped = True
    progress.end()
    ours = found(folder.path)
    figures: dict[str, Any] = {
        "trials": len(ours["trials"]),
        "trials_wanted": spec.trials,
        "stopped": stopped,
        "seconds": progress.seconds,
        "same_candidates": sum(a == b for a, b in zip(ours["trials"], expected["trials"], strict=False)),
    }
    if not part.rehearse:
        figures["peak_bytes"] = torch.cuda.max_memory_allocated()
    part.write(**figures)
    if ours["front"]:
        agreement = compared(points(ours["front"]), points(expected["front"]))
        figures |= {
            "members": {"here": agreement.members[0], "cpu": agreement.members[1], "shared": agreement.shared},
            "fronts_apart_in_errors": round(agreement.worst, 3),
        }
        part.write(**figures)
    progress.reserve = 0.0
    try:
        apart = rescored(folder, expected["front"], progress)
    except Stopped:  # what was found is written
        return
    figures["cpu_front_here_in_errors"] = {name: round(value, 4) for name, value in apart.items()}
    figures["equal"] = max(apart.values()) <= 1.0 and figures.get("fronts_apart_in_errors", 0.0) <= 3.0
    part.write(**figures)


if __name__ == "__main__":
    if sys.argv[1] == "record":
        RECORDED.write_text(json.dumps(found(Path(sys.argv[2]))) + "\n")
    else:
        main()
