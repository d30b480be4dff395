"""``autolr export`` and ``eval``."""

from pathlib import Path
from typing import Annotated

import typer

from autolr.cli import options as o
from autolr.cli import places
from autolr.cli.terminal import err, out, print_json, progress, reported, say
from autolr.spec.measuring import EVALUATION


@reported
@o.takes(*places.NOW, says=places.NOW, given=False)
def export(
    given: o.Given,
    study: o.StudyArgument,
    to: Annotated[Path, typer.Option("--out", parser=o.path, help="The checkpoint's directory.")],
    trial: Annotated[int | None, typer.Option(min=0, help="Export this trial; none: the winner.")] = None,
    budget: Annotated[list[str] | None, typer.Option("--budget", help="Export the best within it; repeatable.")] = None,
    solve: Annotated[
        bool, typer.Option("--solve", help="Solve for --budget under the chosen trial's multipliers; no trial has it.")
    ] = False,
    form: Annotated[
        str,
        typer.Option(
            "--format", help="hf: low-rank layers; dense: multiplied out; or one that another package registers."
        ),
    ] = "hf",
    force: Annotated[bool, typer.Option("--force", help="Replace an older checkpoint at --out.")] = False,
    json: o.Json = False,
) -> None:
    """Write a candidate as a Hugging Face checkpoint, and prove that it gives the same logits when loaded."""
    from autolr.checkpoint.directory import check_not_dense, check_vacant
    from autolr.optimization.study.folder import StudyFolder
    from autolr.optimization.study.summary import find_trial
    from autolr.report.sentences import eval_command
    from autolr.spec.budgets import Budget

    folder = StudyFolder.existing(study)
    check_not_dense(to, folder.spec().model)
    check_vacant(to, force)
    if trial is not None:
        find_trial(folder, trial, None)
    spec = places.spec_at(study, given)
    from autolr.workflows.export_trial import export_trial  # it imports what a model needs: that takes seconds

    with progress() as listener:
        made = export_trial(
            folder, spec, to, listener, trial=trial, budgets=budget or (), solve=solve, format=form, force=force
        )
    if json:
        print_json(made.to_json())
        return
    ratios = {Budget.parse(text).quantity: None for text in budget or spec.budgets}
    shown = ", ".join(f"{made.member.cost.ratios[quantity]:.3f}x {quantity}" for quantity in ratios)
    name = f"trial {made.member.trial}"
    unmeasured = f"; how good it is was not measured: {eval_command(spec, to)}"
    out.print(
        f"{f'the solution under the multipliers of {name}' if solve else name} ({shown}) is at {to}; logits of the "
        f"reloaded checkpoint differ by {made.max_logit_difference:g}" + (unmeasured if solve else ""),
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


@reported
@o.takes("task", *EVALUATION)
def evaluate(
    given: o.Given,
    directory: Annotated[str, typer.Argument(metavar="DIR", help="A checkpoint, compressed or dense.")],
    data: Annotated[str, typer.Option(help="Labelled pairs or text, or a hub data set with --split.")],
    split: Annotated[str | None, typer.Option(help="Split of a hub data set.")] = None,
    json: o.Json = False,
) -> None:
    """Measure a checkpoint's accuracy, with its standard error."""
    from autolr.report.measurements import chance_warning, evaluation_line
    from autolr.workflows.evaluate import evaluate_checkpoint
    from autolr.workflows.resolve import resolve

    spec = resolve({**given, "budget": "1x-flops"}, typed=True).model_copy(update={"model": directory})
    with progress() as listener:
        evaluation = evaluate_checkpoint(spec, data, split, listener)
    if json:
        print_json(evaluation.to_json())
    else:
        out.print(evaluation_line(evaluation), highlight=False)
    if (warning := chance_warning(evaluation)) is not None:
        say(err, warning, "[yellow]warning:[/] ")
