"""What one study is worth to another: its best points as a start, its multipliers at another budget."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection

from autolr.bank import Bank
from autolr.cost.price import check_reachable
from autolr.errors import UsageError
from autolr.problem import LoadedProblem
from autolr.progress import Progress
from autolr.results import FrontMember, RelativeCost, Variant
from autolr.search.sampler.encoding import Encoding
from autolr.search.spaces.build import build_space
from autolr.search.spaces.importance import ImportanceSpace
from autolr.search.study.folder import StudyFolder
from autolr.search.study.front import feasible, finished

Value = str | int | float | bool | None
"""Of a parameter, as Optuna stores it."""
Params = Mapping[str, Value]
"""Name of a parameter of the search -> its value."""
WARM_STARTS = 5
"""Points of another study that a warm start begins with."""


def warm_points(source: Path, space: Mapping[str, BaseDistribution]) -> dict[str, Params]:
    """Return the best points of another study that are points of this space too, by origin.

    The other study may have another budget, model or seed: what is taken over are parameters, such as multipliers on
    the curves, and they are evaluated anew. Values beyond a range are moved to its end.

    Args:
        source: the other study's folder.
        space: name -> distribution of this study's parameters.

    Raises:
        UsageError: it is not a study, or none of its finished trials has all of these parameters.
    """
    study = StudyFolder.existing(source).load_study()
    sign = 1.0 if study.directions[0] == StudyDirection.MINIMIZE else -1.0
    fitting = [trial for trial in finished(study) if space and set(space) <= set(trial.params)]
    if not fitting:
        raise UsageError(
            f"--warm-start {source}: none of its finished trials has the parameters of this search "
            f"({', '.join(sorted(space)[:4])}, ...); use the same --space and --method"
        )
    fitting.sort(key=lambda trial: (not feasible(trial), sign * trial.values[0], trial.number))
    encoding = Encoding(space)
    inside = [{name: _within(trial.params[name], part) for name, part in space.items()} for trial in fitting]
    points = [encoding.decode(point) for point in encoding.snap(encoding.encode(inside))]
    distinct = [point for index, point in enumerate(points) if point not in points[:index]]
    return {f"warm {index}": point for index, point in enumerate(distinct[:WARM_STARTS])}


def _within(value: Value, part: BaseDistribution) -> Value:
    if isinstance(part, CategoricalDistribution):
        return value if value in part.choices else part.choices[0]
    assert isinstance(part, FloatDistribution | IntDistribution)
    assert isinstance(value, int | float)
    return min(max(value, part.low), part.high)


def solve_at(
    inputs: LoadedProblem,
    bank: Bank,
    member: FrontMember,
    params: Params,
    budgets: Sequence[str],
    progress: Progress,
) -> FrontMember:
    """Return the knapsack's solution at other budgets under a trial's multipliers.

    Nothing is evaluated: it has no scores.

    Args:
        inputs: the opened inputs of the study.
        bank: decompositions, complete.
        member: the trial.
        params: its parameters.
        budgets: as ``--budget``.
        progress: told what is under way.

    Raises:
        UsageError: the study's space has no multipliers.
        BudgetError: a budget cannot be reached.
    """
    spec = inputs.spec.model_copy(update={"budgets": tuple(budgets)})
    there = replace(inputs, spec=spec)
    if not params:
        raise UsageError(f"trial {member.trial} has no multipliers to solve with; choose another with --trial")
    check_reachable(spec.parsed_budgets, there.costs)
    space = build_space(there, bank, progress)
    if not isinstance(space, ImportanceSpace):
        raise UsageError(f"--solve needs a study of the space importance, this one searched {spec.search.space}")
    candidate = space.decode({**params, "level": 1.0})
    return FrontMember(
        trial=member.trial,
        origin=f"knapsack at {', '.join(budgets)} under the multipliers of trial {member.trial}",
        variant=Variant(candidate),
        cost=RelativeCost.of(there.costs.cost(candidate), there.costs.dense),
        scores={},
        constraints=member.constraints,
    )
