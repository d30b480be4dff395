"""The tables of a front: at the end of a search, and of ``autolr front`` and ``autolr select``."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from autolr.report.format import shown_kinds
from autolr.results import Front, FrontMember, StudyResult
from autolr.results.member import FINALISTS, NEARLY_BEST
from autolr.results.scores import Scores
from autolr.scores import PROBE, SCORES, TASKS, ScoreKind
from autolr.scores.kind import SHARE
from autolr.spec.budgets import Budget
from autolr.spec.study import StudySpec

_QUANTITIES = {
    "latency": "latency",
    "flops": "FLOPs",
    "params": "params",
    "nonembedding-params": "nonemb. params",
    "memory": "memory",
}
"""Quantity -> title of its column."""
_ALWAYS = ("flops", "params")
_SHORT, _LONG = 10, 16
"""Least widths, also of a share or an exponential and of any other score: on a narrow terminal the origin is cut off,
never a number."""


def result_table(result: StudyResult, spec: StudySpec) -> Table:
    """Return the front at the end of a search, with the scores its winner was chosen by."""
    examples = result.members[0].selected.scores[spec.search.objective].n
    title = "The front of the search, scored again" if result.reached else "No candidate met all; the nearest"
    caption = (
        f"Scores on {examples} selection {TASKS.get(spec.task).noun}, which the search did not see: there a member may "
        f"fall behind another; {_recovered(result, spec)}the winner (*) is {_chosen_by(spec)} there"
    )
    rows = [(member, member.selected.scores) for member in result.members]
    return _member_table(title, caption, rows, result.winner, spec.budgets)


def _recovered(result: StudyResult, spec: StudySpec) -> str:
    """Return what the recovery did: it is tried on few members, and is not counted where it was no better."""
    if not spec.search.refit:
        return ""
    better = [str(member.trial) for member in result.members if member.variant.recovery is not None]
    tried = min(FINALISTS, len(result.members))
    few = f"the {tried} best members there alone" if tried > 1 else "the only member"
    counted = f"is counted where that was better (trial {', '.join(better)})" if better else "was better for none"
    return f"the {spec.search.recovery} was tried on {few} and {counted}; "


def front_table(front: Front) -> Table:
    """Return the table of ``autolr front`` and ``autolr select``."""
    title = "The front, on the search part" if front.members else "No trial meets every budget and floor; the nearest"
    caption = "Scores on the search part, where the search compared them: they flatter"
    rows = [(member, member.scores) for member in front.members or front.nearest]
    return _member_table(title, caption, rows, front.winner, front.budgets)


def _chosen_by(spec: StudySpec) -> str:
    if not spec.search.probe_axis:
        return f"the best in {spec.search.objective}"
    headline = SCORES.get(TASKS.get(spec.task).headline)
    within = f"{headline.difference(NEARLY_BEST)} of {headline.name}"
    return f"the best in {PROBE.name} of those within {within} of the best"


def _quantities(budgets: Sequence[str], timed: bool) -> list[str]:
    """Return the quantities that have a column: those of budgets, times where there are some, and two always."""
    budgeted = {Budget.parse(text).quantity for text in budgets}
    return [name for name in _QUANTITIES if name in _ALWAYS or (timed if name == "latency" else name in budgeted)]


def _member_table(
    title: str,
    caption: str,
    rows: Sequence[tuple[FrontMember, Scores]],
    winner: int | None,
    budgets: Sequence[str],
) -> Table:
    """Return a line for each member, with the scores given for it and its ratios of what the budgets limit."""
    timed = any("latency" in member.cost.ratios for member, _ in rows)
    quantities = _quantities(budgets, timed)
    counted = ", ".join(_QUANTITIES[name] for name in quantities if name != "latency")
    kinds = shown_kinds(frozenset(name for _, scores in rows for name in scores))
    named = [kind for kind in kinds if kind.column and not kind.name.startswith(kind.column.split()[0])]
    legend = "; ".join([f"{counted}: ratio to dense", *map(_explained, named)]) + ". "
    if timed:
        legend += "Latency: ratio to dense, ~ where it is predicted. "
    table = Table(
        title=title,
        caption=legend + caption,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("trial", justify="right", no_wrap=True, min_width=len("trial"))
    table.add_column("origin", overflow="ellipsis", no_wrap=True)
    for name in quantities:
        longest = max(map(len, _QUANTITIES[name].split()))
        table.add_column(_QUANTITIES[name], justify="right", min_width=max(longest, len("0.000")))
    for kind in kinds:
        short = kind.unit == SHARE or kind.exponential_of is not None
        table.add_column(kind.title, justify="right", no_wrap=True, min_width=_SHORT if short else _LONG)
    for member, scores in rows:
        table.add_row(
            f"{'* ' if member.trial == winner else ''}{member.trial}",
            member.origin,
            *(_latency(member) if name == "latency" else f"{member.cost.ratios[name]:.3f}" for name in quantities),
            *(_shown(kind, scores) for kind in kinds),
        )
    return table


def _explained(kind: ScoreKind) -> str:
    return f"{kind.title}: {kind.name}{' from dense' if kind.against_dense else ''}"


def _shown(kind: ScoreKind, scores: Scores) -> str:
    score = scores.get(kind.measured)
    return "" if score is None else kind.show(score.value, score.stderr)


def _latency(member: FrontMember) -> str:
    """Return the ratio that the clock said, or the predicted one."""
    if member.latency is not None:
        return f"{member.latency.ratio:.3f}"
    return f"~{member.cost.ratios.get('latency', 1.0):.3f}"
