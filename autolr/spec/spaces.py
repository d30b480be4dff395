"""The YAML files of search spaces: the presets in ``search_spaces/`` by name, or the user's own by path."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, model_validator

from autolr.errors import UsageError, nearest
from autolr.registry import Registry, placed_function
from autolr.spec.plain import Strict, parse_plain, read_yaml, shown


class Bounds(Strict):
    """The range of a parameter."""

    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> "Bounds":
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        return self


class Factor(Bounds):
    """The range of a multiplier, searched on a logarithmic scale."""

    low: Annotated[float, Field(gt=0)]


class Named(Strict):
    """What every space may say.

    Attributes:
        kind: which space it is; a name of :data:`SPACES`.
        methods: those the space is meant for; used where the user names none.
        forms: likewise.
        recovery: likewise, what the finalists get after truncation.
    """

    kind: str
    methods: tuple[str, ...] = ()
    forms: tuple[str, ...] = ()
    recovery: str = ""


class ImportanceConfig(Named):
    """Multipliers on the error curves, decoded through the knapsack; what has no range is not searched."""

    kind: Literal["importance"]
    module: Factor | None = None
    slope: Bounds | None = None
    bend: Bounds | None = None
    method: Factor | None = None
    level: Factor | None = None

    @model_validator(mode="after")
    def _within_the_budget(self) -> "ImportanceConfig":
        if self.level is not None and self.level.high > 1:
            raise ValueError(f"level is a share of the budget and must not exceed 1, got high: {self.level.high}")
        return self


class PerLayerConfig(Named):
    """A method and a rank for each layer."""

    kind: Literal["per-layer"]


class GroupedConfig(Named):
    """A share of the weights, and a method, for each group of layers; all shares are scaled until the budget is met.

    Attributes:
        by: what forms a group: the whole model, a part of the block (attention, feed-forward) or a layer's role in it.
        bands: into how many bands of depth each is divided.
        share: range of a group's share relative to the first group's.
        choose: whether each group has a method of its own, or all have one.
    """

    kind: Literal["grouped"]
    by: Literal["model", "module", "role"] = "role"
    bands: Annotated[int, Field(ge=1)] = 1
    share: Factor | None = None
    choose: Literal["each", "together"] = "together"


class RuleConfig(Named):
    """A published rule that allocates ranks, or masks, from what was measured once; nothing is left to search."""

    kind: Literal["rule"]
    rule: Literal["asvd-strs", "svd-llm-v2", "aimet-greedy", "laser", "kwon"]


@dataclass(frozen=True)
class SpaceKind:
    """A kind of search space; register one in the entry-point group ``autolr.spaces``.

    Attributes:
        name: what ``kind`` says in a YAML file, and ``--space`` where the file would say nothing else.
        config: what a file may say; a subclass of :class:`Named`.
        build: a function (config, opened inputs, bank, progress) -> :class:`autolr.optimization.spaces.Space`, or
            the place of one as ``package.module:function``, so that a file is checked without loading what the search
            needs.
        help: what is searched, in half a sentence.
    """

    name: str
    config: type[Named]
    build: Callable[..., Any] | str
    help: str = ""

    @property
    def builder(self) -> Callable[..., Any]:
        """The function that builds the space."""
        return placed_function(self.build)


_BUILD = "autolr.optimization.spaces.build"
SPACES: Registry[SpaceKind] = Registry(
    "space",
    SpaceKind,
    lambda: (
        SpaceKind("importance", ImportanceConfig, f"{_BUILD}:importance", "multipliers on the layers' error curves"),
        SpaceKind("grouped", GroupedConfig, f"{_BUILD}:grouped", "a share of the weights for each group of layers"),
        SpaceKind("per-layer", PerLayerConfig, f"{_BUILD}:per_layer", "a method and a rank for each layer"),
        SpaceKind("rule", RuleConfig, f"{_BUILD}:rule", "a published rule, with nothing to search"),
    ),
)
"""Every kind of space: the built-in ones and those of installed packages."""


def presets() -> dict[str, Path]:
    """Return the shipped spaces by name."""
    shipped = Path(str(files("autolr"))) / "search_spaces"
    # In a checkout the folder lies beside the package; a wheel carries it inside.
    folder = shipped if shipped.is_dir() else Path(str(files("autolr"))).parent / "search_spaces"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_space_config(name_or_path: str) -> Named:
    """Read a space.

    Args:
        name_or_path: a preset's name, the path of a YAML file, or a kind of space that needs no more than its name.

    Raises:
        UsageError: there is no such preset or file, or its content is not a space.

    Example:
        >>> load_space_config("per-layer").kind
        'per-layer'
    """
    files_by_name = presets()
    path = files_by_name.get(name_or_path, Path(name_or_path))
    if path.is_file():
        return _parsed(read_yaml(path), f"search space {path}")
    if name_or_path in SPACES:
        return _parsed({"kind": name_or_path}, f"search space {name_or_path}")
    hint = nearest(name_or_path, {*files_by_name, *SPACES.names()} - {"rule"})
    raise UsageError(f"unknown search space {name_or_path!r}, and no YAML file of that name; {hint}")


def _parsed(plain: Any, origin: str) -> Named:
    if not isinstance(plain, Mapping) or not isinstance(plain.get("kind"), str):
        raise UsageError(f"{origin}: it must name its kind, one of {', '.join(SPACES.names())} (got {shown(plain)})")
    if plain["kind"] not in SPACES:
        raise UsageError(f"{origin}: unknown kind {plain['kind']!r}; {nearest(plain['kind'], SPACES.names())}")
    record = SPACES.get(plain["kind"]).config
    config: Named = parse_plain(TypeAdapter(record), plain, origin, record)
    return config
