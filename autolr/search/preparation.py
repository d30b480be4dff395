"""What is computed once before the search: the bank, the error curves on one scale, the scorer, the space, seeds."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from autolr.allocate import Menu
from autolr.bank import Bank
from autolr.calibrate import calibrate, class_cotangents, pass_count
from autolr.curves import Curve, build_menus, error_curve, measure_scales
from autolr.data.batches import pair_batches
from autolr.errors import BudgetError
from autolr.factorize.statistics import TOKENS_PER_FEATURE, too_few_tokens
from autolr.progress import Progress
from autolr.score import NliScorer
from autolr.search.folder import write_atomically
from autolr.search.inputs import Inputs
from autolr.search.seeds import uniform_candidate
from autolr.search.space import ImportanceConfig, ImportanceSpace, PerLayerSpace, Space, load_space_config
from autolr.types import Candidate, LayerStats, Unit

SCALE_EXAMPLES = 64
"""Calibration examples on which each unit's divergence is measured, to scale its curves."""


@dataclass(frozen=True)
class Prepared:
    """What the trials share.

    Attributes:
        bank: decompositions.
        menus: every unit's options with predicted losses.
        scorer: of the search part.
        space: what the sampler proposes.
        fixed: candidates to evaluate first, by name: the dense model and uniform compression.
    """

    bank: Bank
    menus: Sequence[Menu]
    scorer: NliScorer
    space: Space
    fixed: dict[str, Candidate]


def prepare(inputs: Inputs, bank: Bank, progress: Progress) -> Prepared:
    """Scale the curves and build the search space; what is on disk already is reused.

    Args:
        inputs: the opened inputs.
        bank: decompositions, complete.
        progress: told what is under way.
    """
    menus = make_menus(inputs, bank, progress)
    progress.start("score the dense model")
    scorer = scorer_of(inputs, "search", progress)
    fixed = {"dense": Candidate()}
    try:
        uniform = uniform_candidate(
            inputs.units.units, inputs.methods[0].name, inputs.spec.search.multiple, inputs.costs, inputs.limits
        )
        fixed[f"uniform {inputs.methods[0].name}"] = uniform
    except BudgetError as error:
        progress.note(f"no uniform candidate: {error}")
    return Prepared(bank, menus, scorer, make_space(inputs, menus), fixed)


def build_bank(inputs: Inputs, directory: Path, progress: Progress) -> Bank:
    """Open the bank and compute what it lacks."""
    bank = Bank(directory, inputs.model, inputs.units.units, inputs.calibration_key)
    gradients = any("gradients" in method.needs for method in inputs.methods)

    def measure(units: Sequence[Unit]) -> Iterator[tuple[Unit, LayerStats]]:
        passes = pass_count(units, gradients=gradients)
        progress.start(
            f"calibrate {len(units)} layers on {len(inputs.parts.calibration)} pairs"
            + (f", {passes} passes" if passes > 1 else "")
        )
        batches = inputs.batches("calibration")

        def step(share: float) -> None:
            progress.update(share)
            progress.check()

        return calibrate(inputs.model, units, batches, class_cotangents if gradients else None, progress=step)

    def decomposing(what: str, done: int, total: int) -> None:
        if done == len(inputs.methods):
            progress.start(f"{what} {len(inputs.units.units)} layers by {', '.join(m.name for m in inputs.methods)}")
        progress.update(done / total)
        progress.check()

    bank.build(inputs.methods, measure, decomposing)
    _warn_of_few_tokens(inputs, bank, progress)
    return bank


def make_menus(inputs: Inputs, bank: Bank, progress: Progress) -> list[Menu]:
    """Return every unit's menu, with all curves on the scale of the loss."""
    curves = _curves(inputs, bank)
    return build_menus(curves, _scales(inputs, bank, curves, progress), inputs.costs)


def stored_menus(inputs: Inputs, bank: Bank) -> list[Menu] | None:
    """Return every unit's menu if its scales were measured before, else None; nothing is measured or written."""
    curves = _curves(inputs, bank)
    scales = _stored_scales(_scales_file(bank), _scales_key(inputs, curves))
    return None if scales is None else build_menus(curves, scales, inputs.costs)


def _curves(inputs: Inputs, bank: Bank) -> list[Curve]:
    multiple = inputs.spec.search.multiple
    return [error_curve(bank, unit, method, multiple) for unit in inputs.units.units for method in inputs.methods]


def scorer_of(inputs: Inputs, part: str, progress: Progress) -> NliScorer:
    """Return the scorer of a part, with the dense model's logits on it."""
    batches = inputs.batches(part)
    done = iter(range(1, len(batches) + 1))

    def tick() -> None:
        progress.check()
        progress.update(next(done) / len(batches))

    return NliScorer.of(inputs.model, batches, tick)


def limits_of(inputs: Inputs) -> dict[str, float]:
    """Return quantity -> the largest change that compression may leave (negative: what it must save)."""
    return {quantity: limit - inputs.costs.base.get(quantity) for quantity, limit in inputs.limits.items()}


def make_space(inputs: Inputs, menus: Sequence[Menu]) -> Space:
    """Return the search space the specification names."""
    config = load_space_config(inputs.spec.search.space)
    units = inputs.units.by_name()
    methods = [method.name for method in inputs.methods]
    base = {quantity: float(inputs.costs.base.get(quantity)) for quantity in inputs.limits}
    limits = limits_of(inputs)
    primary = inputs.spec.parsed_budgets[0].quantity
    default = load_space_config("importance")
    assert isinstance(default, ImportanceConfig)
    importance = ImportanceSpace(
        config if isinstance(config, ImportanceConfig) else default, menus, units, methods, limits, base, primary
    )
    if isinstance(config, ImportanceConfig):
        return importance
    seeds = importance.seeds(inputs.spec.seed, inputs.spec.trials)
    start = {origin: importance.decode(params) for origin, params in seeds.items()}
    return PerLayerSpace(units, methods, inputs.spec.search.multiple, start)


def _scales(inputs: Inputs, bank: Bank, curves: Sequence[Curve], progress: Progress) -> dict[tuple[str, str], float]:
    """Return the measured scale of each curve, from the bank's folder where it was measured before."""
    key, path = _scales_key(inputs, curves), _scales_file(bank)
    stored = _stored_scales(path, key)
    if stored is not None:
        return stored
    progress.start(f"measure the divergence of {len(curves)} curves at one rank each")
    data = inputs.parts.calibration.take(SCALE_EXAMPLES, inputs.spec.seed)
    batches = pair_batches(
        inputs.tokenizer, data, inputs.spec.run.scoring_batch_size, inputs.max_length, inputs.model.device
    )
    scorer = NliScorer.of(inputs.model, batches)

    def divergence(model: nn.Module) -> float:
        progress.check()
        return scorer.score(model)["divergence"].value

    def step(done: int) -> None:
        progress.update(done / len(curves))

    scales = measure_scales(inputs.model, bank, curves, divergence, step)
    content = {"key": key, "scales": [[unit, method, value] for (unit, method), value in scales.items()]}
    write_atomically(path, json.dumps(content))
    return scales


def _scales_file(bank: Bank) -> Path:
    return bank.directory / "scales.json"


def _scales_key(inputs: Inputs, curves: Sequence[Curve]) -> str:
    versions = {method.name: method.version for method in inputs.methods}
    described = [[curve.unit, curve.method, versions[curve.method], len(curve.choices)] for curve in curves]
    return hashlib.sha256(json.dumps([inputs.calibration_key, SCALE_EXAMPLES, described]).encode()).hexdigest()


def _stored_scales(path: Path, key: str) -> dict[tuple[str, str], float] | None:
    """Return the scales of a file, or None if it is absent, damaged or of other curves."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(stored, dict) or stored.get("key") != key:
        return None
    return {(unit, method): value for unit, method, value in stored["scales"]}


def _warn_of_few_tokens(inputs: Inputs, bank: Bank, progress: Progress) -> None:
    short = []
    for unit in inputs.units.units:
        tokens = bank.summary(unit.name).n_tokens
        if too_few_tokens(unit.in_features, tokens):
            short.append(f"{unit.name} ({tokens} tokens, {unit.in_features} features)")
    if short:
        shown = ", ".join(short[:3]) + (f" and {len(short) - 3} more" if len(short) > 3 else "")
        progress.note(
            f"{len(short)} of {len(inputs.units.units)} layers have fewer than {TOKENS_PER_FEATURE} calibration tokens "
            f"for each input feature; their statistics are shrunk: {shown}. More --calibration-examples help"
        )
