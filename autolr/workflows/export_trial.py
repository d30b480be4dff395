"""A trial of a study, by number or by budget, or what its multipliers give at another budget -> a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autolr.checkpoint.directory import check_not_dense, check_vacant
from autolr.checkpoint.formats import FORMATS
from autolr.errors import UsageError
from autolr.optimization.study.folder import StudyFolder
from autolr.optimization.study.front import read_result
from autolr.optimization.study.summary import find_trial, with_multipliers
from autolr.optimization.study.transfer import solve_at
from autolr.progress import Progress
from autolr.results import FrontMember
from autolr.spec.study import StudySpec
from autolr.workflows.export import EXPORT_FORMAT, export
from autolr.workflows.finalists import changes_of, changes_of_member
from autolr.workflows.search import open_study


@dataclass(frozen=True)
class Exported:
    """A checkpoint that was written and proved.

    Attributes:
        member: what was written; of a solution its scores are empty, for it was not measured.
        solved: it is a solution under the multipliers of the member's trial, not the trial itself.
        directory: where it is.
        format: name of its format.
        max_logit_difference: the largest absolute difference of a logit between the model in memory and the one loaded
            again.
    """

    member: FrontMember
    solved: bool
    directory: Path
    format: str
    max_logit_difference: float

    def __str__(self) -> str:
        """Return what was written in one line; everything is in ``repr``."""
        source = "the solution under the multipliers of " if self.solved else ""
        ratios = ", ".join(f"{ratio:.3f}x {quantity}" for quantity, ratio in self.member.cost.ratios.items())
        return (
            f"{source}trial {self.member.trial} ({ratios}) at {self.directory} as {self.format}; logits of the "
            f"reloaded checkpoint differ by {self.max_logit_difference:g}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the plain form that ``autolr export --json`` prints."""
        return {
            "trial": None if self.solved else self.member.trial,
            "ratio": dict(self.member.cost.ratios),
            "out": str(self.directory),
            "format": self.format,
            "max_logit_difference": self.max_logit_difference,
        }


def export_trial(
    folder: StudyFolder,
    spec: StudySpec,
    directory: Path,
    progress: Progress,
    *,
    trial: int | None = None,
    budgets: Sequence[str] = (),
    solve: bool = False,
    format: str = EXPORT_FORMAT,
    force: bool = False,
) -> Exported:
    """Write a checkpoint and prove it.

    Args:
        folder: of the study.
        spec: the study's, with the places where its model and data are now.
        directory: to write.
        progress: told what is under way.
        trial: its number; None: the best within the budgets, or without these the winner.
        budgets: within which the best trial is taken.
        solve: solve for the budgets under the trial's multipliers instead (None: the winner's), whether or not a trial
            is within them; the solution is not scored.
        format: name of the format, of :data:`autolr.checkpoint.formats.FORMATS`.
        force: replace an older checkpoint.

    Raises:
        UsageError: there is no such trial or format, the directory cannot be written, or the study's model or data are
            others now.
        BudgetError: no trial is within the budgets, or no candidate can be.
        AutolrError: the reloaded model's logits differ.
    """
    FORMATS.get(format)
    if trial is not None and budgets and not solve:
        raise UsageError("give --trial or --budget, not both")
    if solve and not budgets:
        raise UsageError("--solve needs the --budget to solve for")
    check_not_dense(directory, spec.model)
    check_vacant(directory, force)
    chosen = with_multipliers(folder, trial) if solve else find_trial(folder, trial, budgets)
    result = None if solve else read_result(folder)
    report = result.report if result is not None and result.winner == chosen.trial else None
    opened = open_study(folder, progress, spec)
    inputs, bank = opened.inputs, opened.bank
    if solve:
        params = folder.load_study().trials[chosen.trial].params
        chosen = solve_at(inputs, bank, chosen, params, budgets, progress)
    members = {} if result is None else {member.trial: member for member in result.members}
    if chosen.trial in members:  # scored on the selection part, where the recovery was seen to be better or not
        changes = changes_of_member(inputs, bank, members[chosen.trial], progress)
    else:
        changes = changes_of(inputs, bank, chosen.candidate, progress, None if solve else chosen.trial)
    difference = export(inputs, bank, chosen, changes, report, directory, format, progress)
    return Exported(chosen, solve, directory, format, difference)
