"""From the front to a claim: choose the winner on data the search did not see, report on data nothing was chosen on."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, hypot
from types import MappingProxyType
from typing import Any

from optuna.trial import FrozenTrial

from autolr.bank import Bank
from autolr.errors import AutolrError, Stopped
from autolr.machine.atomic import write_atomically
from autolr.probes.scorer import ProbeScorer, mean_accuracy
from autolr.problem import Inputs
from autolr.progress import Progress
from autolr.recovery.refit import Corrections, refitted
from autolr.scores import SCORES
from autolr.search.scorers import probe_scorer, scorer_of
from autolr.search.study.evaluator import describe_score
from autolr.search.study.folder import StudyFolder
from autolr.search.study.front import member
from autolr.spec.budgets import Floor
from autolr.spec.objectives import rank_of
from autolr.tasks import Scorer, mean_score
from autolr.types import Candidate, Score
from autolr.workflows.finalists import corrections_of


@dataclass(frozen=True)
class Result:
    """The outcome of a study.

    Attributes:
        winner: the chosen trial.
        reached: it meets every budget and floor.
        members: the front's members, each with its scores on the selection part.
        report: the winner's and the dense model's scores on the report part.
    """

    winner: int
    reached: bool
    members: Sequence[Mapping[str, Any]]
    report: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the form of result.json."""
        return {
            "winner": self.winner,
            "reached": self.reached,
            "members": list(self.members),
            "report": dict(self.report),
        }


Rank = tuple[bool, float, float, int]
"""Misses a floor; the objective, less is better; the cost; the number."""
NEARLY_BEST = 0.01
"""Accuracy that may be given for what the probes find, where they are an objective."""
FINALISTS = 4
"""Members of the front, the best on the selection part, that are refitted and scored again."""


def rank_members(
    inputs: Inputs,
    bank: Bank,
    trials: Sequence[FrozenTrial],
    progress: Progress,
) -> list[dict[str, Any]]:
    """Score the trials on the selection part and return them best first, in the form of front.json.

    Best is the best in the study's objective, of equals the cheapest; before that come those whose scores there keep
    the floors. The best are refitted, where the study does so, and are taken so if that is better here; what they
    scored before is then kept as ``before_refit``.

    Args:
        inputs: the opened inputs.
        bank: decompositions.
        trials: the front, or the nearest trials when nothing meets the budgets.
        progress: told what is under way.
    """
    objective = inputs.spec.search.objective
    progress.start(f"score {len(trials)} members of the front on the selection part")
    scorer = scorer_of(inputs, bank, "selection", progress)
    probes = probe_scorer(inputs, bank, "selection", progress)
    dense = with_probe(scorer.compare(scorer.dense), None if probes is None else mean_accuracy(probes.dense))

    def scored(one: dict[str, Any], corrections: Corrections) -> dict[str, Any]:
        candidate = Candidate.from_json(one["candidate"])
        scores = score_candidate(inputs, bank, candidate, scorer, progress, corrections, probes)
        kept = meets(inputs.spec.parsed_floors, scores, dense)
        return {**one, "selection": _plain(scores), "keeps_floors": kept}

    quantity = inputs.spec.parsed_budgets[0].quantity

    def rank(one: Mapping[str, Any]) -> Rank:
        value = rank_of(objective, one["selection"][objective]["value"])
        return not one["keeps_floors"], value, one["costs"]["ratio"][quantity], one["trial"]

    members = []
    for done, trial in enumerate(trials):
        members.append(scored(member(trial), {}))
        progress.update((done + 1) / len(trials))
    members = in_order(members, rank, inputs.spec.search.probe_axis)
    for index, one in enumerate(members[:FINALISTS]):
        try:
            corrections = corrections_of(inputs, bank, Candidate.from_json(one["candidate"]), progress)
            if not corrections:
                continue
            after = {**scored(one, corrections), "before_refit": one["selection"]}
        except Stopped:
            raise
        except AutolrError as error:
            progress.note(f"trial {one['trial']} stays without refit: {error}")
            continue
        if scores_better(rank(after), rank(one)):
            members[index] = after
    return in_order(members, rank, inputs.spec.search.probe_axis)


def in_order(members: Sequence[dict[str, Any]], rank: Callable[[dict[str, Any]], Any], probes: bool) -> list[Any]:
    """Return members best first: by their rank, and where the probes are an objective by them among the nearly best.

    Nearly best are those that keep the floors as the first does and whose accuracy is within ``NEARLY_BEST`` of its.
    """
    ranked = sorted(members, key=rank)
    if not probes:
        return ranked
    first = ranked[0]
    least = first["selection"]["accuracy"]["value"] - NEARLY_BEST

    def far(one: Mapping[str, Any]) -> bool:
        return bool(one["keeps_floors"] != first["keeps_floors"] or one["selection"]["accuracy"]["value"] < least)

    near = [one for one in ranked if not far(one)]
    near.sort(key=lambda one: -one["selection"]["probe"]["value"])
    return near + [one for one in ranked if far(one)]


def scores_better(after: Rank, before: Rank) -> bool:
    """Tell whether a member ranks before what it was: by floors, then by the study's objective."""
    return after < before


def score_candidate(
    inputs: Inputs,
    bank: Bank,
    candidate: Candidate,
    scorer: Scorer,
    progress: Progress,
    corrections: Corrections = MappingProxyType({}),
    probes: ProbeScorer | None = None,
) -> dict[str, Score]:
    """Return a candidate's scores on a scorer's data, refitted by the corrections if there are any."""
    with refitted(inputs.model, candidate, bank, corrections):
        scores = scorer.score(inputs.model, progress.check)
        return with_probe(scores, None if probes is None else probes.score(inputs.model, progress.check))


def with_probe(scores: Mapping[str, Score], probe: Score | None) -> dict[str, Score]:
    """Return scores with the probes' among them, where there are probes."""
    return dict(scores) if probe is None else {**scores, "probe": probe}


def meets(floors: Sequence[Floor], scores: Mapping[str, Score], dense: Mapping[str, Score]) -> bool:
    """Tell whether scores keep every floor."""
    return all(f.shortfall(scores[f.score].value, dense[f.score].value) <= 0 for f in floors)


def report_on(
    inputs: Inputs, bank: Bank, candidate: Candidate, corrections: Corrections, progress: Progress
) -> dict[str, Any]:
    """Score a candidate and the dense model on the report part, with the paired difference of their accuracies.

    Nothing is chosen on the report part. What choosing on the search part is worth in appearance is ``optimism``: what
    the exported model loses against the dense one on the report part, less what it loses on the search part, score by
    score; above zero the search part flatters.
    """
    losses, exported = {}, {}
    probes = probe_scorer(inputs, bank, "report", progress)  # its reference is the dense model: before compressing
    for part in ("search", "report"):
        scorer = scorer_of(inputs, bank, part, progress)
        with refitted(inputs.model, candidate, bank, corrections):
            logits = scorer.answers(inputs.model, scorer.batches, None, progress.check)
            if part == "report":
                probed = {} if probes is None else _probed(inputs, probes, progress)
        ours, theirs = scorer.values(logits), scorer.values(scorer.dense)
        exported[part] = scorer.compare(logits)
        losses[part] = {name: mean_score(SCORES.get(name).sign * (ours[name] - theirs[name])) for name in ours}
    scores, dense = exported["report"], scorer.compare(scorer.dense)
    relative = scores["accuracy"].value / dense["accuracy"].value if dense["accuracy"].value else None
    drop = losses["report"]["accuracy"]
    return {
        "data": inputs.parts.report.name,
        "dense": _plain(dense),
        "compressed": _plain(scores),
        "search": _plain(exported["search"]),
        "accuracy_difference": describe_score(Score(-drop.value, drop.stderr, drop.n)),
        "accuracy_ratio": relative,
        **probed,
        **_perplexities(scores, dense, losses["report"]),
        "optimism": {name: _difference(losses["report"][name], losses["search"][name]) for name in scores},
        "refitted": len(corrections),
        "majority": scorer.majority(),
    }


def _probed(inputs: Inputs, scorer: ProbeScorer, progress: Progress) -> dict[str, Any]:
    """Return what probes find in the model as it is and in the dense one, task by task."""
    correct = scorer.correct(inputs.model, progress.check)
    found = {
        name: {
            "mean": describe_score(mean_accuracy(one)),
            "tasks": {task: describe_score(mean_score(right.double())) for task, right in one.items()},
        }
        for name, one in (("dense", scorer.dense), ("compressed", correct))
    }
    gap = mean_accuracy(correct).value - mean_accuracy(scorer.dense).value
    return {"probes": {**found, "difference": {"value": gap, "stderr": scorer.stderr(correct)}}}


def _perplexities(
    scores: Mapping[str, Score], dense: Mapping[str, Score], losses: Mapping[str, Score]
) -> dict[str, Any]:
    """Return what a language model's loss is commonly stated as; nothing for other models."""
    if "loss" not in scores:
        return {}
    return {
        "perplexity": {"dense": exp(dense["loss"].value), "compressed": exp(scores["loss"].value)},
        "loss_difference": describe_score(losses["loss"]),
    }


def _difference(report: Score, search: Score) -> dict[str, float]:
    """Return the difference of two means over different examples, with its standard error."""
    return {"value": report.value - search.value, "stderr": hypot(report.stderr, search.stderr)}


def store_result(folder: StudyFolder, result: Result, trials: int, checkpoint: str | None) -> None:
    """Write result.json: the result, how many trials it rests on, where the winner's checkpoint is, if there is one."""
    content = {**result.to_json(), "trials": trials, "checkpoint": checkpoint}
    write_atomically(folder.result_file, json.dumps(content, indent=1) + "\n")


def _plain(scores: Mapping[str, Score]) -> dict[str, Any]:
    return {name: describe_score(score) for name, score in scores.items()}
