"""``autolr export`` and ``eval``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from autolr.cli import options as o
from autolr.cli import places
from autolr.cli.terminal import err, out, print_json, progress, reported
from autolr.errors import UsageError, command


@reported
def export(
    study: o.StudyArgument,
    to: Annotated[Path, typer.Option("--out", help="The checkpoint's directory.")],
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
    model: places.Model = None,
    train: places.Train = None,
    validation: places.Validation = None,
    test: places.Test = None,
    probes: places.Probes = None,
    space: places.Space = None,
    json: o.Json = False,
) -> None:
    """Write a candidate as a Hugging Face checkpoint, and prove that it gives the same logits when loaded."""
    from autolr.checkpoint.directory import check_vacant
    from autolr.checkpoint.formats import FORMATS
    from autolr.search.study.folder import StudyFolder
    from autolr.search.study.front import read_result
    from autolr.search.study.summary import find_trial, with_multipliers
    from autolr.search.study.transfer import solve_at
    from autolr.spec.budgets import Budget
    from autolr.workflows.export import check_not_dense
    from autolr.workflows.export import export as write
    from autolr.workflows.finalists import changes_of, changes_of_member
    from autolr.workflows.search import open_study

    FORMATS.get(form)
    if trial is not None and budget and not solve:
        raise UsageError("give --trial or --budget, not both")
    if solve and not budget:
        raise UsageError("--solve needs the --budget to solve for")
    folder = StudyFolder.existing(study)
    spec = places.spec_at(study, model=model, train=train, validation=validation, test=test, probes=probes, space=space)
    check_not_dense(to, spec.model)
    check_vacant(to, force)
    chosen = with_multipliers(folder, trial) if solve else find_trial(folder, trial, budget)
    result = read_result(folder)
    report = result.report if result is not None and result.winner == chosen.trial and not solve else None
    with progress() as listener:
        opened = open_study(folder, listener, spec)
        inputs, bank = opened.inputs, opened.bank
        if solve:
            params = folder.load_study().trials[chosen.trial].params
            chosen = solve_at(inputs, bank, chosen, params, budget or [], listener)
        members = {} if result is None or solve else {member.trial: member for member in result.members}
        if chosen.trial in members:  # scored on the selection part, where the recovery was seen to be better or not
            changes = changes_of_member(inputs, bank, members[chosen.trial], listener)
        else:
            changes = changes_of(inputs, bank, chosen.candidate, listener)
        difference = write(inputs, bank, chosen, changes, report, to, form, listener)
    if json:
        print_json(
            {
                "trial": None if solve else chosen.trial,
                "ratio": dict(chosen.cost.ratios),
                "out": str(to),
                "format": form,
                "max_logit_difference": difference,
            }
        )
    else:
        ratios = {Budget.parse(text).quantity: None for text in budget or spec.budgets}
        shown = ", ".join(f"{chosen.cost.ratios[quantity]:.3f}x {quantity}" for quantity in ratios)
        name = f"trial {chosen.trial}"
        unmeasured = f"; how good it is was not measured: {command('eval', to, '--task', spec.task, '--data', 'FILE')}"
        out.print(
            f"{f'the solution under the multipliers of {name}' if solve else name} ({shown}) is at {to}; logits of the "
            f"reloaded checkpoint differ by {difference:g}" + (unmeasured if solve else ""),
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


@reported
def evaluate(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="A checkpoint, compressed or dense.")],
    data: Annotated[str, typer.Option(help="Labelled pairs or text, or a hub data set with --split.")],
    task: o.Task = "nli",
    split: Annotated[str | None, typer.Option(help="Split of a hub data set.")] = None,
    premise_column: o.PremiseColumn = "premise",
    hypothesis_column: o.HypothesisColumn = "hypothesis",
    label_column: o.LabelColumn = "label",
    label_names: o.LabelNames = None,
    text_column: o.TextColumn = "text",
    template: o.Templates = None,
    words: o.Words = None,
    seq_len: o.SeqLen = None,
    device: o.AnyDevice = "cpu",
    dtype: o.Dtype = "float32",
    scoring_batch_size: o.ScoringBatch = 64,
    offline: o.Offline = False,
    trust_remote_code: o.TrustRemoteCode = False,
    json: o.Json = False,
) -> None:
    """Measure a checkpoint's accuracy, with its standard error."""
    from autolr.report.measurements import chance_warning, evaluation_line
    from autolr.workflows.evaluate import evaluate_checkpoint

    run = {
        "device": device,
        "dtype": dtype,
        "scoring_batch_size": scoring_batch_size,
        "seq_len": seq_len,
        "offline": offline,
        "trust_remote_code": trust_remote_code,
    }
    described = {
        "premise_column": premise_column,
        "hypothesis_column": hypothesis_column,
        "label_column": label_column,
        "label_names": o.names(label_names),
        "text_column": text_column,
        "templates": template or [],
        "words": o.names(words) or [],
    }
    plain = {"model": directory, "task": task, "data": described, "budgets": ["1x-flops"], "run": run}
    spec = o.from_options(plain)
    with progress() as listener:
        found = evaluate_checkpoint(spec, data, split, listener)
    if json:
        print_json(found)
    else:
        out.print(evaluation_line(found), highlight=False)
    if (warning := chance_warning(found, task)) is not None:
        err.print(f"[yellow]warning:[/] {escape(warning)}", highlight=False, soft_wrap=True)
