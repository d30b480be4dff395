"""Measures what :mod:`autolr.cost.latency_model` predicts from: layers alone, and whole models with random ranks."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autolr.checkpoint.runtime import rewrites
from autolr.checkpoint.runtime.rewrites.fused_activation import FusedActivation
from autolr.cost.clock import Run, compare
from autolr.cost.latency_model import LatencyTable, LayerTimes, fit, leave_one_out, shape_key
from autolr.forms import FORMS
from autolr.forms.base import Form
from autolr.forms.low_rank import NAME as LOW_RANK
from autolr.forms.low_rank import low_rank
from autolr.progress import Progress
from autolr.results.bench import Timing
from autolr.types import Candidate, Choice, Conditions, Unit

N_MODELS = 10
"""Whole models that are timed."""
LOWEST_LEVEL = 0.08
"""Mean rank of the smallest random candidate, as a share of break-even."""
_MOST_COPIES = 6  # of a layer: enough that its weights come from where they come from in the model
_LAYER_SECONDS = 8.0
_MODEL_SECONDS = 30.0


def forward_inputs(model: nn.Module, conditions: Conditions) -> dict[str, Tensor]:
    """Return a batch of random tokens under the conditions; shorter sequences are padded on the right."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    shape = (conditions.batch_size, conditions.seq_len)
    vocabulary: int = model.config.get_text_config().vocab_size  # type: ignore[union-attr, operator]
    ids = torch.randint(min(5, vocabulary - 1), vocabulary, shape, generator=generator)
    mask = torch.ones_like(ids)
    lengths = conditions.lengths or (conditions.seq_len,)
    pad = getattr(model.config, "pad_token_id", None) or 0
    for index in range(conditions.batch_size):
        mask[index, lengths[index % len(lengths)] :] = 0
    ids = torch.where(mask.bool(), ids, pad)
    if getattr(model.config, "is_encoder_decoder", False):  # what is read is the state at the end of the text
        ids[torch.arange(len(ids)), mask.sum(1) - 1] = model.config.eos_token_id  # type: ignore[union-attr, assignment]
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def forward(model: nn.Module, inputs: Mapping[str, Tensor]) -> Run:
    """Return what runs one forward pass."""

    def run() -> None:
        with torch.inference_mode():
            model(**inputs)

    return run


def shared_copy(model: nn.Module) -> nn.Module:
    """Return a model of the same modules, whose tensors are the other's."""
    memo = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, memo)


def measure_latency(
    model: nn.Module,
    units: Sequence[Unit],
    forms: Sequence[Form],
    rows: Mapping[str, int],
    conditions: Conditions,
    progress: Progress,
) -> LatencyTable:
    """Measure what predicts a candidate's latency.

    Args:
        model: the dense model, with its rewrites.
        units: its compressible layers.
        forms: what they may become.
        rows: unit name -> vectors that it multiplies in one pass under the conditions.
        conditions: batch, length, threads.
        progress: told what is under way.
    """
    plain = shared_copy(model)
    rewrites.undo(plain)
    inputs = forward_inputs(model, conditions)
    shapes = {
        unit.name: ", ".join(_key(model, matrix, rows[matrix.name]) for matrix in unit.matrices or (unit,))
        for unit in units
    }
    groups: dict[str, list[Unit]] = {}
    for unit in units:
        groups.setdefault(shapes[unit.name], []).append(unit)
    progress.start(f"time {len(groups)} shapes of layers and {N_MODELS} whole models")
    device = next(model.parameters()).device
    clock: dict[str, Any] = {"device": device, "threads": conditions.threads, "check": progress.check}
    dense = forward(plain, inputs)
    layers = {}
    for done, (key, group) in enumerate(groups.items()):
        layers[key] = _time_layers(model, group, forms, rows[group[0].modules[0]], dense, clock)
        progress.update(done / (len(groups) + 2))
    candidates = random_candidates(units, N_MODELS, forms=forms)
    table = LatencyTable(1.0, layers, {unit.name: unit for unit in units}, shapes, 0.0, 1.0, ())
    runs = {"dense": dense}
    for index, candidate in enumerate(candidates):
        runs[str(index)] = forward(with_random_factors(model, candidate, units), inputs)
    timed = compare(runs, precision=0.01, max_seconds=_MODEL_SECONDS, **clock)
    measured = [timed[str(index)].ratio for index in range(len(candidates))]
    alone = [table.share(candidate) for candidate in candidates]
    fixed, slope = fit(alone, measured)
    progress.update(1.0)
    return replace(
        table,
        dense_ms=1e3 * timed["dense"].median,
        fixed=fixed,
        slope=slope,
        checks=leave_one_out(alone, measured),
    )


def random_candidates(
    units: Sequence[Unit], count: int, seed: int = 0, multiple: int = 8, forms: Sequence[Form] = ()
) -> list[Candidate]:
    """Return candidates of all sizes: every layer dense, and random ranks from low to high.

    Where there are forms of several matrices, every other unit of those takes one of the sizes that were timed; so does
    a table in every other candidate. None
    has rank 0 everywhere: such a layer skips work that every other one has, and what a pass takes without it says
    little about the rest. The method of a choice does not matter for its time.
    """
    rng = np.random.default_rng(seed)
    found = [Candidate()]
    for level in np.linspace(LOWEST_LEVEL, 0.9, max(count - 1, 0)):
        choices = {}
        for unit in (unit for unit in units if unit.of == "matrix"):
            rank = int(level * rng.uniform(0.3, 1.7) * unit.break_even) // multiple * multiple
            if rank < unit.break_even:
                choices[unit.name] = low_rank("", rank)
        for group in [unit for unit in units if unit.matrices][len(found) % 2 :: 2]:
            timed = [choice for form in forms if form.of == group.of for choice in form.timed(group)]
            if timed:
                for name in group.modules:
                    choices.pop(name, None)
                place = min(int(level * rng.uniform(0.3, 1.7) * len(timed)), len(timed) - 1)
                choices[group.name] = timed[place]
        for table in [unit for unit in units if unit.of == "embedding"][len(found) % 2 :]:
            timed = [choice for form in forms if form.of == table.of for choice in form.timed(table)]
            if timed:
                choices[table.name] = timed[int(rng.integers(len(timed)))]
        found.append(Candidate.of(choices))
    return found[:count]


def with_random_factors(model: nn.Module, candidate: Candidate, units: Sequence[Unit]) -> nn.Module:
    """Return a copy of a model with layers of a candidate's shapes in it; all other tensors are the model's."""
    new = shared_copy(model)
    by_name = {unit.name: unit for unit in units}
    for name, choice in candidate.choices:
        for module, layer in random_layers(by_name[name], choice, next(model.parameters())).items():
            new.set_submodule(module, layer)
    return new.eval()


def random_layers(unit: Unit, choice: Choice | None, like: Tensor) -> dict[str, nn.Module]:
    """Return the layers of a choice's shape with random weights, by the modules they replace; None is dense."""
    if choice is None:
        layers: dict[str, nn.Module] = {
            matrix.name: (nn.Embedding if matrix.of == "embedding" else nn.Linear)(
                matrix.in_features, matrix.out_features, device=like.device, dtype=like.dtype
            )
            for matrix in unit.matrices or (unit,)
        }
    else:
        layers = dict(FORMS.get(choice.form).empty_layers(unit, choice, like))
    for layer in layers.values():
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.02)
    return layers


class _Together(nn.Module):
    """The layers of a unit of several matrices, one after the other; the last is fed what the first gives."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        *makers, reader = self.layers
        made: list[Tensor] = [maker(x) for maker in makers]
        output: Tensor = reader(made[0])
        return output


def _time_layers(
    model: nn.Module,
    group: Sequence[Unit],
    forms: Sequence[Form],
    rows: int,
    dense: Run,
    clock: Mapping[str, Any],
) -> LayerTimes:
    """Time one shape of layer alone, in turn with the dense model's pass."""
    unit, like = group[0], next(model.parameters())
    copies = min(len(group), _MOST_COPIES)
    names = _timed_forms(unit, forms)
    by_form = {name: FORMS.get(name).timed(unit) for name in names}
    options: dict[str, Choice | None] = {"dense": None}
    options |= {_label(choice): choice for choices in by_form.values() for choice in choices}
    if unit.of == "embedding":
        random = torch.Generator().manual_seed(0)
        x = torch.randint(unit.in_features, (rows,), generator=random).to(like.device)
    else:
        x = torch.randn(rows, unit.in_features, device=like.device, dtype=like.dtype)
    runs: dict[str, Run] = {"model": dense}
    for name, choice in options.items():
        runs[name] = _chain([_timed_module(model, unit, choice, like) for _ in range(copies)], x)
    timed = compare(runs, precision=0.02, max_seconds=_LAYER_SECONDS, **clock)
    times = {name: timed[name].ratio / copies for name in options}
    return LayerTimes(
        times["dense"],
        {form: {choice.sizes: times[_label(choice)] for choice in choices} for form, choices in by_form.items()},
    )


def _timed_forms(unit: Unit, forms: Sequence[Form]) -> list[str]:
    """Return the forms whose times a unit's are interpolated between."""
    if unit.of != "matrix":
        return [form.name for form in forms if form.of == unit.of]
    wanted = [name for form in forms if form.of == "matrix" for name in (form.scale, form.name) if name in FORMS]
    return list(dict.fromkeys([LOW_RANK, *wanted]))


def _timed_module(model: nn.Module, unit: Unit, choice: Choice | None, like: Tensor) -> nn.Module:
    layers = random_layers(unit, choice, like)
    placed = [_in_place(model, matrix, layers[matrix.name]) for matrix in unit.matrices or (unit,)]
    return _Together(placed) if unit.matrices else placed[0]


def _label(choice: Choice) -> str:
    return f"{choice.form} {dict(choice.sizes)}"


def _key(model: nn.Module, unit: Unit, rows: int) -> str:
    return shape_key(unit, rows) + (" and activation" if _with_activation(model, unit) else "")


def _in_place(model: nn.Module, unit: Unit, layer: nn.Module) -> nn.Module:
    """Return what is timed for a layer: itself, or the module around it that computes it and its activation in one."""
    if not _with_activation(model, unit):
        return layer
    name, _, child = unit.name.rpartition(".")
    around = shared_copy(model.get_submodule(name))
    setattr(around, child, layer)
    return around.eval()


def _with_activation(model: nn.Module, unit: Unit) -> bool:
    return isinstance(model.get_submodule(unit.name.rpartition(".")[0]), FusedActivation)


def _chain(layers: Sequence[nn.Module], x: Tensor) -> Run:
    def run() -> None:
        with torch.inference_mode():
            for layer in layers:
                layer(x)

    return run


def time_models(
    models: Mapping[str, nn.Module], conditions: Conditions, precision: float, max_seconds: float, progress: Progress
) -> dict[str, Timing]:
    """Time the forward passes of several models in turn; the first is the reference."""
    runs: dict[str, Callable[[], object]] = {}
    for name, model in models.items():
        runs[name] = forward(model, forward_inputs(model, conditions))
    device = next(next(iter(models.values())).parameters()).device
    return compare(
        runs,
        device=device,
        threads=conditions.threads,
        precision=precision,
        max_seconds=max_seconds,
        check=progress.check,
    )
