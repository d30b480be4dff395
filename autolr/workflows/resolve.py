"""From options to a specification: what the command line, the Python API and a service have in common.

Options are given by name, as ``autolr search --help`` has them, with underscores for dashes; what is not given is the
specification's default.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import isinf
from pathlib import Path
from typing import Any

from autolr.errors import UsageError, nearest
from autolr.scores import TASKS
from autolr.spec.options import SpecOption, find_option, flag_of, given_path, name_of, options_of
from autolr.spec.plain import Named, read_yaml
from autolr.spec.spaces import load_space_config
from autolr.spec.study import SPACE_FILES, CrewSpec, SearchSpec, StudySpec, make_spec

Given = Mapping[str, object]
"""Option -> value, plain or as text; None stands for what is not given."""
PROFILED = ("batch_size", "seq_len", "lengths", "dtype", "device", "threads")
"""What a latency profile may give."""
_PROBES = "probes"
"""The objective that is an axis of its own, beside the search signal."""


def resolve(given: Given, profile: Path | str | None = None, typed: bool = False) -> StudySpec:
    """Build the specification of a study from options.

    Args:
        given: the options, by name or by field: ``budget`` or ``budgets``. An option that repeats takes one value or
            several; lists and durations are also read from text (``"32,20"``, ``"30m"``).
        profile: a YAML file whose settings take the place of those given.
        typed: whether messages name options as they are typed, ``--batch-size``; else ``batch_size``.

    Raises:
        UsageError: there is no such option, or its value is malformed.

    Example:
        >>> spec = resolve({"budget": "0.5x-flops", "time_limit": "2m", "objective": ["accuracy"]})
        >>> spec.budgets, spec.time_limit, spec.search.objective, spec.search.methods
        (('0.5x-flops',), 120.0, 'accuracy', ('kfac', 'losparse'))
    """
    named = partial(flag_of if typed else name_of, StudySpec)
    values: dict[tuple[str, ...], Any] = {}
    for name, value in given.items():
        if value is not None:
            option = find_option(StudySpec, name)
            if option.path in values:
                raise UsageError(f"{named(option.path)} is given twice, also as {name!r}")
            values[option.path] = _read(option, value, named)
    _settle(values, named)
    plain = _nested(values)
    plain["run"] = {**plain.get("run", {}), **read_profile(profile)}
    spec = make_spec(plain, "", named)
    _check_sensible(spec, values, named)
    return spec


def moved(spec: StudySpec, places: Given) -> StudySpec:
    """Return a specification that says where contents are now; that they are the same is proved when they are read.

    Args:
        spec: of a study.
        places: option -> where its contents are now, of ``model``, ``train``, ``validation``, ``test``, ``probes``,
            ``space``; None: where they were.

    Raises:
        UsageError: an option is no place.
    """
    names = {option.path: option.name for option in options_of(StudySpec).values() if option.option.place}
    values: dict[tuple[str, ...], Any] = {}
    for name, value in places.items():
        path = find_option(StudySpec, name).path
        if path not in names:
            raise UsageError(f"{name} is no place; places are {', '.join(names.values())}")
        if value is not None:
            given_path(value, name)
            hub = spec.data.dataset is not None and path[-1] in ("train", "validation", "test")
            values[path] = str(value) if hub else absolute(str(value))
    return changed(spec, values)


def changed(spec: StudySpec, values: Mapping[tuple[str, ...], Any]) -> StudySpec:
    """Return a specification with other values of some fields, by their keys."""
    outer = {path[0]: value for path, value in values.items() if len(path) == 1}
    for key in {path[0] for path in values if len(path) == 2}:
        inner = {path[1]: value for path, value in values.items() if path[0] == key}
        outer[key] = getattr(spec, key).model_copy(update=inner)
    return spec.model_copy(update=outer)


def with_workers(crew: CrewSpec, given: Given, typed: bool = False) -> CrewSpec:
    """Return who runs the trials, as a study has it but for what is given.

    Raises:
        UsageError: a value is malformed.

    Example:
        >>> with_workers(CrewSpec(workers=4), {"worker_timeout": "1m", "ray_address": None})
        CrewSpec(workers=4, ray_address=None, gpus_per_worker=None, timeout=60.0)
    """
    told = {name: value for name, value in given.items() if value is not None}
    parsed = resolve({"budget": "1x-flops", **told}, typed=typed).crew
    fields = {find_option(StudySpec, name).path[-1] for name in told}
    return crew.model_copy(update={name: getattr(parsed, name) for name in fields})


def read_profile(path: Path | str | None) -> dict[str, Any]:
    """Return the settings of a latency profile; none without one.

    Raises:
        UsageError: the file cannot be read, or has something else in it.
    """
    if path is None:
        return {}
    plain = read_yaml(given_path(path, "profile"))
    if not isinstance(plain, dict) or not plain:
        raise UsageError(f"{path} is not a latency profile: it must give some of {', '.join(PROFILED)}")
    for name in plain:
        if name not in PROFILED:
            raise UsageError(f"{path} gives {name!r}, which a latency profile does not have; {nearest(name, PROFILED)}")
    return plain


def absolute(source: str) -> str:
    """Return an existing path as absolute, so that a study resumes from any directory; ids and mistakes as they are."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source


def default_folder(spec: StudySpec) -> Path:
    """Return where a study goes when no folder is named: studies/<model>-<budgets>."""
    name = Path(spec.model).name if spec.model else "example"
    slug = re.sub(r"[^\w.%-]+", "-", "-".join([name, *spec.budgets]))
    return Path("studies") / slug


def _read(option: SpecOption, value: object, named: Named) -> Any:
    """Return an option's value as YAML would give it."""
    read: Callable[[str, str], Any] | None = option.option.read
    if isinstance(value, Path):
        value = str(value)
    if option.option.place and isinstance(value, str):
        given_path(value, named(option.path))
    if isinstance(value, str) and read is not None:
        return read(value, named(option.path))
    if option.many and isinstance(value, str):
        return [value]
    if isinstance(value, (list, tuple)):
        return [str(part) if isinstance(part, Path) else part for part in value]
    return value


def _settle(values: dict[tuple[str, ...], Any], named: Named) -> None:
    """Fill in what depends on several options: places, the search signal, the space's own methods and recovery."""
    hub = values.get(("data", "dataset")) is not None
    places = [option.path for option in options_of(StudySpec).values() if option.option.place]
    for path in places:
        place = values.get(path)
        splits = hub and path[-1] in ("train", "validation", "test")
        preset = path == ("search", "space") and not str(place).endswith(SPACE_FILES)
        if isinstance(place, str) and not splits and not preset:
            values[path] = absolute(place)
    signals = values.get(("search", "objective"))
    if signals is not None:
        values |= _objectives([signals] if isinstance(signals, str) else signals, named)
    space = load_space_config(str(values.get(("search", "space"), SearchSpec().space)))
    if not values.get(("search", "methods")):
        values["search", "methods"] = list(space.methods or SearchSpec().methods)
    if space.recovery:
        values.setdefault(("search", "recovery"), space.recovery)
    storage = values.get(("storage",))
    if isinstance(storage, str):
        from autolr.optimization.study.database import without_password

        values["storage",] = without_password(storage)


def _check_sensible(spec: StudySpec, values: Mapping[tuple[str, ...], Any], named: Named) -> None:
    """Refuse what a record may hold, and a study of an earlier version does, but nobody means who gives it now.

    Raises:
        UsageError: a limit is infinite, a name is given twice, or the task does not read a setting.
    """
    for path, seconds in {("time_limit",): spec.time_limit, ("crew", "timeout"): spec.crew.timeout}.items():
        if seconds is not None and isinf(seconds):
            raise UsageError(f"{named(path)} must be finite (got {seconds}); leave it out for none")
    for path, value in values.items():
        texts = [part for part in value if isinstance(part, str)] if isinstance(value, (list, tuple)) else []
        if twice := next((text for text in texts if texts.count(text) > 1), None):
            raise UsageError(f"{named(path)} is given {twice!r} twice; name each once")
    task = TASKS.get(spec.task)
    options = {option.path: option for option in options_of(StudySpec).values()}
    settings = {name for kind in TASKS for name in kind.options} if task.options else set()  # else it does not say
    for name in sorted(settings - set(task.options)):
        path = ("data", name)
        if values.get(path) not in (None, options[path].default) and values[path]:
            read = ", ".join(named(("data", other)) for other in task.options)
            raise UsageError(f"task {task.name} does not read {named(path)}; it reads {read}")


def _objectives(given: Sequence[str], named: Named) -> dict[tuple[str, ...], Any]:
    """Return the search signal, where one is given, and whether the probes are a third axis."""
    signals = [name for name in given if name != _PROBES]
    if len(signals) > 1:
        raise UsageError(
            f"{named(['search', 'objective'])} names {' and '.join(map(str, signals))}; a search has one signal, and "
            f"{_PROBES} beside it"
        )
    return {("search", "probe_axis"): _PROBES in given, ("search", "objective"): signals[0] if signals else ""}


def _nested(values: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for path, value in values.items():
        inner = plain
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = value
    return plain
