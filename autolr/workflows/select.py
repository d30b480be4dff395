"""From the front to a winner: chosen on data that the search did not see."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from optuna.trial import FrozenTrial

from autolr.bank import Bank
from autolr.errors import AutolrError, Stopped
from autolr.optimization.scorers import probe_scorer, scorer_of
from autolr.optimization.study.front import member_of
from autolr.probes.scorer import ProbeScorer, mean_accuracy
from autolr.problem import LoadedProblem
from autolr.progress import Progress
from autolr.records import Candidate, Score
from autolr.recovery.base import Changes, recovered
from autolr.results import FrontMember, Selection, Variant
from autolr.results.member import FINALISTS, NEARLY_BEST
from autolr.scores import PROBE, SCORES, TASKS
from autolr.spec.budgets import Floor
from autolr.spec.objectives import rank_of
from autolr.spec.study import StudySpec
from autolr.tasks import Scorer
from autolr.workflows.finalists import changes_of, recover_together

Rank = tuple[bool, float, float, int]
"""Misses a floor; the objective, less is better; the cost; the number."""


@dataclass(frozen=True)
class Judge:
    """Scores members on the selection part.

    Attributes:
        inputs: the opened inputs.
        bank: decompositions.
        progress: told what is under way.
        scorer: of the selection part.
        probes: of the selection part; None in a study without.
        dense: the dense model's scores there.
    """

    inputs: LoadedProblem
    bank: Bank
    progress: Progress
    scorer: Scorer
    probes: ProbeScorer | None
    dense: Mapping[str, Score]

    @classmethod
    def of(cls, inputs: LoadedProblem, bank: Bank, progress: Progress) -> "Judge":
        """Prepare what scores on the selection part; the dense model must be as it is."""
        scorer = scorer_of(inputs, bank, "selection", progress)
        probes = probe_scorer(inputs, bank, "selection", progress)
        dense = with_probe(scorer.compare(scorer.dense), None if probes is None else mean_accuracy(probes.dense))
        return cls(inputs, bank, progress, scorer, probes, dense)

    def scored(self, member: FrontMember, changes: Changes | None = None) -> FrontMember:
        """Return a member with its scores there, of the variant that the changes make of it."""
        candidate = member.candidate
        scores = score_candidate(self.inputs, self.bank, candidate, self.scorer, self.progress, changes, self.probes)
        selection = Selection(scores, meets(self.inputs.spec.parsed_floors, scores, self.dense))
        if changes is None:
            return replace(member, selection=selection)
        before = None if member.selection is None else member.selection.scores
        variant = Variant(candidate, changes.recovery.name)
        return replace(member, variant=variant, selection=replace(selection, before_recovery=before))

    def rank(self, member: FrontMember) -> Rank:
        """Return what members are ordered by: less is better."""
        spec, selection = self.inputs.spec, member.selected
        value = rank_of(spec.search.objective, selection.scores[spec.search.objective].value)
        return not selection.keeps_floors, value, member.cost.ratios[spec.parsed_budgets[0].quantity], member.trial


def rank_members(
    inputs: LoadedProblem,
    bank: Bank,
    trials: Sequence[FrozenTrial],
    progress: Progress,
) -> list[FrontMember]:
    """Score the trials on the selection part and return them best first.

    Best is the best in the study's objective, of equals the cheapest; before that come those whose scores there keep
    the floors. The best are recovered, where the study does so, and are taken so if that is better here.

    Args:
        inputs: the opened inputs.
        bank: decompositions.
        trials: the front, or the nearest trials when nothing meets the budgets.
        progress: told what is under way.
    """
    progress.start(f"score {len(trials)} members of the front on the selection part")
    judge = Judge.of(inputs, bank, progress)
    members = []
    for done, trial in enumerate(trials):
        members.append(judge.scored(member_of(trial)))
        progress.update((done + 1) / len(trials))
    members = in_order(members, judge.rank, inputs.spec)
    recover_together(inputs, bank, members[:FINALISTS], progress)
    finalists = [_better_variant(judge, member) for member in members[:FINALISTS]]
    return in_order([*finalists, *members[FINALISTS:]], judge.rank, inputs.spec)


def _better_variant(judge: Judge, member: FrontMember) -> FrontMember:
    """Return a member as the study's recovery makes it, where that is better on the selection part."""
    try:
        changes = changes_of(judge.inputs, judge.bank, member.candidate, judge.progress, member.trial)
        after = member if changes is None else judge.scored(member, changes)
    except Stopped:
        raise
    except AutolrError as error:
        judge.progress.note(f"trial {member.trial} stays without {judge.inputs.spec.search.recovery}: {error}")
        return member
    return after if changes is not None and scores_better(judge.rank(after), judge.rank(member)) else member


def in_order(members: Sequence[FrontMember], rank: Callable[[FrontMember], Rank], spec: StudySpec) -> list[FrontMember]:
    """Return members best first: by their rank, and where the probes are an objective by them among the nearly best.

    Nearly best are those that keep the floors as the first does and whose headline score is within ``NEARLY_BEST`` of
    its.
    """
    ranked = sorted(members, key=rank)
    if not spec.search.probe_axis:
        return ranked
    headline = SCORES.get(TASKS.get(spec.task).headline)
    first = ranked[0].selected
    most = headline.sign * first.scores[headline.name].value + NEARLY_BEST

    def far(member: FrontMember) -> bool:
        selection = member.selected
        worse = headline.sign * selection.scores[headline.name].value > most
        return selection.keeps_floors != first.keeps_floors or worse

    near = [member for member in ranked if not far(member)]
    near.sort(key=lambda member: PROBE.sign * member.selected.scores[PROBE.name].value)
    return near + [member for member in ranked if far(member)]


def scores_better(after: Rank, before: Rank) -> bool:
    """Tell whether a member ranks before what it was: by floors, then by the study's objective."""
    return after < before


def score_candidate(
    inputs: LoadedProblem,
    bank: Bank,
    candidate: Candidate,
    scorer: Scorer,
    progress: Progress,
    changes: Changes | None = None,
    probes: ProbeScorer | None = None,
) -> dict[str, Score]:
    """Return a candidate's scores on a scorer's data, with the changes of a recovery if there are any."""
    with recovered(inputs.model, candidate, bank, changes):
        scores = scorer.score(inputs.model, progress.check)
        return with_probe(scores, None if probes is None else probes.score(inputs.model, progress.check))


def with_probe(scores: Mapping[str, Score], probe: Score | None) -> dict[str, Score]:
    """Return scores with the probes' among them, where there are probes."""
    return dict(scores) if probe is None else {**scores, PROBE.name: probe}


def meets(floors: Sequence[Floor], scores: Mapping[str, Score], dense: Mapping[str, Score]) -> bool:
    """Tell whether scores keep every floor."""
    return all(f.shortfall(scores[f.score].value, dense[f.score].value) <= 0 for f in floors)
