"""Error curves: what each option of each unit is predicted to cost in the loss, nats per example.

A method's tails give the shape of a curve, in the method's own metric; one measured divergence per unit gives its
height: the unit alone is compressed to a reference rank, and the curve is scaled to pass through what was measured.
``kfac`` tails are in the loss already (half the tail energy times the tokens of an example is the second-order increase
of the divergence from the dense model), but the factor that the measurement finds still differs by layer, from 0.3 to 6
on a real encoder.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from autolr.allocation.knapsack import Menu
from autolr.bank import Bank
from autolr.cost import CostTable
from autolr.forms.swap import compressed
from autolr.types import Candidate, Choice, Method, Unit

Scales = Mapping[tuple[str, str], float]
Divergence = Callable[[nn.Module], float]

ROW_SHARES = (1 / 32, 1 / 16, 1 / 8)
"""Shares of the output rows that a row-keeping method may keep dense."""
REFERENCE_SHARE = 1 / 3
"""Share of the break-even rank where a curve is tied to a measurement (heuristic: the middle of the useful range)."""
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Curve:
    """One method's options for one unit.

    Attributes:
        unit: its name.
        method: the method's name.
        choices: n options.
        error: (n,) half the tail energy per example in the method's own metric; nats if the method is in the loss.
    """

    unit: str
    method: str
    choices: tuple[Choice, ...]
    error: np.ndarray


def rank_grid(unit: Unit, multiple: int) -> range:
    """Return the ranks offered for a unit: 0 and the multiples below its break-even rank.

    Example:
        >>> list(rank_grid(Unit("a", "a", 0, 1, 32, 32), 8))
        [0, 8]
    """
    return range(0, unit.break_even, multiple)


def error_curve(bank: Bank, unit: Unit, method: Method, multiple: int) -> Curve:
    """Return a method's options for a unit with their errors, from the stored spectrum.

    Args:
        bank: holds the decomposition.
        unit: the layer.
        method: one of the bank's.
        multiple: ranks are multiples of it.
    """
    decomposition = bank.decomposition(unit.name, method.name)
    tokens = bank.summary(unit.name).tokens_per_example if method.needs else 1.0
    tails = decomposition.tails().numpy()
    choices: list[Choice] = []
    errors: list[float] = []
    for rank in rank_grid(unit, multiple):
        choices.append(Choice(method.name, rank))
        errors.append(tails[rank])
        if method.keeps_rows:
            residuals = decomposition.row_residuals(rank).sort(descending=True).values.numpy()
            for rows in sorted({max(1, round(share * unit.out_features)) for share in ROW_SHARES}):
                kept = rank * (unit.out_features + unit.in_features) + rows * unit.in_features
                if kept < unit.out_features * unit.in_features:
                    choices.append(Choice(method.name, rank, rows))
                    errors.append(float(residuals[rows:].sum()))
    return Curve(unit.name, method.name, tuple(choices), 0.5 * tokens * np.array(errors))


def reference_choice(curve: Curve, unit: Unit) -> int:
    """Return the index of the option whose divergence is measured: no kept rows, a third of the useful ranks.

    Useful are the ranks below break-even at which something is still cut away: beyond the weight's own rank the error
    is rounding, and so is the divergence.
    """
    least = _ROUNDING * float(curve.error.max(initial=0.0))
    plain = [index for index, choice in enumerate(curve.choices) if choice.rows == 0 and choice.rank > 0]
    beyond = [curve.choices[index].rank for index in plain if curve.error[index] <= least]
    wanted = REFERENCE_SHARE * min([unit.break_even, *beyond])
    plain = [index for index in plain if curve.error[index] > least]
    return min(plain or [0], key=lambda index: abs(curve.choices[index].rank - wanted))


def measure_scales(
    model: nn.Module,
    bank: Bank,
    curves: Iterable[Curve],
    divergence: Divergence,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[tuple[str, str], float]:
    """Measure, for each curve, the factor that puts it on the scale of the loss.

    Args:
        model: the dense model; each unit in turn is compressed in place and put back.
        bank: holds the decompositions.
        curves: those to scale.
        divergence: runs the model and returns its mean divergence from the dense model, nats per example.
        progress: told how many curves are done.

    Returns:
        (unit, method) -> measured divergence / error at the reference option; 1 where the error there is zero.
    """
    scales: dict[tuple[str, str], float] = {}
    for done, curve in enumerate(curves):
        index = reference_choice(curve, bank.unit(curve.unit))
        candidate = Candidate.of({curve.unit: curve.choices[index]})
        with compressed(model, candidate, bank):
            measured = divergence(model)
        error = float(curve.error[index])
        scales[curve.unit, curve.method] = measured / error if error > 0 else 1.0
        progress(done + 1)
    return scales


def build_menus(curves: Sequence[Curve], scales: Scales, costs: CostTable) -> list[Menu]:
    """Merge the curves of each unit into its menu, with dense as the first option.

    Args:
        curves: of every unit and method.
        scales: (unit, method) -> factor; 1 where absent.
        costs: prices the options.
    """
    by_unit: dict[str, list[Curve]] = {}
    for curve in curves:
        by_unit.setdefault(curve.unit, []).append(curve)
    menus = []
    for name, group in by_unit.items():
        choices: list[Choice | None] = [None]
        loss = [np.zeros(1)]
        for curve in group:
            choices.extend(curve.choices)
            loss.append(curve.error * scales.get((name, curve.method), 1.0))
        known = costs.base.quantities
        savings = [costs.saving(name, choice) if choice else dict.fromkeys(known, 0) for choice in choices]
        cost = {q: np.array([-saving[q] for saving in savings], dtype=float) for q in known}
        menus.append(Menu(name, tuple(choices), np.concatenate(loss), cost))
    return menus
