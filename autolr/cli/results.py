"""``autolr status``, ``front`` and ``select``: what a study has found; nothing is computed, the model is not loaded."""

from typing import Annotated

import typer

from autolr.cli import options as o
from autolr.cli.terminal import out, print_json, reported
from autolr.errors import command


@reported
def status(study: o.StudyArgument, json: o.Json = False) -> None:
    """Say how far a study is."""
    from autolr.optimization.study.folder import StudyFolder
    from autolr.optimization.study.summary import summarize
    from autolr.report.sentences import status_lines

    found = summarize(StudyFolder.existing(study))
    if json:
        print_json(found.to_json())
    else:
        for line in status_lines(found):
            out.print(line, highlight=False, markup=False, soft_wrap=True)


@reported
def front(study: o.StudyArgument, json: o.Json = False) -> None:
    """List the front: the candidates no other beats in both quality and cost."""
    from autolr.optimization.study.folder import StudyFolder
    from autolr.optimization.study.summary import read_front
    from autolr.report.front_table import front_table

    found = read_front(StudyFolder.existing(study))
    if json:
        print_json(found.to_json())
    else:
        out.print(front_table(found))


@reported
def select(
    study: o.StudyArgument,
    budget: Annotated[list[str], typer.Option("--budget", help="Another budget; repeatable.")],
    json: o.Json = False,
) -> None:
    """Choose the best evaluated candidate within another budget, without any new trial."""
    from autolr.optimization.study.folder import StudyFolder
    from autolr.optimization.study.summary import select_trial
    from autolr.report.front_table import front_table
    from autolr.results import Front

    folder = StudyFolder.existing(study)
    found = select_trial(folder, budget)
    if json:
        print_json(found.to_json())
    else:
        out.print(front_table(Front((), (found,), budgets=tuple(budget))))
        out.print(
            f"next: {command('export', study, '--trial', found.trial, '--out', 'DIR')}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
