"""``autolr sensitivity``."""

from typing import Annotated

import typer

from autolr.cli import options as o
from autolr.cli import places
from autolr.cli.terminal import out, print_json, progress, reported


@reported
@o.takes(*places.NOW, says=places.NOW, given=False)
def sensitivity(
    given: o.Given,
    study: o.StudyArgument,
    trial: Annotated[int | None, typer.Option(min=0, help="Explain this trial; none: the winner.")] = None,
    json: o.Json = False,
) -> None:
    """Say why each layer has its rank: its error curve, its multiplier, what one more step of rank would buy."""
    from autolr.optimization.study.folder import StudyFolder
    from autolr.optimization.study.summary import find_trial
    from autolr.report.sensitivity import importance_lines, sensitivity_table

    folder = StudyFolder.existing(study)
    number = find_trial(folder, trial, None).trial
    spec = places.spec_at(study, given)
    from autolr.workflows.search import open_study  # it imports what a model needs: that takes seconds
    from autolr.workflows.sensitivity import explain

    with progress() as listener:
        opened = open_study(folder, listener, spec)
        found = explain(opened.inputs, opened.bank, folder.load_study(), number)
    if json:
        print_json(found.to_json())
    else:
        out.print(sensitivity_table(found, out.width))
        for line in importance_lines(found):
            out.print(line, highlight=False, markup=False, soft_wrap=True)
