"""What a study is asked to do: its specification, strict and readable.

Each field is described as an option where it stands; see :mod:`autolr.spec.options`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, TypeAdapter, model_validator

from autolr.errors import UsageError
from autolr.registry import Registry
from autolr.scores import NLI, PROBE, SCORES, TASKS
from autolr.spec.budgets import Budget, Floor
from autolr.spec.options import Option, duration, names, whole_numbers
from autolr.spec.plain import Named, Strict, flatten, parse_plain


def _checked_budget(text: str) -> str:
    return Budget.parse(text).text


def _checked_floor(text: str) -> str:
    return Floor.parse(text).text


def _checked_task(name: str) -> str:
    return _name_in(TASKS, name)


def _checked_score(name: str) -> str:
    return name and _name_in(SCORES, name)


def _name_in(table: Registry[Any], name: str) -> str:
    """Return a name of a table's, or raise what pydantic tells with the field's name."""
    try:
        return str(table.get(name).name)
    except UsageError as error:
        raise ValueError(str(error)) from error


def _without_secret(address: str) -> str:
    parts = urlsplit(address)
    if parts.password is not None or "password" in parts.query.lower():
        raise ValueError("a specification is stored, so an address in it must not hold a password")
    return address


PLACES = frozenset({"model", "data.train", "data.validation", "data.test", "data.dataset", "data.probes"})
"""Settings that say where contents lie: these may move, for the contents are compared themselves."""
MOST_THREADS = 1024
"""More than any machine has cores; each thread takes memory of its own."""
SPACE_FILES = (".yaml", ".yml")


class DataSpec(Strict):
    """Where the data come from.

    ``templates`` and ``words`` are those of a language model that is asked in words; none: the task's own.
    ``probes`` is a file or folder of probing tasks; of each, ``probe_train`` sentences train the probes, and
    ``probe_test`` are divided among search, selection and report.
    """

    train: Annotated[
        str | None,
        Option("Pairs (.jsonl, .csv, .tsv) or text (.txt too) to calibrate on, or a split of --dataset.", place=True),
    ] = None
    validation: Annotated[str | None, Option("Data to search and select on.", place=True)] = None
    test: Annotated[str | None, Option("Data to report on; none: a part of the validation data.", place=True)] = None
    dataset: Annotated[str | None, Option("Hub data set, such as nyu-mll/glue:mnli; splits by --train ...", "Data")] = (
        None
    )
    premise_column: Annotated[str, Option("Column of the first sentence.", "Data")] = "premise"
    hypothesis_column: Annotated[str, Option("Column of the second sentence.", "Data")] = "hypothesis"
    label_column: Annotated[str, Option("Column of the label.", "Data")] = "label"
    label_names: Annotated[
        tuple[str, ...] | None,
        Option("What the model's ids 0,1,... mean, comma-separated.", "Data", read=names),
    ] = None
    text_column: Annotated[str, Option("Column of the text (task lm).", "Data")] = "text"
    templates: Annotated[
        tuple[str, ...],
        Option("Prompt with {premise} and {hypothesis} for a decoder (task nli); repeatable.", "Data", name="template"),
    ] = ()
    words: Annotated[
        tuple[str, ...],
        Option("Words after the prompt for entailment,neutral,contradiction; none: Yes,Maybe,No.", "Data", read=names),
    ] = ()
    probes: Annotated[
        str | None,
        Option(
            "Probing tasks, a file or a folder (split, label, sentence between tabs): a score, probe.",
            "Probes",
            place=True,
        ),
    ] = None
    probe_train: Annotated[int, Field(ge=20), Option("Sentences of each task that train its probe.", "Probes")] = 200
    probe_test: Annotated[
        int,
        Field(ge=6),
        Option("Test sentences of each task, divided among search, selection and report.", "Probes"),
    ] = 150
    pooling: Annotated[
        Literal["mean", "first", "last"],
        Option("Of a sentence's tokens for the probes: mean, first or last.", "Probes"),
    ] = "mean"
    calibration_examples: Annotated[int, Field(ge=1), Option("Train pairs used.", "Data")] = 1024
    search_examples: Annotated[int, Field(ge=2), Option("Validation pairs each trial is scored on.", "Data")] = 1000
    selection_examples: Annotated[int, Field(ge=2), Option("Validation pairs the winner is chosen on.", "Data")] = 1000


class SearchSpec(Strict):
    """How candidates are proposed and compared; ``probe_axis`` makes the probes' score a third objective.

    ``objective`` is a score of the study's task; empty: the task's own, which a specification of a study fills in.
    ``recovery`` names what finalists get after truncation; without ``refit`` they get nothing.
    """

    space: Annotated[
        str,
        Option(
            "Search space: importance, grouped, per-layer, a published scheme, or a YAML file.", "Search", place=True
        ),
    ] = "importance"
    sampler: Annotated[str, Option("botorch, gp, tpe, nsga2 or random.", "Search")] = "botorch"
    objective: Annotated[
        str,
        AfterValidator(_checked_score),
        Option(
            "The search signal: divergence (default), accuracy or agreement with the dense model; lm: loss too. probes "
            "beside it: what probes find as a third axis.",
            "Search",
            repeats=True,
        ),
    ] = ""
    probe_axis: bool = False
    methods: Annotated[
        tuple[str, ...],
        Field(min_length=1),
        Option("Methods to choose from; repeatable, each once.", "Search", name="method"),
    ] = ("kfac", "losparse")
    forms: Annotated[
        tuple[str, ...],
        Option(
            "What a layer may become; repeatable, each once; none: all that the methods and the space allow.",
            "Search",
            name="form",
        ),
    ] = ()
    multiple: Annotated[int, Field(ge=1), Option("Ranks are multiples of it.", "Search")] = 8
    refit: Annotated[
        bool,
        Option("Refit the finalists' layers to the dense model by least squares on calibration pairs.", "Search"),
    ] = True
    recovery: Annotated[
        str,
        Option(
            "What the finalists get after truncation; none: the space's own, else refit; packages may register more.",
            "Search",
            settled=True,
        ),
    ] = "refit"
    racing: Annotated[
        bool,
        Option(
            "Score a candidate on growing parts of the search data, until a better one is found to dominate it.",
            "Search",
        ),
    ] = True
    proposals: Annotated[
        int | None,
        Field(ge=1),
        Option("Candidates proposed at once; none: so many that proposing costs little.", "Search"),
    ] = None
    warm_start: Annotated[
        str | None,
        Option(
            "Begin with the best points of this study: another budget, seed or sibling model.", "Search", place=True
        ),
    ] = None
    include: Annotated[tuple[str, ...], Option("Glob of layers to compress; repeatable.", "Search")] = ()
    exclude: Annotated[tuple[str, ...], Option("Glob of layers to leave dense; repeatable.", "Search")] = ()


class RunSpec(Strict):
    """Under which conditions models run and costs are stated."""

    device: Annotated[
        str,
        Option(
            "cpu, cuda, cuda:1 ...; for eval and probe also auto: spread over all there are (needs accelerate).",
            "Where it runs",
        ),
    ] = "cpu"
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        Option("float32, bfloat16 or float16.", "What costs are stated for"),
    ] = "float32"
    batch_size: Annotated[int, Field(ge=1), Option("Batch that costs are stated for.", "What costs are stated for")] = 8
    seq_len: Annotated[
        int | None,
        Field(ge=1),
        Option(
            "Tokens that costs hold for; none: the mean length of the search data, rounded up to a multiple of 8.",
            "What costs are stated for",
        ),
    ] = None
    scoring_batch_size: Annotated[int, Field(ge=1), Option("Batch that models are scored in.", "Where it runs")] = 64
    threads: Annotated[
        int | None,
        Field(ge=1, le=MOST_THREADS),
        Option(f"CPU threads, at most {MOST_THREADS}; none: torch's own choice.", "What costs are stated for"),
    ] = None
    lengths: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...],
        Option(
            "Tokens of a batch's sequences in turn, such as 32,20,12; none: all --seq-len.",
            "What costs are stated for",
            read=whole_numbers,
        ),
    ] = ()
    remeasure: Annotated[
        bool,
        Option(
            "Time layers also where times of another study on this machine are at hand.",
            "Where it runs",
            negated=False,
        ),
    ] = False
    offline: Annotated[bool, Option("Never reach for the hub.", "Where it runs")] = False
    trust_remote_code: Annotated[bool, Option("Run code that the model brings along.", "Where it runs")] = False
    stream: Annotated[
        bool,
        Option(
            "Calibrate block by block, for models whose activations and statistics do not fit into memory.",
            "Where it runs",
            negated=False,
        ),
    ] = False


class CrewSpec(Strict):
    """Who runs the trials. ``timeout`` is how many seconds a worker may go without finishing a batch."""

    workers: Annotated[int, Field(ge=1), Option("Processes that run trials, by Ray; 1: in this process alone.")] = 1
    ray_address: Annotated[
        str | None,
        Option("Cluster to run workers on: auto, or host:port; none: this machine.", "Where it runs"),
    ] = None
    gpus_per_worker: Annotated[
        float | None,
        Field(ge=0),
        Option("Share of a GPU for each worker, such as 0.25; none: a whole one.", "Where it runs"),
    ] = None
    timeout: Annotated[
        float,
        Field(gt=0),
        Option(
            "A worker that finishes no batch for so long is ended: 90s, 10m; none: 10m.",
            "Where it runs",
            name="worker_timeout",
            read=duration,
        ),
    ] = 600.0


class StudySpec(Strict):
    """Everything that decides what a study computes.

    ``model`` None is the embedded example; ``storage`` None is a journal file. ``trials``, ``time_limit`` (seconds) and
    ``crew`` may change when a study goes on, and so may the places of what it is given; everything else may not.
    """

    model: Annotated[str | None, Option("Model directory or hub id; none: the embedded example.", place=True)] = None
    task: Annotated[
        str,
        AfterValidator(_checked_task),
        Option("nli: pairs of sentences, for a classifier or, by prompts, a decoder; lm: next tokens of text."),
    ] = NLI.name
    data: DataSpec = DataSpec()
    budgets: Annotated[
        tuple[Annotated[str, AfterValidator(_checked_budget)], ...],
        Field(min_length=1),
        Option(
            "0.5x-latency, 12ms-latency, 0.5x-flops, 50%-params, 400MB-memory ...; repeatable, each once.",
            name="budget",
        ),
    ]
    floors: Annotated[
        tuple[Annotated[str, AfterValidator(_checked_floor)], ...],
        Option(
            "'accuracy>=0.98*dense', also of agreement and probe; of task lm 'perplexity<=1.1*dense', also of loss; "
            "repeatable.",
            name="floor",
        ),
    ] = ()
    trials: Annotated[int, Field(ge=1), Option("Trials to complete, the dense model and the seeds included.")] = 40
    time_limit: Annotated[
        float | None,
        Field(gt=0),
        Option(
            "Begin no trial after 90s, 30m, 2h; timing layers and choosing the winner come on top. It can be resumed.",
            "Search",
            read=duration,
        ),
    ] = None
    seed: Annotated[int, Field(ge=0), Option("Of everything random.", "Search")] = 0
    search: SearchSpec = SearchSpec()
    run: RunSpec = RunSpec()
    storage: Annotated[
        Annotated[str, AfterValidator(_without_secret)] | None,
        Option(
            "postgresql://user@host/database for several drivers; none: a journal in the study's folder.",
            "Where it runs",
        ),
    ] = None
    crew: CrewSpec = CrewSpec()

    @model_validator(mode="after")
    def _with_objective(self) -> "StudySpec":
        """Fill in the task's own objective where none is named."""
        if not self.search.objective:
            named = self.search.model_copy(update={"objective": TASKS.get(self.task).objective})
            object.__setattr__(self, "search", named)  # the record is frozen, and this is still its construction
        return self

    @model_validator(mode="after")
    def _objectives_measurable(self) -> "StudySpec":
        kinds = {kind.name: kind for kind in TASKS.get(self.task).given()}
        objective = SCORES.get(self.search.objective)
        if objective.exponential_of is not None:
            raise ValueError(f"objective {objective.name} is never measured; name {objective.exponential_of}")
        if objective.name not in kinds:
            raise ValueError(f"objective {objective.name} is {_of_tasks(objective.name)}; the task is {self.task}")
        for floor in self.parsed_floors:
            if floor.metric not in (*kinds, PROBE.name):
                raise ValueError(f"floor {floor.text} is {_of_tasks(floor.metric)}; the task is {self.task}")
        floored = any(floor.metric == PROBE.name for floor in self.parsed_floors)
        if self.data.probes is None and (floored or self.search.probe_axis):
            what = "a floor of probe" if floored else "objective probes"
            raise ValueError(f"{what} needs probing tasks; name their file or folder with --probes")
        return self

    @property
    def parsed_budgets(self) -> tuple[Budget, ...]:
        """The budgets; the first is the one the search's second objective counts."""
        return tuple(Budget.parse(text) for text in self.budgets)

    @property
    def parsed_floors(self) -> tuple[Floor, ...]:
        """The quality floors."""
        return tuple(Floor.parse(text) for text in self.floors)

    def identity(self) -> dict[str, Any]:
        """Return the settings that a study may not change, flat: dotted name -> plain value; places are among them."""
        left_out: dict[str, Any] = dict.fromkeys(("trials", "time_limit", "crew"), True) | {"run": {"remeasure"}}
        left_out |= {"storage": True} if self.storage is None else {}
        plain = self.model_dump(mode="json", exclude=left_out)
        return dict(flatten(plain))


def _of_tasks(score: str) -> str:
    tasks = [task.name for task in TASKS if score in {kind.name for kind in task.given()}]
    return f"of task {' and '.join(tasks)}" if tasks else "of no task"


def without_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return flat settings without those that say where contents lie; the space is one where it is a file.

    Example:
        >>> without_places({"model": "m", "seed": 0, "search.space": "mine.yaml"})
        {'seed': 0}
    """
    kept = {name: value for name, value in settings.items() if name not in PLACES}
    return {k: v for k, v in kept.items() if k != "search.space" or not str(v).endswith(SPACE_FILES)}


def make_spec(plain: Any, origin: str, named: Named | None = None) -> StudySpec:
    """Build a specification from plain values; see :func:`parse_plain`."""
    spec: StudySpec = parse_plain(TypeAdapter(StudySpec), plain, origin, StudySpec, named)
    return spec
