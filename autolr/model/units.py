"""What can be compressed in a model: every linear layer of its repeated blocks, found by structure, not by name.

A unit is a ``Linear`` (or GPT-2's ``Conv1D``) inside a ``ModuleList`` of blocks. Everything else is left dense on
purpose, with the reason on record: embeddings (no FLOPs to save), heads and poolers (small, and the task's own),
tied weights (they would come apart), layers too small to gain.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from autolr.errors import UsageError, nearest
from autolr.types import Table, Unit

MIN_FEATURES = 16
"""A matrix with a side below this is left dense: its break-even rank leaves no useful menu of ranks."""

PLAIN_LINEAR = frozenset({"transformers.models.falcon.modeling_falcon.FalconLinear"})
"""Subclasses of ``Linear`` that compute just what it does; any other might do more, and is left dense."""


@dataclass(frozen=True)
class Units:
    """The compressible units of a model in forward order, and the other weight matrices with the reason each is left.

    Attributes:
        units: the matrices that can be compressed.
        excluded: module name -> why it stays dense.
        groups: units of several of these matrices, which can be changed together.
        tables: the table of token vectors, where a study may compress it.
    """

    units: tuple[Unit, ...]
    excluded: Mapping[str, str]
    groups: tuple[Unit, ...] = ()
    tables: tuple[Table, ...] = ()

    @property
    def all(self) -> tuple[Unit, ...]:
        """The matrices, then the groups of them, then the tables."""
        return (*self.units, *self.groups, *self.tables)

    def without(self, names: Set[str], reason: str) -> "Units":
        """Return these units but some, which are left dense for a reason.

        Raises:
            UsageError: none is left.
        """
        kept = tuple(unit for unit in self.units if unit.name not in names)
        if not kept:
            raise UsageError(f"no layer of this model is left to compress; all are {reason}")
        return Units(kept, {**self.excluded, **dict.fromkeys(sorted(names), reason)})

    def by_name(self) -> dict[str, Unit]:
        """Return name -> matrix."""
        return {unit.name: unit for unit in self.units}


def find_units(model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Units:
    """Find every linear layer worth compressing.

    Args:
        model: any Hugging Face encoder or decoder.
        include: globs over module names; brings in layers that are excluded by default (heads, poolers), and if given
            restricts the units of the blocks to those that match.
        exclude: globs over module names to leave dense.

    Returns:
        The units and the excluded modules.

    Raises:
        UsageError: a glob matches no linear layer (the nearest name is given), a layer that ``include`` names
            cannot be compressed, or no unit remains.

    Example:
        >>> block = nn.ModuleDict({"up": nn.Linear(32, 64), "down": nn.Linear(64, 32)})
        >>> found = find_units(nn.ModuleDict({"blocks": nn.ModuleList([block]), "head": nn.Linear(32, 3)}))
        >>> [unit.name for unit in found.units], dict(found.excluded)
        (['blocks.0.up', 'blocks.0.down'], {'head': 'outside the repeated blocks'})
    """
    modules = {name: module for name, module in model.named_modules() if _has_matrix(module)}
    linears = {name for name, module in modules.items() if isinstance(module, nn.Linear | Conv1D)}
    for option, patterns in (("--include", include), ("--exclude", exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in linears):
                raise UsageError(
                    f"{option} {pattern!r} matches no linear layer of the model; {nearest(pattern, linears)}"
                )
    shared = _shared_parameters(model)
    blocks = _blocks(model)
    units: list[Unit] = []
    excluded: dict[str, str] = {}
    for name, module in modules.items():
        forced = bool(include) and _matches(name, include)
        reason = _reason_to_leave(name, module, shared, blocks, forced, include, exclude)
        if reason is None:
            units.append(_unit(name, module, blocks))
        elif forced and not _matches(name, exclude) and name in linears:
            raise UsageError(f"--include brings in {name}, which cannot be compressed: {reason}")
        else:
            excluded[name] = reason
    excluded |= {
        name: _reason_of_stack(module)
        for name, module in model.named_modules()
        if any(p is not None and p.ndim == 3 for p in module._parameters.values())
    }
    if not units:
        raise UsageError(
            f"no layer of this {type(model).__name__} is left to compress: {_by_reason(excluded)}; autolr factorizes "
            f"linear layers of repeated blocks, --include brings in those outside"
        )
    return Units(tuple(units), excluded)


def check_finite(model: nn.Module) -> None:
    """Raise if any weight of the model is NaN or infinite.

    Raises:
        UsageError: with the name of the tensor and how many of its entries are not finite.
    """
    for name, parameter in model.named_parameters():
        bad = int((~torch.isfinite(parameter.detach())).sum())
        if bad:
            raise UsageError(f"{name} has {bad} NaN or infinite entries of {parameter.numel()}; the model is damaged")


def unit_weight(model: nn.Module, unit: Unit) -> Float[Tensor, "out in"]:
    """Return a unit's dense weight as (out, in), a view of the module's own parameter."""
    weight = model.get_submodule(unit.name).weight
    assert isinstance(weight, Tensor)
    return weight.detach().mT if unit.transposed else weight.detach()


def unit_bias(model: nn.Module, unit: Unit) -> Float[Tensor, " out"] | None:
    """Return a unit's dense bias, or None."""
    bias = getattr(model.get_submodule(unit.name), "bias", None)
    return bias.detach() if isinstance(bias, Tensor) else None


def _has_matrix(module: nn.Module) -> bool:
    weight = module._parameters.get("weight")
    return weight is not None and weight.ndim == 2


def _path(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _reason_of_stack(module: nn.Module) -> str:
    if isinstance(module, nn.Conv1d):
        return "a convolution; only linear layers are factorized"
    return "a stack of matrices in one tensor, as fused experts are; only single matrices are factorized"


def _by_reason(excluded: Mapping[str, str]) -> str:
    """Return how many layers each reason leaves dense, with the first of them by name."""
    names: dict[str, list[str]] = {}
    for name, reason in excluded.items():
        names.setdefault(reason, []).append(name)
    found = [f"{len(layers)} ({layers[0]} first) {reason}" for reason, layers in names.items()]
    return "; ".join(found) or "it has no linear layers"


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _shared_parameters(model: nn.Module) -> dict[int, list[str]]:
    """Return the parameters that several modules hold, by identity, with the names of their holders."""
    holders: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        holders.setdefault(id(parameter), []).append(name)
    return {key: names for key, names in holders.items() if len(names) > 1}


def _blocks(model: nn.Module) -> dict[str, int]:
    """Return each outermost non-empty ``ModuleList`` as name -> length."""
    found: dict[str, int] = {}
    for name, module in model.named_modules():
        nested = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and len(module) > 0 and not nested:
            found[name] = len(module)
    return found


def _reason_to_leave(
    name: str,
    module: nn.Module,
    shared: Mapping[int, list[str]],
    blocks: Mapping[str, int],
    forced: bool,
    include: Sequence[str],
    exclude: Sequence[str],
) -> str | None:
    if isinstance(module, nn.Embedding):
        return "an embedding: a table look-up has no FLOPs to save"
    if type(module) not in (nn.Linear, Conv1D) and _path(module) not in PLAIN_LINEAR:
        return f"a {type(module).__name__}, which does not run as a plain linear layer"
    assert isinstance(module, nn.Linear | Conv1D)
    others = sorted({holder.rpartition(".")[0] for holder in shared.get(id(module.weight), [])} - {name})
    if others:
        return f"tied to {', '.join(others)}"
    if _matches(name, exclude):
        return "excluded by --exclude"
    if include and not forced:
        return "not named by --include"
    if not forced and not any(name.startswith(f"{outer}.") for outer in blocks):
        return "outside the repeated blocks"
    if min(module.weight.shape) < MIN_FEATURES:
        return f"too small: {tuple(module.weight.shape)}, a side is below {MIN_FEATURES}"
    return None


def _unit(name: str, module: nn.Module, blocks: Mapping[str, int]) -> Unit:
    weight = module.weight
    assert isinstance(weight, Tensor)
    transposed = isinstance(module, Conv1D)
    out_features, in_features = weight.shape[::-1] if transposed else weight.shape
    for outer, n_blocks in blocks.items():
        if name.startswith(f"{outer}."):
            index, _, inner = name[len(outer) + 1 :].partition(".")
            role = ".".join("*" if part.isdigit() else part for part in (inner or name).split("."))
            return Unit(name, role, int(index), n_blocks, out_features, in_features, transposed)
    return Unit(name, name, -1, 1, out_features, in_features, transposed)
