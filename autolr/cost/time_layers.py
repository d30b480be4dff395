"""Times layers alone: each shape of unit that a model has, dense and at the sizes that its forms name.

All of them and the dense model's pass are run in turn, so that the pass is timed once and not once for each shape.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from autolr.checkpoint.runtime.rewrites.fused_activation import FusedActivation
from autolr.cost.clock import Run, compare
from autolr.cost.forward import shared_copy
from autolr.cost.latency_model import LayerTimes, shape_key
from autolr.forms import FORMS
from autolr.forms.base import Form
from autolr.forms.low_rank import NAME as LOW_RANK
from autolr.methods import METHODS
from autolr.types import Choice, Conditions, Unit

MAX_SECONDS = 15.0
_PRECISION = 0.1  # of each time: many share what is fitted to them
_BLOCK_SECONDS = 0.008
_COPIES = 6  # of a layer, one after the other: enough that its weights come from where they come from in the model
_FEWER_COPIES = 2  # where arithmetic on many vectors hides where the weights come from
_MANY_VECTORS = 64
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function", "activation", "dense_act_fn")
"""What configurations call the activation."""


@dataclass(frozen=True)
class Shape:
    """What units have in common that take the same time.

    Attributes:
        units: of this shape.
        forms: what they may become.
        rows: matrix name of the first -> vectors that it multiplies in one pass.
        activated: the module names of the first's matrices that are computed together with their activation.
    """

    units: tuple[Unit, ...]
    forms: tuple[Form, ...]
    rows: Mapping[str, int]
    activated: frozenset[str]


def shapes_of(
    model: nn.Module, units: Sequence[Unit], forms: Sequence[Form], rows: Mapping[str, int]
) -> dict[str, Shape]:
    """Return the shapes of a model's units, by their keys.

    Low rank is among the forms of each matrix, for budgets are compared with rank 0 of all.
    """
    forms = tuple(dict.fromkeys([FORMS.get(LOW_RANK), *forms]))
    groups: dict[str, list[Unit]] = {}
    for unit in units:
        groups.setdefault(_key(model, unit, rows), []).append(unit)
    found = {}
    for key, group in groups.items():
        matrices = group[0].matrices or group[:1]
        activated = frozenset(matrix.name for matrix in matrices if _with_activation(model, matrix))
        own_rows = {matrix.name: rows[matrix.name] for matrix in matrices}
        found[key] = Shape(tuple(group), forms_of(group[0], forms), own_rows, activated)
    return found


def time_layers(
    model: nn.Module, shapes: Mapping[str, Shape], conditions: Conditions, dense: Run, clock: Mapping[str, Any]
) -> dict[str, LayerTimes]:
    """Return the times of all shapes, by their keys.

    Args:
        model: the dense model, with its rewrites.
        shapes: of its units.
        conditions: the batch.
        dense: runs a pass of the dense model as transformers loads it.
        clock: further arguments of :func:`autolr.cost.clock.compare`.
    """
    runs: dict[str, Run] = {"model": dense}
    labels: dict[tuple[str, Choice | None], str] = {}
    for key, shape in shapes.items():
        choices = [choice for form in shape.forms for choice in form.timed(shape.units[0])]
        for choice in (None, *choices):
            labels[key, choice] = f"{key} {choice}"
            runs[labels[key, choice]] = _chain(model, shape, choice, conditions.batch_size)
    timed = compare(runs, precision=_PRECISION, max_seconds=MAX_SECONDS, block_seconds=_BLOCK_SECONDS, **clock)
    layers = {}
    for key, shape in shapes.items():
        times = {
            choice: timed[label].ratio / _copies(shape) for (other, choice), label in labels.items() if other == key
        }
        compressed = {choice: time for choice, time in times.items() if choice is not None}
        layers[key] = LayerTimes.fitted(shape.units[0], times[None], compressed)
    return layers


def random_layers(unit: Unit, choice: Choice | None, like: Tensor) -> dict[str, nn.Module]:
    """Return the layers of a choice's shape with random weights, by the modules they replace; None is dense."""
    if choice is None:
        layers: dict[str, nn.Module] = {
            matrix.name: nn.Linear(matrix.in_features, matrix.out_features, device=like.device, dtype=like.dtype)
            for matrix in unit.matrices or (unit,)
        }
    else:
        layers = dict(FORMS.get(choice.form).empty_layers(unit, choice, like))
    for layer in layers.values():
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.02)
    return layers


def forms_of(unit: Unit, forms: Iterable[Form]) -> tuple[Form, ...]:
    """Return those of some forms that a unit may have."""

    def applies(form: Form) -> bool:
        own = [METHODS.get(name) for name in form.methods]
        return any(form.applies(unit, method) for method in own) if own else not unit.matrices

    return tuple(form for form in forms if applies(form))


def _chain(model: nn.Module, shape: Shape, choice: Choice | None, batch: int) -> Run:
    """Return what runs several copies of a choice's layers, one after the other.

    None is dense; of several matrices it is what lies between them, with layers that compute nothing.
    """
    unit, like = shape.units[0], next(model.parameters())
    form = shape.forms[0] if choice is None else FORMS.get(choice.form)
    inputs, made = {}, {}
    for matrix in unit.matrices or (unit,):
        rows = shape.rows[matrix.name]
        size = (batch, rows // batch) if rows % batch == 0 else (1, rows)
        inputs[matrix.name] = torch.randn(*size, matrix.in_features, device=like.device, dtype=like.dtype)
        made[matrix.name] = _Made(torch.randn(*size, matrix.out_features, device=like.device, dtype=like.dtype))
    copies: list[Mapping[str, nn.Module]] = []
    for _ in range(_copies(shape)):
        layers = random_layers(unit, choice, like).items()
        placed = {name: _in_place(model, name, layer, shape) for name, layer in layers}
        copies.append(made if choice is None and unit.matrices else placed)

    activation = nn.Identity() if shape.activated else activation_of(model)

    def run() -> None:
        with torch.inference_mode():
            for layers in copies:
                form.run(unit, layers, inputs, activation)

    return run


class _Made(nn.Module):
    """Gives what was made before."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, _: Tensor) -> Tensor:
        return self.output


def activation_of(model: nn.Module) -> nn.Module:
    """Return the activation between a model's feed-forward layers, as its configuration names it; else the identity."""
    config: Any = model.config
    names = [getattr(config.get_text_config(), field, None) for field in _ACTIVATIONS]
    known = [name for name in names if isinstance(name, str) and name in ACT2FN]
    activation: nn.Module = ACT2FN[known[0]] if known else nn.Identity()
    return activation


def _copies(shape: Shape) -> int:
    few = max(shape.rows.values()) <= _MANY_VECTORS
    return min(len(shape.units), _COPIES if few else _FEWER_COPIES)


def _in_place(model: nn.Module, name: str, layer: nn.Module, shape: Shape) -> nn.Module:
    """Return what is timed for a layer: itself, or the module around it that computes it and its activation in one."""
    if name not in shape.activated:
        return layer
    outer, _, child = name.rpartition(".")
    around = shared_copy(model.get_submodule(outer))
    setattr(around, child, layer)
    return around.eval()


def _key(model: nn.Module, unit: Unit, rows: Mapping[str, int]) -> str:
    """Return what decides a unit's time; of several matrices also their role, which says how they are run together."""
    if unit.matrices:
        return f"{unit.role}: {', '.join(_key(model, matrix, rows) for matrix in unit.matrices)}"
    return shape_key(unit, rows[unit.name]) + (" and activation" if _with_activation(model, unit) else "")


def _with_activation(model: nn.Module, unit: Unit) -> bool:
    return isinstance(model.get_submodule(unit.name.rpartition(".")[0]), FusedActivation)
