"""The search space that a study's specification names."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from autolr.bank import Bank
from autolr.errors import UsageError
from autolr.forms.low_rank import NAME as LOW_RANK
from autolr.forms.swap import compressed
from autolr.machine.atomic import read_json, write_atomically
from autolr.optimization.curve_scales import SCALE_EXAMPLES, make_menus, sample_scorer
from autolr.optimization.spaces import Space
from autolr.optimization.spaces.grouped import GroupedSpace
from autolr.optimization.spaces.importance import ImportanceSpace
from autolr.optimization.spaces.mask_search import KWON, masks_by_fisher
from autolr.optimization.spaces.per_layer import PerLayerSpace
from autolr.optimization.spaces.rules import RULES, Layers, RuleSpace
from autolr.problem import LoadedProblem
from autolr.progress import Progress
from autolr.spec.spaces import (
    SPACES,
    GroupedConfig,
    ImportanceConfig,
    PerLayerConfig,
    RuleConfig,
    load_space_config,
)
from autolr.tasks import Scorer
from autolr.types import Candidate, Choice


def build_space(inputs: LoadedProblem, bank: Bank, progress: Progress) -> Space:
    """Return the search space.

    Args:
        inputs: the opened inputs.
        bank: decompositions, complete.
        progress: told what is under way: the rules measure layers, and the knapsack's curves are scaled by measurement.

    Raises:
        BudgetError: a rule cannot reach the budgets.
    """
    config = load_space_config(inputs.spec.search.space)
    space: Space = SPACES.get(config.kind).builder(config, inputs, bank, progress)
    return space


def importance(config: ImportanceConfig, inputs: LoadedProblem, bank: Bank, progress: Progress) -> ImportanceSpace:
    """Return the space of multipliers on the error curves."""
    return ImportanceSpace(
        config,
        make_menus(inputs, bank, progress),
        {unit.name: unit for unit in inputs.units.all},
        _methods(inputs),
        inputs.relative_limits,
        {quantity: float(inputs.costs.base.get(quantity)) for quantity in inputs.limits},
        inputs.spec.parsed_budgets[0].quantity,
    )


def grouped(config: GroupedConfig, inputs: LoadedProblem, _bank: Bank, _progress: Progress) -> GroupedSpace:
    """Return the space of shares of groups of layers."""
    _check_ranks(inputs)
    return GroupedSpace(config, inputs.units.by_name(), _methods(inputs), inputs.spec.search.multiple, inputs.fits)


def per_layer(_config: PerLayerConfig, inputs: LoadedProblem, bank: Bank, progress: Progress) -> PerLayerSpace:
    """Return the space of a method and a rank for each layer, which begins where the knapsack would."""
    _check_ranks(inputs)
    default = load_space_config("importance")
    assert isinstance(default, ImportanceConfig)
    solved = importance(default, inputs, bank, progress)
    solved = replace(solved, menus=[menu for menu in solved.menus if solved.units[menu.name].of == "matrix"])
    seeds = solved.seeds(inputs.spec.seed, inputs.spec.trials)
    start = {name: solved.decode(point) for name, point in seeds.items()}
    return PerLayerSpace(inputs.units.by_name(), _methods(inputs), inputs.spec.search.multiple, start)


def rule(config: RuleConfig, inputs: LoadedProblem, bank: Bank, progress: Progress) -> RuleSpace:
    """Return the one candidate of a published rule."""
    if config.rule == KWON:
        return RuleSpace(KWON, masks_by_fisher(inputs, bank))
    _check_ranks(inputs)
    return RuleSpace(config.rule, _candidate_by_rule(config.rule, inputs, bank, progress))


def _check_ranks(inputs: LoadedProblem) -> None:
    if LOW_RANK not in inputs.form_names:
        space, names = inputs.spec.search.space, ", ".join(inputs.form_names)
        raise UsageError(f"--space {space} is one of ranks, and needs --form {LOW_RANK} (got {names})")


def _methods(inputs: LoadedProblem) -> list[str]:
    return [method.name for method in inputs.methods]


def _candidate_by_rule(name: str, inputs: LoadedProblem, bank: Bank, progress: Progress) -> Candidate:
    """Return what a rule allocates; what it measures does not depend on the budget and is kept in the bank's folder."""
    method = inputs.methods[0]
    described = [inputs.calibration_key, method.name, method.version, SCALE_EXAMPLES, inputs.spec.seed]
    key = hashlib.sha256(json.dumps(described).encode()).hexdigest()
    file = bank.directory / "alone" / f"{key}.json"
    known: dict[str, dict[str, float]] = read_json(file) or {}
    before = len(known)

    @cache
    def scorer() -> Scorer:
        progress.start(f"measure layers one at a time for {name}")
        return sample_scorer(inputs)

    def alone(name: str, choice: Choice) -> Mapping[str, float]:
        entry = f"{name} {choice['rank']}"
        if entry not in known:
            progress.check()
            with compressed(inputs.model, Candidate.of({name: choice}), bank):
                known[entry] = {score: found.value for score, found in scorer().score(inputs.model).items()}
        return known[entry]

    def loss(name: str, rank: int) -> float:
        return float(bank.decomposition(name, method.name).tails()[rank]) * bank.summary(name).n_tokens

    layers = Layers(inputs.units.by_name(), method.name, inputs.spec.search.multiple, alone, loss, inputs.fits)
    try:
        return RULES[name](layers)
    finally:
        if len(known) > before:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps(known) + "\n")
