"""A study begun with another's best points, and a trial's multipliers at another budget."""

import json
from pathlib import Path

import pytest
from nli_fixture import write_inputs
from optuna.distributions import CategoricalDistribution, FloatDistribution
from typer.testing import CliRunner

from autolr.cli.main import app
from autolr.errors import UsageError
from autolr.optimization.study.folder import StudyFolder
from autolr.optimization.study.transfer import WARM_STARTS, warm_points
from autolr.progress import Silent
from autolr.spec.study import StudySpec, make_spec
from autolr.workflows.search import run_search


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def spec_of(options: dict[str, str], budget: str, **search: object) -> StudySpec:
    data = {name.removeprefix("--"): value for name, value in options.items() if name != "--model"}
    plain = {
        "model": options["--model"],
        "data": data | {"search_examples": 40, "selection_examples": 40},
        "budgets": [budget],
        "trials": 10,
        "search": {"methods": ["kfac", "svd"], "multiple": 1, "refit": False, **search},
    }
    return make_spec(plain, "test")


@pytest.fixture(scope="module")
def first(options: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    folder = StudyFolder(tmp_path_factory.mktemp("studies") / "first")
    run_search(spec_of(options, "0.6x-flops"), folder, Silent())
    return folder


def test_a_study_begins_with_the_best_points_of_another(first: StudyFolder, options, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "second")
    run_search(spec_of(options, "0.4x-flops", warm_start=str(first.path)), folder, Silent())
    origins = {t.user_attrs["origin"].partition(" ")[0] for t in folder.load_study().trials if "origin" in t.user_attrs}
    # Where the other study's best is the knapsack's own solution it is taken up once, as that.
    assert {"dense", "uniform", "warm"} <= origins <= {"dense", "uniform", "warm", "knapsack", "near"}
    glossary = (Path(__file__).parents[1] / "docs/glossary.md").read_text()
    assert all(f"| `{origin}" in glossary for origin in (*origins, "near", "same share", "search"))
    warm = {t.user_attrs["origin"]: t for t in folder.load_study().trials if "warm" in t.user_attrs.get("origin", "")}
    assert 1 <= len(warm) <= WARM_STARTS
    known = [t.params for t in first.load_study().trials]
    for trial in warm.values():
        assert trial.params in known
        assert trial.user_attrs["costs"]["ratio"]["flops"] <= 0.4
    scored = sorted((t.values[0], t.number) for t in first.load_study().trials if t.params)
    best = first.load_study().trials[scored[0][1]]
    assert warm["warm 0"].params == best.params


def test_points_are_moved_into_the_space_they_go_to(first: StudyFolder) -> None:
    space = {"level": FloatDistribution(0.97, 0.98), "depth/slope": FloatDistribution(-0.7, 0.7)}
    for point in warm_points(first.path, space).values():
        assert 0.97 <= point["level"] <= 0.98
        assert set(point) == set(space)


def test_a_study_of_another_space_is_refused(first: StudyFolder, options, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none of its finished trials has the parameters"):
        warm_points(first.path, {"rank/x": CategoricalDistribution(("a",))})
    spec = spec_of(options, "0.5x-flops", warm_start=str(tmp_path / "absent"))
    with pytest.raises(UsageError, match="is not a study folder"):
        run_search(spec, StudyFolder(tmp_path / "third"), Silent())
    assert not (tmp_path / "third").exists()


def test_export_solves_for_a_budget_that_no_trial_has(first: StudyFolder, tmp_path: Path) -> None:
    out = tmp_path / "small"
    flags = ["export", str(first.path), "--budget", "0.35x-flops", "--out", str(out)]
    assert CliRunner().invoke(app, flags).exit_code == 3  # no finished trial is within it
    done = CliRunner().invoke(app, [*flags, "--solve", "--json"])
    assert done.exit_code == 0, done.output
    card = (out / "README.md").read_text()
    assert "knapsack at 0.35x-flops under the multipliers of trial" in card
    ratio = float(next(line for line in card.splitlines() if line.startswith("| flops")).split("|")[3])
    assert 0.3 < ratio <= 0.35
    assert json.loads((out / "config.json").read_text())["quantization_config"]["layers"]
    out = tmp_path / "other"
    assert CliRunner().invoke(app, ["export", str(first.path), "--solve", "--out", str(out)]).exit_code == 2
    timed = [*flags[:3], "0.5x-latency", "--solve", "--out", str(out)]
    assert "did not measure latency" in CliRunner().invoke(app, timed).output
    impossible = [*flags[:3], "0.001x-flops", "--solve", "--out", str(out)]
    assert CliRunner().invoke(app, impossible).exit_code == 3
