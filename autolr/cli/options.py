"""The options that several commands share, and how they become a specification."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from autolr.errors import UsageError, nearest
from autolr.spec.study import SPACE_FILES, StudySpec, make_spec, read_yaml

# Options without a panel of their own are those that most people need; they are shown first.
_data = partial(typer.Option, rich_help_panel="Data")
_probing = partial(typer.Option, rich_help_panel="Probes")
_search = partial(typer.Option, rich_help_panel="Search")
_cost = partial(typer.Option, rich_help_panel="What costs are stated for")
_runs = partial(typer.Option, rich_help_panel="Where it runs")
_output = partial(typer.Option, rich_help_panel="Output")

Json = Annotated[bool, _output("--json", help="Print the result as JSON on stdout.")]
StudyArgument = Annotated[Path, typer.Argument(metavar="STUDY", help="The study's folder.")]
Model = Annotated[str | None, typer.Option(help="Model directory or hub id; none: the embedded example.")]
Task = Annotated[
    str,
    typer.Option(help="nli: pairs of sentences, for a classifier or, by prompts, a decoder; lm: next tokens of text."),
]
Train = Annotated[
    str | None,
    typer.Option(help="Pairs (.jsonl, .csv, .tsv) or text (.txt too) to calibrate on, or a split of --dataset."),
]
Validation = Annotated[str | None, typer.Option(help="Data to search and select on.")]
Test = Annotated[str | None, typer.Option(help="Data to report on; none: a part of the validation data.")]
Dataset = Annotated[str | None, _data(help="Hub data set, such as nyu-mll/glue:mnli; splits by --train ...")]
PremiseColumn = Annotated[str, _data(help="Column of the first sentence.")]
HypothesisColumn = Annotated[str, _data(help="Column of the second sentence.")]
LabelColumn = Annotated[str, _data(help="Column of the label.")]
LabelNames = Annotated[str | None, _data(help="What the model's ids 0,1,... mean, comma-separated.")]
TextColumn = Annotated[str, _data(help="Column of the text (task lm).")]
Templates = Annotated[
    list[str] | None,
    _data("--template", help="Prompt with {premise} and {hypothesis} for a decoder (task nli); repeatable."),
]
Words = Annotated[
    str | None, _data(help="Words after the prompt for entailment,neutral,contradiction; none: Yes,Maybe,No.")
]
Budgets = Annotated[
    list[str],
    typer.Option("--budget", help="0.5x-latency, 12ms-latency, 0.5x-flops, 50%-params, 400MB-memory ...; repeatable."),
]
Floors = Annotated[
    list[str] | None,
    typer.Option(
        "--floor",
        help="'accuracy>=0.98*dense', also of agreement and probe; of task lm 'perplexity<=1.1*dense', also of loss; "
        "repeatable.",
    ),
]
Trials = Annotated[int, typer.Option(min=1, help="Trials to complete, the dense model and the seeds included.")]
TimeLimit = Annotated[
    str | None,
    _search(
        help="Begin no trial after 90s, 30m, 2h; timing layers and choosing the winner come on top. It can be resumed."
    ),
]
Study = Annotated[Path | None, typer.Option(help="The study's folder; none: studies/<model>-<budget>.")]
Seed = Annotated[int, _search(min=0, help="Of everything random.")]
Space = Annotated[
    str, _search(help="Search space: importance, grouped, per-layer, a published scheme, or a YAML file.")
]
Sampler = Annotated[str, _search(help="botorch, gp, tpe, nsga2 or random.")]
Objective = Annotated[
    list[str] | None,
    _search(
        help="The search signal: divergence (default), accuracy or agreement with the dense model; lm: loss too. "
        "probes beside it: what probes find as a third axis."
    ),
]
Probes = Annotated[
    str | None,
    _probing(help="Probing tasks, a file or a folder (split, label, sentence between tabs): a score, probe."),
]
ProbeTrain = Annotated[int, _probing(min=20, help="Sentences of each task that train its probe.")]
ProbeTest = Annotated[
    int, _probing(min=6, help="Test sentences of each task, divided among search, selection and report.")
]
Pooling = Annotated[str, _probing(help="Of a sentence's tokens for the probes: mean, first or last.")]
Methods = Annotated[list[str] | None, _search("--method", help="Methods to choose from; repeatable.")]
Multiple = Annotated[int, _search(min=1, help="Ranks are multiples of it.")]
WarmStart = Annotated[
    Path | None, _search(help="Begin with the best points of this study: another budget, seed or sibling model.")
]
Refit = Annotated[
    bool, _search(help="Refit the finalists' layers to the dense model by least squares on calibration pairs.")
]
Racing = Annotated[
    bool,
    _search(help="Score a candidate on growing parts of the search data, until a better one is found to dominate it."),
]
Proposals = Annotated[
    int | None, _search(min=1, help="Candidates proposed at once; none: so many that proposing costs little.")
]
Include = Annotated[list[str] | None, _search(help="Glob of layers to compress; repeatable.")]
Exclude = Annotated[list[str] | None, _search(help="Glob of layers to leave dense; repeatable.")]
Calibration = Annotated[int, _data("--calibration-examples", min=1, help="Train pairs used.")]
SearchN = Annotated[int, _data("--search-examples", min=2, help="Validation pairs each trial is scored on.")]
SelectionN = Annotated[int, _data("--selection-examples", min=2, help="Validation pairs the winner is chosen on.")]
Device = Annotated[str, _runs(help="cpu, cuda, cuda:1 ...")]
AnyDevice = Annotated[
    str, _runs("--device", help="cpu, cuda, cuda:1 ...; auto: spread over all there are (needs accelerate).")
]
Dtype = Annotated[str, _cost(help="float32, bfloat16 or float16.")]
BatchSize = Annotated[int, _cost(min=1, help="Batch that costs are stated for.")]
SeqLen = Annotated[
    int | None,
    _cost(
        min=1,
        help="Tokens that costs hold for; none: the mean length of the search data, rounded up to a multiple of 8.",
    ),
]
ScoringBatch = Annotated[int, _runs("--scoring-batch-size", min=1, help="Batch that models are scored in.")]
Threads = Annotated[int | None, _cost(min=1, help="CPU threads; none: torch's own choice.")]
Lengths = Annotated[
    str | None, _cost(help="Tokens of a batch's sequences in turn, such as 32,20,12; none: all --seq-len.")
]
Profile = Annotated[
    Path | None,
    _cost(help="YAML file with batch_size, seq_len, lengths, dtype, device, threads; takes their place."),
]
Offline = Annotated[bool, _runs(help="Never reach for the hub.")]
TrustRemoteCode = Annotated[bool, _runs(help="Run code that the model brings along.")]
Stream = Annotated[
    bool,
    _runs(
        "--stream", help="Calibrate block by block, for models whose activations and statistics do not fit into memory."
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes that run trials, by Ray; none: 1, in this process alone.")
]
RayAddress = Annotated[str | None, _runs(help="Cluster to run workers on: auto, or host:port; none: this machine.")]
GpusPerWorker = Annotated[
    float | None, _runs(min=0.0, help="Share of a GPU for each worker, such as 0.25; none: a whole one.")
]
WorkerTimeout = Annotated[
    str | None, _runs(help="A worker that finishes no batch for so long is ended: 90s, 10m; none: 10m.")
]
Storage = Annotated[
    str | None,
    _runs(help="postgresql://user@host/database for several drivers; none: a journal in the study's folder."),
]

DEFAULT_METHODS = ("kfac", "losparse")


def parse_duration(text: str | None, option: str = "--time-limit") -> float | None:
    """Return seconds.

    Raises:
        UsageError: the text is not a duration.

    Example:
        >>> parse_duration("2m"), parse_duration("90"), parse_duration(None)
        (120.0, 90.0, None)
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"{option} {text!r} must be a duration above zero such as 90s, 30m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


_OTHER_NAMES = {
    "budgets": "budget",
    "floors": "floor",
    "methods": "method",
    "templates": "template",
    "timeout": "worker-timeout",
}
"""Options that are not called as their field is."""


def from_options(plain: dict[str, Any]) -> StudySpec:
    """Build a specification from the values of options.

    Raises:
        UsageError: one is malformed; names the option, the value seen and what is allowed.
    """
    return make_spec(plain, "", option_of)


def option_of(place: Sequence[int | str]) -> str:
    """Return the option that a field of the specification is given by.

    Example:
        >>> option_of(["run", "scoring_batch_size"]), option_of(["budgets", 0])
        ('--scoring-batch-size', '--budget')
    """
    key = [step for step in place if isinstance(step, str)][-1]
    return "--" + _OTHER_NAMES.get(key, key.replace("_", "-"))


def objectives(given: list[str] | None) -> dict[str, Any]:
    """Return the search signal, and whether the probes are a third axis.

    Raises:
        UsageError: there are two signals.

    Example:
        >>> objectives(["probes"])
        {'objective': 'divergence', 'probe_axis': True}
    """
    signals = [name for name in given or [] if name != "probes"]
    if len(signals) > 1:
        raise UsageError(f"--objective names {' and '.join(signals)}; a search has one signal, and probes beside it")
    return {"objective": signals[0] if signals else "divergence", "probe_axis": "probes" in (given or [])}


def names(text: str | None) -> list[str] | None:
    """Return the names of a list such as ``yes, no``.

    Example:
        >>> names("yes, no"), names(None)
        (['yes', 'no'], None)
    """
    return [name.strip() for name in text.split(",")] if text else None


def parse_lengths(text: str | None) -> list[int]:
    """Return the lengths of a list such as ``32,20``.

    Raises:
        UsageError: it is not a list of whole numbers above zero.

    Example:
        >>> parse_lengths("32, 20"), parse_lengths(None)
        ([32, 20], [])
    """
    if text is None:
        return []
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--lengths {text!r} must be whole numbers above zero, such as 32,20,12")
    return [int(part) for part in parts]


PROFILED = ("batch_size", "seq_len", "lengths", "dtype", "device", "threads")


def crew(
    workers: int | None, ray_address: str | None, gpus_per_worker: float | None, worker_timeout: str | None
) -> dict[str, Any]:
    """Return what is given of the settings about workers, in the specification's form.

    Raises:
        UsageError: the timeout is malformed.
    """
    given = {
        "workers": workers,
        "ray_address": ray_address,
        "gpus_per_worker": gpus_per_worker,
        "timeout": parse_duration(worker_timeout, "--worker-timeout"),
    }
    return {name: value for name, value in given.items() if value is not None}


def read_profile(path: Path | None) -> dict[str, Any]:
    """Return the settings of a latency profile.

    Raises:
        UsageError: the file cannot be read, or has something else in it.
    """
    if path is None:
        return {}
    plain = read_yaml(path)
    if not isinstance(plain, dict) or not plain:
        raise UsageError(f"{path} is not a latency profile: it must give some of {', '.join(PROFILED)}")
    for name in plain:
        if name not in PROFILED:
            raise UsageError(f"{path} gives {name!r}, which a latency profile does not have; {nearest(name, PROFILED)}")
    return plain


def collect(
    *,
    model: str | None,
    task: str,
    train: str | None,
    validation: str | None,
    test: str | None,
    dataset: str | None,
    premise_column: str,
    hypothesis_column: str,
    label_column: str,
    label_names: str | None,
    text_column: str,
    template: list[str] | None,
    words: str | None,
    probes: str | None,
    probe_train: int,
    probe_test: int,
    pooling: str,
    budget: list[str],
    floor: list[str] | None,
    trials: int,
    time_limit: str | None,
    seed: int,
    space: str,
    sampler: str,
    objective: list[str] | None,
    method: list[str] | None,
    multiple: int,
    refit: bool,
    racing: bool,
    proposals: int | None,
    warm_start: Path | None,
    include: list[str] | None,
    exclude: list[str] | None,
    calibration_examples: int,
    search_examples: int,
    selection_examples: int,
    device: str,
    dtype: str,
    batch_size: int,
    seq_len: int | None,
    scoring_batch_size: int,
    threads: int | None,
    lengths: str | None,
    profile: Path | None,
    offline: bool,
    trust_remote_code: bool,
    stream: bool = False,
    storage: str | None = None,
    crew: dict[str, Any] | None = None,
) -> StudySpec:
    """Build the specification from the options.

    Raises:
        UsageError: an option's value is malformed.
    """
    from autolr.search.study.database import without_password
    from autolr.spec.spaces import load_space_config

    plain: dict[str, Any] = {
        "model": absolute(model),
        "task": task,
        "data": {
            "train": train if dataset else absolute(train),
            "validation": validation if dataset else absolute(validation),
            "test": test if dataset else absolute(test),
            "dataset": dataset,
            "premise_column": premise_column,
            "hypothesis_column": hypothesis_column,
            "label_column": label_column,
            "label_names": names(label_names),
            "text_column": text_column,
            "templates": template or [],
            "words": names(words) or [],
            "probes": absolute(probes),
            "probe_train": probe_train,
            "probe_test": probe_test,
            "pooling": pooling,
            "calibration_examples": calibration_examples,
            "search_examples": search_examples,
            "selection_examples": selection_examples,
        },
        "budgets": budget,
        "floors": floor or [],
        "trials": trials,
        "time_limit": parse_duration(time_limit),
        "seed": seed,
        "search": {
            "space": absolute(space) if space.endswith(SPACE_FILES) else space,
            "sampler": sampler,
            **objectives(objective),
            "methods": list(method or load_space_config(space).methods or DEFAULT_METHODS),
            "multiple": multiple,
            "refit": refit,
            "racing": racing,
            "proposals": proposals,
            "warm_start": None if warm_start is None else str(warm_start.resolve()),
            "include": include or [],
            "exclude": exclude or [],
        },
        "run": {
            "device": device,
            "dtype": dtype,
            "batch_size": batch_size,
            "seq_len": seq_len,
            "scoring_batch_size": scoring_batch_size,
            "threads": threads,
            "lengths": parse_lengths(lengths),
            "offline": offline,
            "trust_remote_code": trust_remote_code,
            "stream": stream,
            **read_profile(profile),
        },
        "storage": storage and without_password(storage),
        "crew": crew or {},
    }
    return from_options(plain)


def absolute(source: str | None) -> str | None:
    """Return an existing path as absolute, so that a study resumes from any directory; ids and mistakes as they are."""
    if source is None:
        return None
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source


def default_folder(spec: StudySpec) -> Path:
    """Return where a study goes when no folder is named: studies/<model>-<budgets>."""
    name = Path(spec.model).name if spec.model else "example"
    slug = re.sub(r"[^\w.%-]+", "-", "-".join([name, *spec.budgets]))
    return Path("studies") / slug
