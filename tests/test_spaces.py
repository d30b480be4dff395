"""Search spaces: every candidate meets its budget; published rules against hand-worked cases; every preset runs."""

import json
from dataclasses import replace
from math import e, log
from pathlib import Path

import numpy as np
import pytest
from nli_fixture import write_inputs
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from autolr.errors import BudgetError, UsageError
from autolr.optimization.spaces import Space, conformance
from autolr.optimization.spaces.build import build_space
from autolr.optimization.spaces.grouped import GroupedSpace, from_shares, largest_that_fits, uniform_candidate
from autolr.optimization.spaces.rules import RULES, Layers, RuleSpace, aimet_greedy, asvd_strs, laser, svd_llm_v2
from autolr.optimization.study.folder import StudyFolder
from autolr.progress import Silent
from autolr.spec.spaces import GroupedConfig, load_space_config, presets
from autolr.spec.study import make_spec
from autolr.types import Candidate, Choice, Unit
from autolr.workflows.search import open_study, run_search

UNITS = {
    unit.name: unit
    for unit in (
        *(Unit(f"{b}.up", "up", b, 3, 40, 20) for b in range(3)),
        *(Unit(f"{b}.down", "down", b, 3, 20, 40) for b in range(3)),
    )
}
DENSE = sum(u.out_features * u.in_features for u in UNITS.values())


def weights(candidate: Candidate) -> int:
    chosen = candidate.as_dict()
    return sum(
        chosen[name]["rank"] * (u.out_features + u.in_features) if name in chosen else u.out_features * u.in_features
        for name, u in UNITS.items()
    )


def fits(share: float):
    return lambda candidate: weights(candidate) <= share * DENSE


def grouped(budget: float, methods=("svd", "afm"), **config) -> GroupedSpace:
    return GroupedSpace(GroupedConfig(kind="grouped", **config), UNITS, methods, 1, fits(budget))


@pytest.mark.parametrize("share", [0.05, 0.3, 0.8])
def test_every_point_of_a_grouped_space_uses_its_budget(share: float) -> None:
    space = grouped(share, by="role", bands=3, share={"low": 0.25, "high": 4.0}, choose="each")
    found = space.distributions()
    assert len([d for d in found.values() if isinstance(d, FloatDistribution)]) == 5
    assert len([d for d in found.values() if isinstance(d, CategoricalDistribution)]) == 6
    rng = np.random.default_rng(0)
    smallest_step = 60  # one rank of one layer
    for _ in range(50):
        params = {
            name: float(np.exp(rng.uniform(np.log(d.low), np.log(d.high))))
            if isinstance(d, FloatDistribution)
            else d.choices[rng.integers(2)]
            for name, d in found.items()
        }
        candidate = space.decode(params)
        assert fits(share)(candidate)
        assert weights(candidate) > share * DENSE - len(UNITS) * smallest_step
        for name, choice in candidate.choices:
            band = UNITS[name].block
            assert choice.method == params[f"method/{UNITS[name].role}@{band}"]


def test_a_larger_share_has_larger_ranks() -> None:
    space = grouped(0.3, by="role", share={"low": 0.25, "high": 4.0})
    chosen = space.decode({"share/down": 3.0, "method": "svd"}).as_dict()
    assert all(chosen[f"{b}.down"]["rank"] > 2.5 * chosen[f"{b}.up"]["rank"] for b in range(3))


def test_uniform_has_no_parameter_but_the_method() -> None:
    assert grouped(0.5, by="model", methods=("svd",)).distributions() == {}
    assert list(grouped(0.5, by="model").distributions()) == ["method"]
    assert list(grouped(0.5, by="model").seeds(0, 9)) == ["same share, svd", "same share, afm"]
    candidate = uniform_candidate(UNITS, "svd", 1, fits(0.5))
    assert len({choice["rank"] for _, choice in candidate.choices}) == 1
    assert grouped(0.5, by="model").decode({"method": "svd"}) == candidate


def test_what_cannot_be_met_is_said_and_what_is_free_is_dense() -> None:
    with pytest.raises(BudgetError, match="not even at rank 0"):
        grouped(0.5, by="model").fits and largest_that_fits(lambda _: Candidate(), 1.0, lambda _: False)
    assert uniform_candidate(UNITS, "svd", 1, lambda _: True) == Candidate()


def layers(share: float, sensitivity: dict[str, float], losses: dict[str, float] | None = None) -> Layers:
    """Layers whose divergence alone is sensitivity · (1 - rank / break-even)."""

    def alone(name: str, choice: Choice) -> dict[str, float]:
        cut = 1 - choice["rank"] / UNITS[name].break_even
        return {"divergence": sensitivity[name] * cut, "agreement": 1 - 0.1 * sensitivity[name] * cut}

    return Layers(UNITS, "svd", 1, alone, lambda name, _rank: (losses or {}).get(name, 0.0), fits(share))


EVEN = dict.fromkeys(UNITS, 1.0)
ODD = EVEN | {"0.up": 100.0}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_rule_meets_its_budget_and_treats_equals_alike(rule: str, share: float) -> None:
    even = RULES[rule](layers(share, EVEN, dict.fromkeys(UNITS, 1e4)))
    assert fits(share)(even)
    if rule != "laser":  # which takes layers one by one
        assert len({choice["rank"] for _, choice in even.choices}) == 1


@pytest.mark.parametrize("rule", [asvd_strs, aimet_greedy, laser])
def test_a_sensitive_layer_keeps_more(rule) -> None:
    chosen = rule(layers(0.5, ODD)).as_dict()
    others = [choice["rank"] for name, choice in chosen.items() if name != "0.up"]
    assert "0.up" not in chosen or chosen["0.up"]["rank"] > max(others)


def test_strs_takes_the_lowest_threshold_that_fits() -> None:
    chosen = asvd_strs(layers(0.45, EVEN)).as_dict()
    assert {choice["rank"] for choice in chosen.values()} == {int(0.4 * 800 / 60)}  # its largest share below 0.45
    with pytest.raises(BudgetError, match="smallest shares"):
        asvd_strs(replace(layers(0.45, EVEN), fits=lambda _: False))


def test_svd_llm_v2_removes_in_proportion_to_one_over_the_logarithm() -> None:
    losses = {name: 10.0 ** (2 + unit.block) for name, unit in UNITS.items()}
    chosen = svd_llm_v2(layers(0.6, EVEN, losses)).as_dict()
    kept = {b: chosen[f"{b}.up"]["rank"] * 60 / 800 if f"{b}.up" in chosen else 1.0 for b in range(3)}
    removed = np.array([1 - kept[b] for b in range(3)])
    wanted = np.array([1 / log(max(10.0 ** (2 + b), e)) for b in range(3)])
    np.testing.assert_allclose(removed / removed.sum(), wanted / wanted.sum(), atol=0.05)


def test_svd_llm_v2_reaches_low_budgets_with_unequal_layers() -> None:
    losses = {name: 10.0 ** (2 + 3 * unit.block) for name, unit in UNITS.items()}
    assert fits(0.03)(svd_llm_v2(layers(0.03, EVEN, losses)))


def test_shares_of_one_are_dense() -> None:
    assert from_shares(UNITS, dict.fromkeys(UNITS, 1.0), dict.fromkeys(UNITS, "svd"), 1) == Candidate()


def test_every_preset_is_valid_and_says_what_it_is() -> None:
    assert set(presets()) == {
        *("importance", "grouped", "per-layer", "uniform", "lems", "bolaco"),
        *("asvd-strs", "svd-llm-v2", "aimet-greedy", "laser", "kwon"),
    }
    for name, path in presets().items():
        load_space_config(name)
        assert path.read_text().startswith("# "), name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: grouped\nby: layer\n", "by: must be 'model', 'module' or 'role'"),
        ("kind: grouped\nshare: {low: 0, high: 2}\n", "share.low"),
        ("kind: grouped\nbands: 0\n", "bands"),
        ("kind: rule\nrule: asvd\n", "rule: must be"),
        ("kind: ranks\n", "kind"),
    ],
)
def test_a_malformed_space_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_space_config(str(tmp_path / "mine.yaml"))


def test_a_rule_is_a_space_of_one_point() -> None:
    space = RuleSpace("laser", Candidate())
    assert isinstance(space, Space)
    assert space.decode({}) == Candidate()


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize("space", sorted(presets()))
def test_every_preset_runs_to_its_end(space: str, options: dict[str, str], tmp_path: Path) -> None:
    data = {name.removeprefix("--"): value for name, value in options.items() if name != "--model"}
    methods = load_space_config(space).methods or ("kfac", "svd")
    plain = {
        "model": options["--model"],
        "data": data | {"search_examples": 40, "selection_examples": 40},
        "budgets": ["0.5x-flops"],
        "trials": 6,
        "search": {"methods": list(methods), "multiple": 1, "space": space, "refit": False},
    }
    folder = StudyFolder(tmp_path / "study")
    folder.bank = Path(options["--model"]).with_name("bank")  # one for all presets
    result = run_search(make_spec(plain, "test"), folder, Silent())
    assert result.reached
    trials = folder.load_study().get_trials(states=[TrialState.COMPLETE])
    origins = [trial.user_attrs["origin"] for trial in trials if "origin" in trial.user_attrs]
    wanted = {"uniform": 6, "kwon": 2}  # a choice of methods; no ranks. Rules are one beside the dense and the uniform
    searched = space in ("importance", "grouped", "per-layer", "lems", "bolaco")
    assert len(trials) == (6 if searched else wanted.get(space, 3))
    if searched and space != "per-layer":  # decoded to the budget
        for trial in trials:
            if "origin" not in trial.user_attrs:
                assert trial.user_attrs["costs"]["ratio"]["flops"] <= 0.5
    assert "dense" in origins
    again = run_search(make_spec(plain, "test"), folder, Silent())
    assert again == result
    opened = open_study(folder, Silent())
    conformance.check(build_space(opened.inputs, opened.bank, Silent()))
    assert json.loads((tmp_path / "study" / "result.json").read_text())["trials"] == len(trials)


def test_a_space_that_breaks_a_law_is_told_which() -> None:
    class Elsewhere(GroupedSpace):
        def seeds(self, seed: int, trials: int) -> dict[str, dict[str, float]]:
            return {"far": dict.fromkeys(self.distributions(), 1e9)}

    with pytest.raises(AssertionError, match=r"seed 'far': share/.* is outside"):
        conformance.check(
            Elsewhere(GroupedConfig(kind="grouped", share={"low": 0.5, "high": 2}), UNITS, ["svd"], 1, fits(0.5))
        )
