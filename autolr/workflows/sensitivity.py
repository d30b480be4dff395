"""Why is this layer at this rank: each layer's curve at a trial's choice, its multiplier, what a step of rank buys."""

import json
import warnings
from collections.abc import Iterable, Mapping

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from autolr.allocation.knapsack import Menu
from autolr.bank import Bank
from autolr.errors import UsageError
from autolr.forms.low_rank import NAME as LOW_RANK
from autolr.machine.atomic import write_atomically
from autolr.optimization.curve_scales import stored_menus
from autolr.optimization.sampler.encoding import Point
from autolr.optimization.sampler.history import ESTIMATE
from autolr.optimization.spaces.importance import multiplier
from autolr.optimization.study.folder import StudyFolder
from autolr.optimization.study.front import finished, scored
from autolr.problem import LoadedProblem
from autolr.results.sensitivity import Account, LayerAccount
from autolr.types import Candidate, Choice, Unit

CURVE_SHARES = (0.125, 0.25, 0.5, 0.75)
"""Shares of the break-even rank at which a layer's curve is shown."""
_LEAST_TRIALS = 20
_QUANTILE = 0.25  # of the trials that count as good; the default tenth is two trials of a small study


def explain(inputs: LoadedProblem, bank: Bank, study: optuna.Study, number: int) -> Account:
    """Return the account of one trial.

    Args:
        inputs: the opened inputs.
        bank: decompositions, complete.
        study: the trial's.
        number: of a finished trial.

    Returns:
        The account, with importances by PED-ANOVA. Where the ranks are settled the steps are alike in all layers. What
        is one step less than dense is the largest option that saves, by the method of the least loss there.

    Raises:
        UsageError: the study has no such trial, or its scales are not on disk.
    """
    trials = {trial.number: trial for trial in finished(study)}
    if number not in trials:
        raise UsageError(f"trial {number} is not a finished trial of this study; its front names those")
    menus = stored_menus(inputs, bank)
    if menus is None:
        raise UsageError(f"{bank.directory} lacks the measured scales of the curves; resume the study first")
    chosen = Candidate.from_json(trials[number].user_attrs["candidate"]).as_dict()
    params, units = trials[number].params, {unit.name: unit for unit in inputs.units.all}
    together = {module for name in chosen if units[name].matrices for module in units[name].modules}
    shown = [menu for menu in menus if menu.name in chosen or not (units[menu.name].matrices or menu.name in together)]
    layers = tuple(_account(menu, units[menu.name], chosen.get(menu.name), params) for menu in shown)
    return Account(number, params, layers, _importances(study))


def _account(menu: Menu, unit: Unit, choice: Choice | None, params: Point) -> LayerAccount:
    losses = {option: float(loss) for option, loss in zip(menu.choices, menu.loss, strict=True)}
    flops = {option: float(cost) for option, cost in zip(menu.choices, menu.cost["flops"], strict=True)}

    def scale(option: Choice | None) -> float:
        own = None if option is None else f"form/{option.form}" if unit.of != "matrix" else f"method/{option.method}"
        return multiplier(unit, params) * float(params.get(own, 1.0) if own else 1.0)

    best = _best_by_rank(menu)

    def slope(other: Choice | None) -> float | None:
        if other not in losses or choice not in losses or flops[other] == flops[choice]:
            return None
        factor = scale(choice or other)  # dense has no method, and no loss to scale
        return factor * (losses[choice] - losses[other]) / ((flops[other] - flops[choice]) / 1e6)

    up = None
    if choice is None:
        smaller = [option for option in losses if option is not None and flops[option] < flops[None]]
        below = max(smaller, key=lambda o: (flops[o], -scale(o) * losses[o]), default=None)
        down = slope(below)
    else:
        smaller_one, larger_one = _neighbours(choice, losses)
        up, down = slope(larger_one), slope(smaller_one) if smaller_one else None
    return LayerAccount(
        unit=unit.name,
        form=choice.form if choice else None,
        method=choice.method if choice else None,
        sizes=dict(choice.sizes) if choice else None,
        break_even=unit.break_even if unit.of == "matrix" else None,
        loss=losses.get(choice),
        curve=tuple((share, _nearest(best, share * unit.break_even)) for share in CURVE_SHARES),
        multiplier=scale(choice),
        next_step=up,
        last_step=down,
    )


def _neighbours(choice: Choice, options: Iterable[Choice | None]) -> tuple[Choice | None, Choice | None]:
    """Return the options one step smaller and one larger in the first of the choice's sizes, all else alike."""
    (main, size), *others = choice.sizes
    alike = {
        option[main]: option
        for option in options
        if option is not None
        and (option.form, option.method) == (choice.form, choice.method)
        and [*option.sizes[1:]] == others
    }
    below = [value for value in alike if value < size]
    above = [value for value in alike if value > size]
    return alike[max(below)] if below else None, alike[min(above)] if above else None


def _best_by_rank(menu: Menu) -> dict[int, float]:
    best: dict[int, float] = {}
    for option, loss in zip(menu.choices, menu.loss, strict=True):
        if option is not None and option.form == LOW_RANK:
            best[option["rank"]] = min(float(loss), best.get(option["rank"], np.inf))
    return best


def _nearest(by_rank: Mapping[int, float], rank: float) -> float | None:
    return by_rank[min(by_rank, key=lambda other: abs(other - rank))] if by_rank else None


def _importances(study: optuna.Study) -> dict[str, float]:
    """Return PED-ANOVA's importances for the objective, over all trials with parameters; stopped ones by estimate."""
    searched = [trial for trial in scored(study) if trial.params]
    if len(searched) < _LEAST_TRIALS:
        return {}
    plain = optuna.create_study(direction=study.directions[0])
    for trial in searched:
        values = trial.values or trial.user_attrs[ESTIMATE]["values"]
        plain.add_trial(optuna.create_trial(params=trial.params, distributions=trial.distributions, value=values[0]))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=_QUANTILE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        found = get_param_importances(plain, evaluator=evaluator)
    return {name: round(float(value), 4) for name, value in found.items()}


def store_account(folder: StudyFolder, inputs: LoadedProblem, bank: Bank, study: optuna.Study, number: int) -> None:
    """Write the account of the winner, layers.json, where the curves are on one scale (uniform studies do without)."""
    if stored_menus(inputs, bank) is not None:
        content = explain(inputs, bank, study, number).to_json()
        write_atomically(folder.account_file, json.dumps(content, indent=1) + "\n")
