"""A method, a form, a sampler and a space of third parties, a file and an entry point each, through whole studies."""

import json
import os
import subprocess
import sys

import block_diagonal
import early_late
import input_norm
import pytest
import sobol
import torch
from installed import installed
from nli_fixture import write_inputs
from typer.testing import CliRunner

from autolr.checkpoint.load import load_checkpoint
from autolr.cli.main import app
from autolr.forms import FORMS
from autolr.forms import conformance as form_laws
from autolr.methods import METHODS
from autolr.methods import conformance as method_laws
from autolr.optimization.sampler import conformance as sampler_laws
from autolr.optimization.sampler.registry import SAMPLERS
from autolr.optimization.spaces import conformance as space_laws
from autolr.optimization.spaces.build import build_space
from autolr.optimization.study.folder import StudyFolder
from autolr.progress import Silent
from autolr.spec.spaces import SPACES, load_space_config
from autolr.workflows.search import open_study

POINTS = {
    METHODS.group: {"input-norm": "input_norm:METHOD"},
    FORMS.group: {"block-diagonal": "block_diagonal:FORM"},
    SAMPLERS.group: {"sobol": "sobol:SAMPLER"},
    SPACES.group: {"early-late": "early_late:SPACE"},
}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder with the entry points of an installed package, known to this process too."""
    folder = tmp_path_factory.mktemp("installed")
    with installed(folder, POINTS) as package:
        yield package


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    options = write_inputs(tmp_path_factory.mktemp("inputs"))
    return [*(word for pair in options.items() for word in pair), "--search-examples", "40", "--threads", "1"]


def run(package, *words):
    """Run autolr in a process of its own, in which the package is installed, and return what it prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "autolr", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


ELSEWHERE = """
import json, sys
from typer.testing import CliRunner
from autolr.cli import app
done = [CliRunner().invoke(app, words) for words in json.loads(sys.argv[1])]
print(json.dumps([(one.exit_code, " ".join(one.stderr.split())) for one in done]))
"""


def elsewhere(commands):
    """Run commands in one process without the package; each one's exit code and what it says."""
    command = [sys.executable, "-c", ELSEWHERE, json.dumps([[*map(str, words)] for words in commands])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def here(*words):
    """Run a command in this process, which knows the package too, and return what it prints."""
    done = CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_every_example_keeps_the_laws_of_its_table(package):
    method_laws.check(METHODS.get("input-norm"))
    form_laws.check(FORMS.get("block-diagonal"))
    sampler_laws.check(SAMPLERS.get("sobol"))
    assert METHODS.get("input-norm") is input_norm.METHOD
    assert FORMS.get("block-diagonal") is block_diagonal.FORM
    assert SAMPLERS.get("sobol") is sobol.SAMPLER
    assert load_space_config("early-late") == early_late.EarlyLateConfig(kind="early-late")


def test_a_method_a_sampler_and_a_space_find_a_front(package, data, tmp_path):
    study = tmp_path / "study"
    asked = [
        "--method",
        "input-norm",
        "--sampler",
        "sobol",
        "--space",
        "early-late",
        "--trials",
        "6",
        "--multiple",
        "2",
    ]
    said = json.loads(run(package, "search", *data, *asked, "--budget", "0.6x-flops", "--study", study, "--json"))
    trials = [json.loads(file.read_text()) for file in sorted((study / "trials").glob("*.json"))]
    assert len(trials) == 6
    methods = {choice["method"] for trial in trials for choice in trial["candidate"].values()}
    assert methods == {"input-norm"}
    assert "same share" in {trial.get("origin") for trial in trials}
    ratios = {trial.params[early_late.RATIO] for trial in StudyFolder(study).load_study().trials if trial.params}
    assert len(ratios) >= 3, "the sampler proposed points of the space"
    assert "by input-norm" in (study / said["checkpoint"] / "README.md").read_text()
    assert json.loads(here("front", study, "--json"))["members"]
    opened = open_study(StudyFolder(study), Silent())
    space_laws.check(build_space(opened.inputs, opened.bank, Silent()))


def test_a_form_goes_through_search_export_reload_card_and_front(package, data, tmp_path):
    study, out = tmp_path / "study", tmp_path / "model"
    asked = ["--method", "svd", "--form", "block-diagonal", "--multiple", "2", "--trials", "4"]
    here("search", *data, *asked, "--budget", "0.6x-flops", "--study", study)
    said = json.loads(here("export", study, "--out", out, "--json"))
    assert said["max_logit_difference"] == 0.0
    kinds = json.loads((out / "config.json").read_text())["quantization_config"]["layers"]
    assert {layer["kind"] for layer in kinds.values()} == {"block-diagonal"}
    assert "| layer | form | method | rank | blocks |" in (out / "README.md").read_text()
    members = json.loads(here("front", study, "--json"))["members"]
    choices = [choice for member in members for choice in member["candidate"].values()]
    assert {(choice["form"], choice["blocks"]) for choice in choices} == {("block-diagonal", 4)}
    assert "block-diagonal" in here("sensitivity", study, "--json")
    assert "accuracy" in here("eval", out, "--data", data[data.index("--test") + 1])
    model = load_checkpoint(out)
    layers = [m for m in model.modules() if isinstance(m, block_diagonal.BlockDiagonalLinear)]
    assert len(layers) == len(kinds)
    assert all(torch.isfinite(layer.blocks).all() for layer in layers)
    asked = [["eval", out, "--data", data[data.index("--test") + 1]], ["resume", study, "--trials", "5"]]
    (loaded, kind), (resumed, form) = elsewhere(asked)
    assert (loaded, resumed) == (2, 2)
    assert "is of kind 'block-diagonal', known are [" in kind
    assert "unknown form 'block-diagonal'" in form
