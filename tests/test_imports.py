"""Imports go downwards only, ``import autolr`` is light, and every module can be imported first."""

import importlib.util
import os
import pkgutil
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = Path(importlib.util.find_spec("autolr").origin).parent


def lint(folder):
    """Run the contracts of pyproject.toml on the package in a folder."""
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", program, "--config", str(ROOT / "pyproject.toml"), "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_every_import_goes_downwards():
    """The order of the layers is the contract in pyproject.toml."""
    done = lint(PACKAGE.parent)
    assert done.returncode == 0, done.stdout
    assert "5 kept, 0 broken" in done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the package that keeps the contracts."""
    copy = tmp_path_factory.mktemp("copy") / "autolr"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors", "*.json"))
    assert lint(copy.parent).returncode == 0
    return copy


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("types.py", "from autolr.methods.weighted_svd import psd_power"),
        ("methods/svd.py", "import autolr.bank"),
        ("optimization/sampler/kernel.py", "from autolr.optimization.study import front"),
        ("checkpoint/runtime/layers.py", "def late():\n    from autolr.cli import main"),
        ("errors.py", "from autolr.forms import swap"),
    ],
)
def test_an_upward_import_breaks_the_contract(copy, module, line):
    """Also one inside a function, and one through the package itself."""
    path = copy / module
    before = path.read_text()
    path.write_text(f"{before}\n\n{line}\n")
    done = lint(copy.parent)
    path.write_text(before)
    assert done.returncode == 1, done.stdout
    assert " 0 broken" not in done.stdout


def test_every_module_has_its_place_in_the_order():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    placed = [name.strip() for layer in contracts[0]["layers"] for name in layer.split("|")]
    assert len(placed) == len(set(placed))
    assert set(placed) == {module.name for module in pkgutil.iter_modules([str(PACKAGE)])}


def test_importing_the_package_imports_no_heavy_library():
    """The command line answers --version and --help without waiting for torch."""
    heavy = ["torch", "transformers", "numpy", "scipy", "optuna", "botorch", "datasets", "pydantic", "yaml"]
    done = python(f"import sys, autolr; print([name for name in {heavy} if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_what_only_reads_a_study_does_not_wait_for_torch():
    """``status``, ``front`` and ``select`` answer while a search of another process has the machine."""
    modules = [
        "autolr.cli",
        "autolr.report.sentences",
        "autolr.optimization.study.folder",
        "autolr.optimization.study.summary",
    ]  # as cli/results.py
    heavy = ["torch", "transformers", "botorch", "datasets", "optuna_dashboard", "sklearn"]
    done = python(f"import sys, {', '.join(modules)}; print([name for name in {heavy} if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_what_is_mistyped_is_refused_without_waiting_for_model_libraries(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    commands = [
        ["export", "nosuch", "--out", "x"],
        ["search", "--budget", "0.5x-flops", "--train", "nosuch.csv"],
        ["search", "--budget", "0.5x-flops", "--model", "./nosuch"],
        ["search", "--budget", "0.5x-flops", "--study", str(tmp_path / "other")],
        ["search", "--budget", "0.5x-flops", "--sampler", "nosuch"],
        ["estimate", "--budget", "0.5x-flops", "--method", "nosuch"],
    ]
    done = python(
        "import sys; from typer.testing import CliRunner; from autolr.cli import app; "
        f"print([CliRunner().invoke(app, given).exit_code for given in {commands}], "
        "[name for name in ['transformers', 'botorch', 'optuna_dashboard'] if name in sys.modules])"
    )
    assert done.stdout.strip() == "[2, 2, 2, 2, 2, 2] []", done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", [m.name for m in pkgutil.walk_packages([str(PACKAGE)], "autolr.")])
def test_every_module_can_be_imported_first(name):
    """No module works only because another one was imported before it."""
    done = python(f"import {name}")
    assert done.returncode == 0, done.stderr
