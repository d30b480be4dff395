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
from autolr.forms import FORMS
from autolr.forms.base import Form
from autolr.forms.swap import compressed, given
from autolr.model.block_memory import remembered
from autolr.types import Candidate, Choice, Method, Unit

Key = tuple[str, str, str]
"""Unit, method, and the scale on which its forms' errors are: see :attr:`autolr.forms.base.Form.scale`."""
Scales = Mapping[Key, float]
Divergence = Callable[[nn.Module], float]


@dataclass(frozen=True)
class Curve:
    """One method's options for one unit, of all forms whose errors are on one scale.

    Attributes:
        unit: its name.
        method: the method's name.
        scale: the forms' scale.
        choices: n options, by rising sizes.
        error: (n,) half the squared error per example in the method's own metric; nats if the method is in the loss.
        reference: the place of the option whose divergence is measured.
        others: places of more options that are measured, where one factor does not do for all sizes.
        shares: (1 + others, n) how much the logarithm of each factor counts for an option; None without others.
    """

    unit: str
    method: str
    scale: str
    choices: tuple[Choice, ...]
    error: np.ndarray
    reference: int
    others: tuple[int, ...] = ()
    shares: np.ndarray | None = None

    @property
    def key(self) -> Key:
        """What the curve's measured scale is filed under."""
        return self.unit, self.method, self.scale

    @property
    def measured(self) -> dict[Key, int]:
        """What each measured scale is filed under, and the place of its option."""
        others = {(self.unit, self.method, f"{self.scale} {n}"): at for n, at in enumerate(self.others, start=1)}
        return {self.key: self.reference, **others}

    def loss(self, scales: Scales) -> np.ndarray:
        """Return the errors on the scale of the loss, (n,).

        Args:
            scales: factor of each of :attr:`measured`; 1 where absent.
        """
        if self.shares is None:
            return self.error * scales.get(self.key, 1.0)
        factors = np.array([scales.get(key, 1.0) for key in self.measured])
        logarithms: np.ndarray = np.log(factors.clip(min=np.finfo(float).tiny)) @ self.shares
        return np.asarray(self.error * np.exp(logarithms))


def error_curves(
    bank: Bank, unit: Unit, method: Method, multiple: int, forms: Sequence[Form] | None = None
) -> list[Curve]:
    """Return a method's options for a unit with their errors, from what the bank has: one curve for each scale.

    Args:
        bank: holds the decomposition.
        unit: the layer.
        method: one of the bank's.
        multiple: ranks are multiples of it.
        forms: what a unit may become; None: every one of the table.
    """
    parts = given(bank.model, bank, unit.name, method.name)
    tokens = bank.summary(unit.name).tokens_per_example if method.needs else 1.0
    by_scale: dict[str, list[Form]] = {}
    for form in FORMS if forms is None else forms:
        if form.applies(unit, method):
            by_scale.setdefault(form.scale, []).append(form)
    curves = []
    for scale, group in by_scale.items():
        options = {form: form.options(parts, multiple) for form in group}
        measured = next((form for form in group if form.name == scale), group[0])
        choices, errors = options[measured]
        if not choices:
            continue
        reference = choices[measured.reference(unit, choices, np.asarray(errors))]
        pairs = [pair for found, errors in options.values() for pair in zip(found, errors, strict=True)]
        pairs.sort(key=lambda pair: [value for _, value in pair[0].sizes])
        listed = tuple(choice for choice, _ in pairs)
        error = 0.5 * tokens * np.array([error for _, error in pairs])
        others, shares = measured.more_references(unit, listed)
        curves.append(Curve(unit.name, method.name, scale, listed, error, listed.index(reference), others, shares))
    return curves


def measure_scales(
    model: nn.Module,
    bank: Bank,
    curves: Iterable[Curve],
    divergence: Divergence,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[Key, float]:
    """Measure, for each curve, the factor that puts it on the scale of the loss.

    The dense model runs once first: in each further pass the blocks before the changed unit answer from memory.

    Args:
        model: the dense model; each unit in turn is compressed in place and put back.
        bank: holds the decompositions.
        curves: those to scale.
        divergence: runs the model and returns its mean divergence from the dense model, nats per example.
        progress: told how many curves are done.

    Returns:
        Of each curve's key: measured divergence / error at the reference option; 1 where the error there is zero.
    """
    scales: dict[Key, float] = {}
    curves = list(curves)
    with remembered(model, [bank.unit(curve.unit) for curve in curves]) as memory:
        divergence(model)
        for done, curve in enumerate(curves):
            memory.changing(bank.unit(curve.unit))
            for key, place in curve.measured.items():
                candidate = Candidate.of({curve.unit: curve.choices[place]})
                with compressed(model, candidate, bank):
                    measured = divergence(model)
                error = float(curve.error[place])
                scales[key] = measured / error if error > 0 else 1.0
            progress(done + 1)
    return scales


def build_menus(curves: Sequence[Curve], scales: Scales, costs: CostTable) -> list[Menu]:
    """Merge the curves of each unit into its menu, with dense as the first option.

    Args:
        curves: of every unit, method and scale.
        scales: a curve's key -> factor; 1 where absent.
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
            loss.append(curve.loss(scales))
        quantities = costs.base.quantities
        savings = [costs.saving(name, choice) if choice else dict.fromkeys(quantities, 0) for choice in choices]
        cost = {q: np.array([-saving[q] for saving in savings], dtype=float) for q in quantities}
        menus.append(Menu.of_unit(name, choices, np.concatenate(loss), cost))
    return menus
