"""From a winner to a claim: scored on data that nothing was chosen on, beside the dense model."""

from collections.abc import Mapping
from math import hypot

from torch import Tensor

from autolr.bank import Bank
from autolr.optimization.scorers import probe_scorer, scorer_of
from autolr.probes.scorer import ProbeScorer, mean_accuracy
from autolr.problem import LoadedProblem
from autolr.progress import Progress
from autolr.records import Candidate, Score
from autolr.recovery.base import Changes, recovered
from autolr.results import Difference, ProbeReport, ProbeScores, Report
from autolr.scores import SCORES, TASKS
from autolr.tasks import mean_score


def report_on(
    inputs: LoadedProblem, bank: Bank, candidate: Candidate, changes: Changes | None, progress: Progress
) -> Report:
    """Score a candidate and the dense model on the report part, with the paired differences of their scores.

    Nothing is chosen on the report part. What choosing on the search part is worth in appearance is ``optimism``: what
    the exported model loses against the dense one on the report part, less what it loses on the search part, score by
    score; above zero the search part flatters.

    Args:
        inputs: the opened inputs.
        bank: decompositions.
        candidate: the winner's.
        changes: of its layers, by a recovery; None: it stays as it was truncated.
        progress: told what is under way.
    """
    differences, exported = {}, {}
    probes = probe_scorer(inputs, bank, "report", progress)  # its reference is the dense model: before compressing
    for part in ("search", "report"):
        scorer = scorer_of(inputs, bank, part, progress)
        with recovered(inputs.model, candidate, bank, changes):
            answers = scorer.answers(inputs.model, scorer.batches, None, progress.check)
            if part == "report":
                probed = None if probes is None else _probed(inputs, probes, progress)
        ours, theirs = scorer.values(answers), scorer.values(scorer.dense)
        exported[part] = scorer.compare(answers)
        differences[part] = {name: mean_score(ours[name] - theirs[name]) for name in ours}
    return Report(
        data=inputs.parts.report.name,
        dense=scorer.compare(scorer.dense),
        compressed=exported["report"],
        differences=differences["report"],
        majority=scorer.majority(),
        headline=TASKS.get(inputs.spec.task).headline,
        search=exported["search"],
        optimism={
            name: _optimism(SCORES.get(name).sign, differences["report"][name], differences["search"][name])
            for name in exported["report"]
        },
        probes=probed,
        recovery=None if changes is None else changes.note(),
        overlap=inputs.parts.overlap,
    )


def _optimism(sign: float, report: Score, search: Score) -> Difference:
    """Return by how much more is lost on the report part than on the search part; different examples.

    Args:
        sign: 1 where a larger score is a loss, −1 where it is a gain.
        report: compressed − dense there.
        search: the same on the search part.
    """
    return Difference(sign * report.value - sign * search.value, hypot(report.stderr, search.stderr))


def _probed(inputs: LoadedProblem, scorer: ProbeScorer, progress: Progress) -> ProbeReport:
    """Return what probes read in the model as it is and in the dense one, task by task."""
    correct = scorer.correct(inputs.model, progress.check)
    gap = mean_accuracy(correct).value - mean_accuracy(scorer.dense).value
    return ProbeReport(_by_task(scorer.dense), _by_task(correct), Difference(gap, scorer.stderr(correct)))


def _by_task(correct: Mapping[str, Tensor]) -> ProbeScores:
    tasks = {task: mean_score(right.double()) for task, right in correct.items()}
    return ProbeScores(mean_accuracy(correct), tasks)
