"""``autolr search``, ``resume`` and ``estimate``."""

from pathlib import Path
from typing import Annotated

import typer

from autolr.cli import options as o
from autolr.cli import places
from autolr.cli.terminal import err, out, print_json, progress, reported
from autolr.errors import Stopped, UsageError, command
from autolr.spec.study import CrewSpec, StudySpec


@reported
def search(
    budget: o.Budgets,
    model: o.Model = None,
    task: o.Task = "nli",
    train: o.Train = None,
    validation: o.Validation = None,
    test: o.Test = None,
    dataset: o.Dataset = None,
    premise_column: o.PremiseColumn = "premise",
    hypothesis_column: o.HypothesisColumn = "hypothesis",
    label_column: o.LabelColumn = "label",
    label_names: o.LabelNames = None,
    text_column: o.TextColumn = "text",
    template: o.Templates = None,
    words: o.Words = None,
    probes: o.Probes = None,
    probe_train: o.ProbeTrain = 200,
    probe_test: o.ProbeTest = 150,
    pooling: o.Pooling = "mean",
    floor: o.Floors = None,
    trials: o.Trials = 40,
    time_limit: o.TimeLimit = None,
    study: o.Study = None,
    seed: o.Seed = 0,
    space: o.Space = "importance",
    sampler: o.Sampler = "botorch",
    objective: o.Objective = None,
    method: o.Methods = None,
    multiple: o.Multiple = 8,
    refit: o.Refit = True,
    racing: o.Racing = True,
    proposals: o.Proposals = None,
    warm_start: o.WarmStart = None,
    include: o.Include = None,
    exclude: o.Exclude = None,
    calibration_examples: o.Calibration = 1024,
    search_examples: o.SearchN = 1000,
    selection_examples: o.SelectionN = 1000,
    device: o.Device = "cpu",
    dtype: o.Dtype = "float32",
    batch_size: o.BatchSize = 8,
    seq_len: o.SeqLen = None,
    scoring_batch_size: o.ScoringBatch = 64,
    threads: o.Threads = None,
    lengths: o.Lengths = None,
    profile: o.Profile = None,
    offline: o.Offline = False,
    trust_remote_code: o.TrustRemoteCode = False,
    stream: o.Stream = False,
    workers: o.Workers = None,
    ray_address: o.RayAddress = None,
    gpus_per_worker: o.GpusPerWorker = None,
    worker_timeout: o.WorkerTimeout = None,
    storage: o.Storage = None,
    json: o.Json = False,
) -> None:
    """Search the best candidates within a budget, choose the winner on held-out data, export it."""
    from autolr.search.study.database import check_private

    check_private(storage, ray_address is not None)
    spec = o.collect(
        model=model,
        task=task,
        train=train,
        validation=validation,
        test=test,
        dataset=dataset,
        premise_column=premise_column,
        hypothesis_column=hypothesis_column,
        label_column=label_column,
        label_names=label_names,
        text_column=text_column,
        template=template,
        words=words,
        probes=probes,
        probe_train=probe_train,
        probe_test=probe_test,
        pooling=pooling,
        budget=budget,
        floor=floor,
        trials=trials,
        time_limit=time_limit,
        seed=seed,
        space=space,
        sampler=sampler,
        objective=objective,
        method=method,
        multiple=multiple,
        refit=refit,
        racing=racing,
        proposals=proposals,
        warm_start=warm_start,
        include=include,
        exclude=exclude,
        calibration_examples=calibration_examples,
        search_examples=search_examples,
        selection_examples=selection_examples,
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        seq_len=seq_len,
        scoring_batch_size=scoring_batch_size,
        threads=threads,
        lengths=lengths,
        profile=profile,
        offline=offline,
        trust_remote_code=trust_remote_code,
        stream=stream,
        storage=storage,
        crew=o.crew(workers, ray_address, gpus_per_worker, worker_timeout),
    )
    _run(spec, study or o.default_folder(spec), json)


@reported
def resume(
    study: o.StudyArgument,
    trials: Annotated[int | None, typer.Option(min=1, help="Another number of trials to complete.")] = None,
    time_limit: o.TimeLimit = None,
    workers: o.Workers = None,
    ray_address: o.RayAddress = None,
    gpus_per_worker: o.GpusPerWorker = None,
    worker_timeout: o.WorkerTimeout = None,
    storage: Annotated[str | None, typer.Option(help="The study's database, to give its password once more.")] = None,
    model: places.Model = None,
    train: places.Train = None,
    validation: places.Validation = None,
    test: places.Test = None,
    probes: places.Probes = None,
    space: places.Space = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="First make a damaged journal anew, of the files that trials have.")
    ] = False,
    json: o.Json = False,
) -> None:
    """Go on with a study that was stopped or killed or moved, or with more trials than before."""
    from autolr.search.study.database import check_private, without_password
    from autolr.search.study.folder import StudyFolder

    folder = StudyFolder.existing(study)
    spec = places.spec_at(study, model=model, train=train, validation=validation, test=test, probes=probes, space=space)
    check_private(storage, (ray_address or spec.crew.ray_address) is not None)
    if storage is not None and without_password(storage) != spec.storage:
        raise UsageError(f"the trials of {study} are kept in {spec.storage or 'its own folder'}, not in --storage")
    crew = CrewSpec(**{**spec.crew.model_dump(), **o.crew(workers, ray_address, gpus_per_worker, worker_timeout)})
    changes = {"trials": trials or spec.trials, "time_limit": o.parse_duration(time_limit), "crew": crew}
    if rebuild:
        from autolr.search.study.rebuild import rebuild as rebuild_journal

        with progress() as listener, folder.locked():
            rebuild_journal(folder, listener)
    _run(spec.model_copy(update=changes), study, json)


def _run(spec: StudySpec, path: Path, as_json: bool) -> None:
    from autolr.report.front_table import result_table
    from autolr.report.sentences import missed_limits, next_commands, result_lines
    from autolr.search.study.folder import StudyFolder
    from autolr.workflows.search import run_search

    folder = StudyFolder(path)
    try:
        with progress() as listener:
            result = run_search(spec, folder, listener)
    except Stopped as stop:
        raise Stopped(f"{stop}\ngo on with: {command('resume', path)}") from stop
    if as_json:
        print_json({"study": str(path), **result.to_json()})
    else:
        out.print(result_table(result, spec))
        for line in result_lines(result, spec, path):
            out.print(line, highlight=False, markup=False, soft_wrap=True)
        for line in next_commands(result, path):
            out.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    if not result.reached:
        missed = "; ".join(missed_limits(result, spec)) or "see the table"
        err.print(f"[bold red]not reached:[/] {missed}; the nearest candidate was exported", highlight=False)
        raise typer.Exit(3)


@reported
def estimate(
    budget: o.Budgets,
    model: o.Model = None,
    task: o.Task = "nli",
    train: o.Train = None,
    validation: o.Validation = None,
    test: o.Test = None,
    dataset: o.Dataset = None,
    premise_column: o.PremiseColumn = "premise",
    hypothesis_column: o.HypothesisColumn = "hypothesis",
    label_column: o.LabelColumn = "label",
    label_names: o.LabelNames = None,
    text_column: o.TextColumn = "text",
    template: o.Templates = None,
    words: o.Words = None,
    probes: o.Probes = None,
    probe_train: o.ProbeTrain = 200,
    probe_test: o.ProbeTest = 150,
    pooling: o.Pooling = "mean",
    trials: o.Trials = 40,
    study: o.Study = None,
    seed: o.Seed = 0,
    method: o.Methods = None,
    multiple: o.Multiple = 8,
    refit: o.Refit = True,
    include: o.Include = None,
    exclude: o.Exclude = None,
    calibration_examples: o.Calibration = 1024,
    search_examples: o.SearchN = 1000,
    selection_examples: o.SelectionN = 1000,
    device: o.Device = "cpu",
    dtype: o.Dtype = "float32",
    batch_size: o.BatchSize = 8,
    seq_len: o.SeqLen = None,
    scoring_batch_size: o.ScoringBatch = 64,
    threads: o.Threads = None,
    lengths: o.Lengths = None,
    profile: o.Profile = None,
    offline: o.Offline = False,
    trust_remote_code: o.TrustRemoteCode = False,
    stream: o.Stream = False,
    json: o.Json = False,
) -> None:
    """Say what each budget can reach, and what the search would take in time and disk, before anything is spent."""
    from autolr.report.measurements import estimate_table
    from autolr.workflows.estimate import estimate_study

    spec = o.collect(
        model=model,
        task=task,
        train=train,
        validation=validation,
        test=test,
        dataset=dataset,
        premise_column=premise_column,
        hypothesis_column=hypothesis_column,
        label_column=label_column,
        label_names=label_names,
        text_column=text_column,
        template=template,
        words=words,
        probes=probes,
        probe_train=probe_train,
        probe_test=probe_test,
        pooling=pooling,
        budget=budget,
        floor=None,
        trials=trials,
        time_limit=None,
        seed=seed,
        space="importance",
        sampler="botorch",
        objective=None,
        method=method,
        multiple=multiple,
        refit=refit,
        racing=True,
        proposals=None,
        warm_start=None,
        include=include,
        exclude=exclude,
        calibration_examples=calibration_examples,
        search_examples=search_examples,
        selection_examples=selection_examples,
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        seq_len=seq_len,
        scoring_batch_size=scoring_batch_size,
        threads=threads,
        lengths=lengths,
        profile=profile,
        offline=offline,
        trust_remote_code=trust_remote_code,
        stream=stream,
    )
    with progress() as listener:
        found = estimate_study(spec, study or o.default_folder(spec), listener)
    if json:
        print_json(found)
    else:
        for part in estimate_table(found):
            out.print(part, highlight=False, markup=False)
    if not all(row["reachable"] for row in found["budgets"]):
        raise typer.Exit(3)
