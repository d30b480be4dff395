"""``autolr search``, ``resume`` and ``estimate``."""

from pathlib import Path
from typing import Annotated

import typer

from autolr.cli import options as o
from autolr.cli import places
from autolr.cli.terminal import err, out, print_json, progress, reported, say
from autolr.errors import Stopped, UsageError, command
from autolr.spec.study import StudySpec

CREW = ("workers", "ray_address", "gpus_per_worker", "worker_timeout")


@reported
@o.takes(
    "budget", "model", "task", "data", "floor", "trials", "study", "time_limit", "seed", "search", "run", "crew",
    "storage", "profile",
)  # fmt: skip
def search(given: o.Given, study: o.Study = None, profile: o.Profile = None, json: o.Json = False) -> None:
    """Search the best candidates within a budget, choose the winner on held-out data, export it."""
    from autolr.optimization.study.database import check_private
    from autolr.workflows.resolve import default_folder, resolve

    storage = given["storage"]
    check_private(storage if isinstance(storage, str) else None, given["ray_address"] is not None)
    spec = resolve(given, profile, typed=True)
    _run(spec, study or default_folder(spec), json)


@reported
@o.takes(
    "trials", "time_limit", *CREW, "storage", *places.NOW, given=False, says={
        **places.NOW,
        "trials": "Another number of trials to complete.",
        "storage": "The study's database, to give its password once more.",
        "workers": "Processes that run trials, by Ray; none: as before.",
    },
)  # fmt: skip
def resume(
    given: o.Given,
    study: o.StudyArgument,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="First make a damaged journal anew, of the files that trials have.")
    ] = False,
    json: o.Json = False,
) -> None:
    """Go on with a study that was stopped or killed or moved, or with more trials than before."""
    from autolr.optimization.study.database import check_private, without_password
    from autolr.optimization.study.folder import StudyFolder
    from autolr.workflows.resolve import resolve, with_workers

    folder = StudyFolder.existing(study)
    spec = places.spec_at(study, given)
    crew = with_workers(spec.crew, {name: given[name] for name in CREW}, typed=True)
    storage = given["storage"]
    if isinstance(storage, str):
        check_private(storage, crew.ray_address is not None)
        if without_password(storage) != spec.storage:
            raise UsageError(f"the trials of {study} are kept in {spec.storage or 'its own folder'}, not in --storage")
    limits = resolve({"budget": "1x-flops", "time_limit": given["time_limit"]}, typed=True)
    wanted = given["trials"]
    if isinstance(wanted, int) and wanted < spec.trials:
        err.print(
            f"[yellow]note:[/] the study was asked for {spec.trials} trials before, more than --trials {wanted}; those "
            "that are done stay in it",
            highlight=False,
            soft_wrap=True,
        )
    changes = {"trials": given["trials"] or spec.trials, "time_limit": limits.time_limit, "crew": crew}
    if rebuild:
        from autolr.optimization.study.rebuild import rebuild as rebuild_journal

        with progress() as listener, folder.locked():
            rebuild_journal(folder, listener)
    _run(spec.model_copy(update=changes), study, json)


def _run(spec: StudySpec, path: Path, as_json: bool) -> None:
    from autolr.optimization.study.folder import StudyFolder
    from autolr.workflows.check_given import check_study

    check_study(spec, StudyFolder(path))  # before the libraries are imported that a model needs: that takes seconds
    from autolr.report.front_table import result_table
    from autolr.report.sentences import missed_limits, next_commands, result_lines
    from autolr.workflows.search import run_search

    folder = StudyFolder(path)
    try:
        with progress(resumable=True) as listener:
            result = run_search(spec, folder, listener)
    except Stopped as stop:
        raise Stopped(f"{stop}\ngo on with: {command('resume', path)}") from stop
    if as_json:
        print_json({"study": str(path), **result.to_json()})
    else:
        out.print(result_table(result, spec))
        for line in result_lines(result, spec, path):
            say(out, line)
        for line in next_commands(result, spec, path):
            out.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    if not result.reached:
        missed = "; ".join(missed_limits(result, spec)) or "see the table"
        err.print(f"[bold red]not reached:[/] {missed}; the nearest candidate was exported", highlight=False)
        raise typer.Exit(3)


@reported
@o.takes(
    "budget", "model", "task", "data", "trials", "study", "seed", "method", "form", "multiple", "refit", "include",
    "exclude", "run", "profile",
)  # fmt: skip
def estimate(given: o.Given, study: o.Study = None, profile: o.Profile = None, json: o.Json = False) -> None:
    """Say what each budget can reach, and what the search would take in time and disk, before anything is spent."""
    from autolr.workflows.check_given import check_given
    from autolr.workflows.resolve import default_folder, resolve

    spec = resolve(given, profile, typed=True)
    check_given(spec)  # before the libraries are imported that a model needs: that takes seconds
    from autolr.report.measurements import estimate_table
    from autolr.workflows.estimate import estimate_study

    with progress() as listener:
        estimated = estimate_study(spec, study or default_folder(spec), listener)
    if json:
        print_json(estimated.to_json())
    else:
        for part in estimate_table(estimated):
            out.print(part, highlight=False, markup=False)
    if not estimated.reachable:
        raise typer.Exit(3)
