"""The account of a trial, against the curves and costs it is made of."""

import hashlib
import json
from io import StringIO

import pytest
from nli_fixture import write_inputs
from rich.console import Console
from typer.testing import CliRunner

from autolr.allocation.error_curves import error_curves
from autolr.cli.main import app
from autolr.errors import UsageError
from autolr.forms import FORMS
from autolr.optimization.curve_scales import SCALE_EXAMPLES, make_menus, stored_menus
from autolr.optimization.spaces.importance import multiplier
from autolr.optimization.study.folder import StudyFolder
from autolr.progress import Silent
from autolr.report.sensitivity import sensitivity_table
from autolr.results.sensitivity import Account, LayerAccount
from autolr.spec.study import make_spec
from autolr.types import Candidate
from autolr.workflows.search import open_study, run_search
from autolr.workflows.sensitivity import explain


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    options = write_inputs(tmp_path_factory.mktemp("inputs"))
    data = {name.removeprefix("--"): value for name, value in options.items() if name != "--model"}
    plain = {
        "model": options["--model"],
        "data": data | {"search_examples": 40, "selection_examples": 40},
        "budgets": ["0.6x-flops"],
        "trials": 24,
        "search": {
            "methods": ["kfac", "svd"],
            "forms": ["low-rank", "low-rank-rows"],
            "multiple": 2,
            "sampler": "random",
            "refit": False,
        },
    }
    folder = StudyFolder(tmp_path_factory.mktemp("studies") / "one")
    run_search(make_spec(plain, "test"), folder, Silent())
    return folder


def test_an_account_is_made_of_the_curves(study: StudyFolder) -> None:
    opened, loaded = open_study(study, Silent()), study.load_study()
    number = study.result()["winner"]
    found = explain(opened.inputs, opened.bank, loaded, number).to_json()
    assert json.loads(study.account_file.read_text()) == json.loads(json.dumps(found))
    menus = {menu.name: menu for menu in make_menus(opened.inputs, opened.bank, Silent())}
    chosen = Candidate.from_json(loaded.trials[number].user_attrs["candidate"]).as_dict()
    assert [one["unit"] for one in found["layers"]] == list(menus)
    assert any(one["next_step"] is not None for one in found["layers"])
    for one in found["layers"]:
        menu, choice = menus[one["unit"]], chosen.get(one["unit"])
        index = menu.choices.index(choice)
        assert one["loss"] == pytest.approx(float(menu.loss[index]))
        unit = opened.inputs.units.by_name()[one["unit"]]
        params = loaded.trials[number].params
        factor = multiplier(unit, params) * (params.get(f"method/{choice.method}", 1.0) if choice else 1.0)
        assert one["multiplier"] == pytest.approx(factor)
        losses = [loss for _, loss in one["curve"]]
        assert losses == sorted(losses, reverse=True)
        if one["next_step"] is not None:
            larger = menu.choices.index(choice.resized(rank=choice["rank"] + 2))
            step = (menu.cost["flops"][larger] - menu.cost["flops"][index]) / 1e6
            saved = factor * (menu.loss[index] - menu.loss[larger])
            assert one["next_step"] == pytest.approx(saved / step)
    assert set(found["importances"]) <= set(loaded.trials[-1].params)
    assert sum(found["importances"].values()) == pytest.approx(1.0, abs=0.01)


def test_scales_measured_before_forms_had_versions_are_found(study: StudyFolder) -> None:
    """Their key is the hash of these parts; nothing of the built-in forms is among them."""
    opened = open_study(study, Silent())
    [stored] = [json.loads(file.read_text()) for file in (study.bank / "scales").glob("*.json")]
    inputs, units = opened.inputs, opened.inputs.units.by_name()
    versions = {method.name: method.version for method in inputs.methods}
    curves = {
        curve.key: [*curve.key, versions[curve.method], *curve.choices[curve.reference].sizes]
        for name in units
        for method in inputs.methods
        for curve in error_curves(opened.bank, units[name], method, inputs.spec.search.multiple, inputs.forms)
    }
    parts = [inputs.calibration_key, inputs.spec.seed, SCALE_EXAMPLES, list(curves.values())]
    assert stored["key"] == hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    assert stored_menus(inputs, opened.bank) is not None


def test_scales_of_another_version_of_a_form_are_not_mistaken(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_study(study, Silent())
    assert stored_menus(opened.inputs, opened.bank) is not None
    monkeypatch.setattr(type(FORMS.get("low-rank")), "version", 2, raising=False)
    assert stored_menus(opened.inputs, opened.bank) is None


def test_a_dense_layer_says_what_the_first_step_down_would_cost(study: StudyFolder) -> None:
    opened = open_study(study, Silent())
    found = explain(opened.inputs, opened.bank, study.load_study(), 0).to_json()  # the dense model
    menus = {menu.name: menu for menu in make_menus(opened.inputs, opened.bank, Silent())}
    for one in found["layers"]:
        menu = menus[one["unit"]]
        assert (one["method"], one["rank"], one["loss"], one["next_step"]) == (None, None, 0.0, None)
        largest = max(cost for cost in menu.cost["flops"] if cost < 0)
        losses = [loss for loss, cost in zip(menu.loss, menu.cost["flops"], strict=True) if cost == largest]
        assert one["last_step"] == pytest.approx(min(losses) / (-largest / 1e6))
    shown = CliRunner().invoke(app, ["sensitivity", str(study.path), "--trial", "0"]).stdout
    line = next(line for line in shown.splitlines() if line.lstrip().startswith(found["layers"][0]["unit"]))
    assert line.split()[1:3] == ["dense", "full"]
    assert f"{found['layers'][0]['last_step']:.2g}" in line
    assert "break even: the rank at which low rank costs as much as dense" in " ".join(shown.split())


def test_no_number_is_cut_off_in_a_narrow_terminal() -> None:
    layer = LayerAccount(
        unit="bert.encoder.layer.11.attention.self.query",
        form="low-rank-rows",
        method="losparse",
        sizes={"rank": 1280, "rows": 16},
        break_even=1536,
        loss=0.000123,
        curve=((0.125, 0.0456),),
        multiplier=1.25,
        next_step=1.2e-05,
        last_step=3.4e-05,
    )
    found = Account(3, {}, (layer,), {})
    for width, shown in ((80, 0), (160, 1)):
        console = Console(width=width, record=True, file=StringIO())
        console.print(sensitivity_table(found, width))
        text = console.export_text()
        for number in ("losparse", "1280+16", "1536", "0.00012", "1.25", "1.2e-05", "3.4e-05"):
            assert text.count(number) == 1
        assert text.count("0.046") == shown
        assert "…" not in text


def test_a_trial_that_is_not_there_is_refused(study: StudyFolder) -> None:
    opened = open_study(study, Silent())
    with pytest.raises(UsageError, match="trial 99 is not a finished trial"):
        explain(opened.inputs, opened.bank, study.load_study(), 99)


def test_the_command_prints_a_line_for_each_layer(study: StudyFolder) -> None:
    done = CliRunner().invoke(app, ["sensitivity", str(study.path)])
    assert done.exit_code == 0, done.output
    assert "step up" in done.output
    assert "what mattered in the search" in done.output
    opened = open_study(study, Silent())
    for unit in opened.inputs.units.units:
        assert sum(line.split()[:1] == [unit.name] for line in done.output.splitlines()) == 1
    assert CliRunner().invoke(app, ["sensitivity", str(study.path), "--trial", "99"]).exit_code == 2
