"""What a study is asked to do: its specification, strict and readable."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from autolr.errors import UsageError, nearest
from autolr.registry import Registry
from autolr.scores import NLI, PROBE, SCORES, TASKS
from autolr.spec.budgets import Budget, Floor


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
SPACE_FILES = (".yaml", ".yml")


class Strict(BaseModel):
    """Base of everything read from YAML: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DataSpec(Strict):
    """Where the data come from; see the options ``--train``, ``--validation``, ``--test``, ``--dataset``.

    ``templates`` and ``words`` are those of a language model that is asked in words; none: the task's own.
    ``probes`` is a file or folder of probing tasks; of each, ``probe_train`` sentences train the probes, and
    ``probe_test`` are divided among search, selection and report.
    """

    train: str | None = None
    validation: str | None = None
    test: str | None = None
    dataset: str | None = None
    premise_column: str = "premise"
    hypothesis_column: str = "hypothesis"
    label_column: str = "label"
    label_names: tuple[str, ...] | None = None
    text_column: str = "text"
    templates: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    probes: str | None = None
    probe_train: Annotated[int, Field(ge=20)] = 200
    probe_test: Annotated[int, Field(ge=6)] = 150
    pooling: Literal["mean", "first", "last"] = "mean"
    calibration_examples: Annotated[int, Field(ge=1)] = 1024
    search_examples: Annotated[int, Field(ge=2)] = 1000
    selection_examples: Annotated[int, Field(ge=2)] = 1000


class SearchSpec(Strict):
    """How candidates are proposed and compared; ``probe_axis`` makes the probes' score a third objective.

    ``objective`` is a score of the study's task; empty: the task's own, which a specification of a study fills in.
    ``recovery`` names what finalists get after truncation; without ``refit`` they get nothing.
    """

    space: str = "importance"
    sampler: str = "botorch"
    objective: Annotated[str, AfterValidator(_checked_score)] = ""
    probe_axis: bool = False
    methods: Annotated[tuple[str, ...], Field(min_length=1)] = ("kfac", "losparse")
    multiple: Annotated[int, Field(ge=1)] = 8
    refit: bool = True
    recovery: str = "refit"
    racing: bool = True
    proposals: Annotated[int, Field(ge=1)] | None = None
    warm_start: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


class RunSpec(Strict):
    """Under which conditions models run and costs are stated."""

    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_size: Annotated[int, Field(ge=1)] = 8
    seq_len: Annotated[int, Field(ge=1)] | None = None
    scoring_batch_size: Annotated[int, Field(ge=1)] = 64
    threads: Annotated[int, Field(ge=1)] | None = None
    lengths: tuple[Annotated[int, Field(ge=1)], ...] = ()
    offline: bool = False
    trust_remote_code: bool = False
    stream: bool = False


class CrewSpec(Strict):
    """Who runs the trials; see the options ``--workers``, ``--ray-address``, ``--gpus-per-worker``.

    ``timeout`` is how many seconds a worker may go without finishing a batch.
    """

    workers: Annotated[int, Field(ge=1)] = 1
    ray_address: str | None = None
    gpus_per_worker: Annotated[float, Field(ge=0)] | None = None
    timeout: Annotated[float, Field(gt=0)] = 600.0


class StudySpec(Strict):
    """Everything that decides what a study computes.

    ``model`` None is the embedded example; ``storage`` None is a journal file. ``trials``, ``time_limit`` (seconds) and
    ``crew`` may change when a study goes on, and so may the places of what it is given; everything else may not.
    """

    model: str | None = None
    task: Annotated[str, AfterValidator(_checked_task)] = NLI.name
    data: DataSpec = DataSpec()
    budgets: Annotated[tuple[Annotated[str, AfterValidator(_checked_budget)], ...], Field(min_length=1)]
    floors: tuple[Annotated[str, AfterValidator(_checked_floor)], ...] = ()
    trials: Annotated[int, Field(ge=1)] = 40
    time_limit: Annotated[float, Field(gt=0)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    search: SearchSpec = SearchSpec()
    run: RunSpec = RunSpec()
    storage: Annotated[str, AfterValidator(_without_secret)] | None = None
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
        left_out = {"trials", "time_limit", "crew"} | ({"storage"} if self.storage is None else set())
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


def flatten(plain: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return nested mappings as (dotted name, value) pairs.

    Example:
        >>> flatten({"a": {"b": 1}, "c": [2]})
        [('a.b', 1), ('c', [2])]
    """
    pairs: list[tuple[str, Any]] = []
    for key, value in plain.items():
        if isinstance(value, Mapping):
            pairs.extend(flatten(value, f"{prefix}{key}."))
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


Named = Callable[[Sequence[int | str]], str]
"""Gives a field's name by its keys."""


def make_spec(plain: Any, origin: str, named: Named | None = None) -> StudySpec:
    """Build a specification from plain values; see :func:`parse_plain`."""
    spec: StudySpec = parse_plain(TypeAdapter(StudySpec), plain, origin, StudySpec, named)
    return spec


def parse_plain(
    adapter: Any, plain: Any, origin: str, record: type[BaseModel] | None = None, named: Named | None = None
) -> Any:
    """Validate plain values strictly.

    Args:
        adapter: pydantic's, of the type wanted.
        plain: nested mappings, collected from options or read from YAML (where it may turn out to be anything).
        origin: what they came from, for the message; empty where the names of the fields say that.
        record: the type wanted, where it is one; an unknown key is then answered with the nearest of its keys.
        named: names a field in the message; None: by its keys with dots between them.

    Raises:
        UsageError: a value is malformed; the message names the field, the value seen and what is allowed.
    """
    try:
        # Lists in YAML stand for tuples here; strict mode would refuse them in Python mode.
        return adapter.validate_json(json.dumps(plain))
    except ValidationError as error:
        raise UsageError(f"{origin}: {readable(error, record, named)}".removeprefix(": ")) from error
    except (TypeError, ValueError) as error:  # YAML knows dates and sets, JSON does not
        raise UsageError(f"{origin}: only numbers, texts, lists and mappings are allowed: {error}") from error


class _UniqueKeys(yaml.SafeLoader):
    """Reads plain values only, and refuses a key that is given twice: YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"given twice: {', '.join(twice)}", node.start_mark)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def read_yaml(path: Path) -> Any:
    """Read a YAML file safely.

    Raises:
        UsageError: the file is missing, is not YAML or gives a key twice.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)  # noqa: S506  a safe loader
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {error}") from error


def readable(error: ValidationError, record: type[BaseModel] | None = None, named: Named | None = None) -> str:
    """Return pydantic's findings in one line: field, what must hold, the value seen; of unknown keys the nearest.

    Args:
        error: pydantic's.
        record: the type wanted, where it is one.
        named: gives a field's name by its keys; None: the keys with dots between them.
    """
    named = named or _dotted
    parts, findings = [], error.errors()
    for finding in findings:
        if finding["type"] == "too_short" and _holds_another(finding["loc"], findings):
            continue  # pydantic counts only the items that are valid themselves
        *place, key = finding["loc"] or ("the specification",)
        if finding["type"] == "extra_forbidden":
            parts.append(_unknown_key(str(key), place, record))
        elif finding["type"] == "missing":
            parts.append(f"{named([*place, key])} is not given")
        elif finding["type"] == "value_error" and not finding["loc"]:  # the record's own check, which names the keys
            parts.append(finding["msg"].removeprefix("Value error, "))
        else:
            seen = "" if key == "storage" else f" (got {finding['input']!r})"  # it may hold a password
            parts.append(f"{named([*place, key])}: {_rule(finding['msg'])}{seen}")
    return "; ".join(parts)


def _rule(message: str) -> str:
    return message.removeprefix("Value error, ").replace("Input should be", "must be")


def _holds_another(place: tuple[int | str, ...], findings: Sequence[Any]) -> bool:
    return any(len(one["loc"]) > len(place) and one["loc"][: len(place)] == place for one in findings)


def _unknown_key(key: str, place: Sequence[int | str], record: type[BaseModel] | None) -> str:
    keys = _keys_at(record, place)
    hint = f"; {nearest(key, keys)}" if keys else ""
    return f"unknown key {key!r} {f'in {_dotted(place)}' if place else 'at the top level'}{hint}"


def _keys_at(record: type[BaseModel] | None, place: Sequence[int | str]) -> list[str]:
    """Return the keys a record may have at a place of its nested form; none where that cannot be told."""
    for step in place:
        if isinstance(step, str) and record is not None:
            field = record.model_fields.get(step)
            inner = [] if field is None else [kind for kind in _kinds(field.annotation) if issubclass(kind, BaseModel)]
            record = inner[0] if len(inner) == 1 else None
    return [] if record is None else list(record.model_fields)


def _kinds(annotation: Any) -> list[type]:
    """Return the classes that an annotation such as ``tuple[Entry, ...]`` is made of."""
    inner = get_args(annotation)
    return [kind for part in inner for kind in _kinds(part)] if inner else [annotation] * isinstance(annotation, type)


def _dotted(place: Sequence[int | str]) -> str:
    """Return a place as a path.

    Example:
        >>> _dotted(["entries", 1, "name"])
        'entries[1].name'
    """
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    return path.removeprefix(".")
