"""Every unit's menu with all error curves on the scale of the loss: one measured divergence for each curve."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from autolr.allocation.error_curves import Curve, Key, build_menus, error_curves, measure_scales
from autolr.allocation.knapsack import Menu
from autolr.bank import Bank
from autolr.machine.atomic import write_atomically
from autolr.problem import LoadedProblem
from autolr.progress import Progress
from autolr.scores import DIVERGENCE
from autolr.tasks import Scorer

SCALE_EXAMPLES = 64
"""Calibration examples on which each unit's divergence is measured, to scale its curves."""

_UNNAMED_FORMS = (("low-rank", 1), ("low-rank-rows", 1))
"""Names and versions that keys are without: scales were stored before forms had versions."""


def make_menus(inputs: LoadedProblem, bank: Bank, progress: Progress) -> list[Menu]:
    """Return every unit's menu, with all curves on the scale of the loss."""
    curves = _curves(inputs, bank)
    return build_menus(curves, _scales(inputs, bank, curves, progress), inputs.costs)


def stored_menus(inputs: LoadedProblem, bank: Bank) -> list[Menu] | None:
    """Return every unit's menu if its scales were measured before, else None; nothing is measured or written."""
    curves = _curves(inputs, bank)
    key = _scales_key(inputs, curves)
    scales = _stored_scales(_scales_file(bank, key), key)
    return None if scales is None else build_menus(curves, scales, inputs.costs)


def _curves(inputs: LoadedProblem, bank: Bank) -> list[Curve]:
    multiple = inputs.spec.search.multiple
    return [
        curve
        for unit in inputs.units.all
        for method in inputs.bank_methods
        if method.fits(unit)
        for curve in error_curves(bank, unit, method, multiple, inputs.forms)
    ]


def sample_scorer(inputs: LoadedProblem) -> Scorer:
    """Return a scorer on a small sample of the calibration part, for measurements of one layer at a time."""
    data = inputs.parts.calibration.take(SCALE_EXAMPLES, inputs.spec.seed)
    return inputs.task.comparer(inputs.model, data, inputs.batches_of(data))


def _scales(inputs: LoadedProblem, bank: Bank, curves: Sequence[Curve], progress: Progress) -> dict[Key, float]:
    """Return the measured scale of each curve, from the bank's folder where it was measured before."""
    key = _scales_key(inputs, curves)
    path = _scales_file(bank, key)
    stored = _stored_scales(path, key)
    if stored is not None:
        return stored
    progress.start(f"measure the divergence of {len(curves)} curves at one rank each")
    scorer = sample_scorer(inputs)

    def divergence(model: nn.Module) -> float:
        progress.check()
        return scorer.score(model)[DIVERGENCE.name].value

    def step(done: int) -> None:
        progress.update(done / len(curves))

    scales = measure_scales(inputs.model, bank, curves, divergence, step)
    content = {"key": key, "scales": [[*key, value] for key, value in scales.items()]}
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, json.dumps(content))
    return scales


def _scales_file(bank: Bank, key: str) -> Path:
    return bank.directory / "scales" / f"{key[:16]}.json"


def _scales_key(inputs: LoadedProblem, curves: Sequence[Curve]) -> str:
    versions = {method.name: method.version for method in inputs.bank_methods}
    described = [
        [*key, versions[curve.method], *curve.choices[place].sizes]
        for curve in curves
        for key, place in curve.measured.items()
    ]
    parts = [inputs.calibration_key, inputs.spec.seed, SCALE_EXAMPLES, described]
    measured = {curve.choices[curve.reference].form for curve in curves}
    forms = sorted((form.name, form.version) for form in inputs.forms if form.name in measured)
    others = [form for form in forms if form not in _UNNAMED_FORMS]
    return hashlib.sha256(json.dumps([*parts, others] if others else parts).encode()).hexdigest()


def _stored_scales(path: Path, key: str) -> dict[Key, float] | None:
    """Return the scales of a file, or None if it is absent, damaged or of other curves."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(stored, dict) or stored.get("key") != key:
        return None
    return {(unit, method, scale): value for unit, method, scale, value in stored["scales"]}
