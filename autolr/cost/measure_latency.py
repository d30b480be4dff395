"""Measures what :mod:`autolr.cost.latency_model` predicts from: layers alone, and whole models with random sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from autolr.checkpoint.runtime import rewrites
from autolr.cost.clock import compare
from autolr.cost.forward import clock_of, forward, forward_inputs, shared_copy
from autolr.cost.latency_model import LatencyTable, fit, leave_one_out
from autolr.cost.time_layers import forms_of, random_layers, shapes_of, time_layers
from autolr.forms.base import Form
from autolr.forms.low_rank import low_rank
from autolr.progress import Progress
from autolr.results.bench import Timing
from autolr.types import Candidate, Conditions, Unit

N_MODELS = 8
"""Whole models that are timed."""
LOWEST_LEVEL = 0.08
"""Mean rank of the smallest random candidate, as a share of break-even."""
MODEL_SECONDS = 15.0
_PRECISION = 0.02


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
    shapes = shapes_of(model, units, forms, rows)
    progress.start(f"time {len(shapes)} shapes of layers and {N_MODELS} whole models")
    dense = forward(as_loaded(model), forward_inputs(model, conditions))
    layers = time_layers(model, shapes, conditions, dense, clock_of(model, conditions, progress))
    progress.update(0.5)
    keys = {unit.name: key for key, shape in shapes.items() for unit in shape.units}
    table = LatencyTable(1.0, layers, {unit.name: unit for unit in units}, keys, 0.0, 1.0, ())
    candidates = random_candidates(units, N_MODELS, forms=forms)
    timed = time_candidates(model, candidates, units, conditions, _PRECISION, MODEL_SECONDS, progress)
    measured = [timing.ratio for timing in timed[1:]]
    terms = [(1.0, table.alone(candidate)) for candidate in candidates]
    fixed, slope = map(float, fit(terms, measured))
    progress.update(1.0)
    checks = leave_one_out(terms, measured)
    return replace(table, dense_ms=1e3 * timed[0].median, fixed=fixed, slope=slope, checks=checks)


def time_candidates(
    model: nn.Module,
    candidates: Sequence[Candidate],
    units: Sequence[Unit],
    conditions: Conditions,
    precision: float,
    max_seconds: float,
    progress: Progress,
) -> list[Timing]:
    """Return the times of the dense model as transformers loads it, and of candidates with random weights.

    Args:
        model: the dense model, with its rewrites.
        candidates: that are timed in turn with it.
        units: the model's.
        conditions: batch, length, threads.
        precision: as for :func:`autolr.cost.clock.compare`.
        max_seconds: the same.
        progress: may stop it.
    """
    inputs = forward_inputs(model, conditions)
    runs = {"dense": forward(as_loaded(model), inputs)}
    for index, candidate in enumerate(candidates):
        runs[str(index)] = forward(with_random_factors(model, candidate, units), inputs)
    timed = compare(runs, precision=precision, max_seconds=max_seconds, **clock_of(model, conditions, progress))
    return list(timed.values())


def as_loaded(model: nn.Module) -> nn.Module:
    """Return a copy of a model without its rewrites, whose tensors are the model's."""
    plain = shared_copy(model)
    rewrites.undo(plain)
    return plain


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
            timed = [choice for form in forms_of(group, forms) for choice in form.timed(group)]
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
