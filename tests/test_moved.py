"""A study whose model and data were moved goes on at their new places; printed commands can be pasted."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from nli_fixture import arguments, write_inputs, write_model, write_pairs
from typer.testing import CliRunner, Result

import autolr
from autolr.cli import app
from autolr.errors import UsageError, command
from autolr.optimization.study.folder import StudyFolder
from autolr.optimization.study.summary import read_front, select_trial
from autolr.report.sentences import next_commands
from autolr.results import StudyResult
from autolr.spec.spaces import presets

FAST = ["--method", "kfac", "--multiple", "2", "--search-examples", "40", "--selection-examples", "40"]
BUDGET = ["--budget", "0.5x-flops"]
PLACES = ("--model", "--train", "--validation", "--test", "--probes", "--space")
SUBJECTS, VERBS = ("dog", "cat", "man", "bird"), ("runs", "sleeps", "eats", "sings")


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def write_tasks(folder: Path) -> Path:
    """A probing task: which of two subjects a sentence has."""
    folder.mkdir()
    rows = [
        f"{split}\t{subject}\tthe {subject} {verb} in the {place}"
        for split, places in (("tr", ("park", "hill", "tree")), ("te", ("river", "home")))
        for subject in SUBJECTS[:2]
        for verb in VERBS
        for place in places
    ]
    (folder / "subject.tsv").write_text("\n".join(rows) + "\n")
    return folder


def write_all(folder: Path) -> dict[str, str]:
    """All that a study can be given, in one folder that can be moved."""
    inputs = {**write_inputs(folder / "here"), "--probes": str(write_tasks(folder / "here" / "tasks"))}
    return {**inputs, "--space": str(shutil.copy(presets()["importance"], folder / "here" / "space.yaml"))}


@pytest.fixture
def given(tmp_path: Path) -> dict[str, str]:
    return write_all(tmp_path)


@pytest.fixture(scope="module")
def given_once(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a study whose inputs stay where they are."""
    return write_all(tmp_path_factory.mktemp("once"))


@pytest.fixture
def study(given: dict[str, str], tmp_path: Path) -> Path:
    return begun(given, tmp_path)


@pytest.fixture(scope="module")
def study_once(given_once: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return begun(given_once, tmp_path_factory.mktemp("study"))


def begun(given: dict[str, str], folder: Path) -> Path:
    path = folder / "my mum's"
    flags = [*FAST, *BUDGET, "--trials", "3", "--probe-train", "20", "--probe-test", "12"]
    done = run("search", *arguments(given), *flags, "--study", str(path))
    assert done.exit_code == 0, done.output
    return path


def moved(given: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """Move everything, under other names."""
    new = Path(shutil.move(tmp_path / "here", tmp_path / "over there"))
    places = {}
    for option, place in given.items():
        old = new / Path(place).name
        places[option] = str(old.rename(old.with_name(f"my {old.name}")))
    return places


def stored(study: Path) -> dict[str, str]:
    spec = yaml.safe_load((study / "study.yaml").read_text())["spec"]
    flat = {**spec, **spec["data"], **spec["search"]}
    return {option: flat[option.removeprefix("--")] for option in PLACES}


def test_a_study_goes_on_where_its_model_and_data_were_moved_to(
    study: Path, given: dict[str, str], tmp_path: Path
) -> None:
    """The refusal names each place and gives the command; with it everything goes on, and nothing is computed anew."""
    new = moved(given, tmp_path)
    bank = {file: file.stat().st_mtime_ns for file in (study / "bank").rglob("*.safetensors")}
    for words in (["resume", str(study)], ["export", str(study), "--out", "x"], ["sensitivity", str(study)]):
        refused = run(*words)
        assert refused.exit_code == 2, refused.output
        assert all(f"{option} {place}" in refused.stderr for option, place in given.items())
        typed = shlex.split(re.search(r": (autolr .*) \(also", refused.stderr)[1])
    assert typed == ["autolr", "resume", str(study), *[word for option in PLACES for word in (option, "PLACE")]]
    options = arguments(new)
    out = tmp_path / "out"
    assert run("export", str(study), "--out", str(out), *options).exit_code == 0
    assert run("sensitivity", str(study), *options).exit_code == 0
    assert stored(study) == given  # they only read
    went_on = run("resume", str(study), "--trials", "4", *options)
    assert went_on.exit_code == 0, went_on.output
    assert stored(study) == new
    assert {file: file.stat().st_mtime_ns for file in bank} == bank
    assert run("resume", str(study)).exit_code == 0
    assert json.loads(run("status", str(study), "--json").stdout)["trials"]["complete"] == 4


def test_search_goes_on_with_the_same_contents_at_another_place(
    study: Path, given: dict[str, str], tmp_path: Path
) -> None:
    new = moved(given, tmp_path)
    flags = [*FAST, *BUDGET, "--trials", "4", "--probe-train", "20", "--probe-test", "12", "--study", str(study)]
    went_on = run("search", *arguments(new), *flags)
    assert went_on.exit_code == 0, went_on.output
    assert stored(study) == new


def test_other_contents_are_refused_with_what_differs(
    study_once: Path, given_once: dict[str, str], tmp_path: Path
) -> None:
    """And study.yaml keeps the places of the right ones."""
    study, given = study_once, given_once
    other = tmp_path / "other"
    other.mkdir()
    wrong = {
        "--test": (str(write_pairs(other / "pairs.jsonl", 60, 900)), "data report: was '"),
        "--train": (str(write_pairs(other / "train.jsonl", 120, 1200)), "data calibration: was '"),
        "--model": (str(write_model(other / "model", seed=9)), "model weights: was '"),
    }
    for option, (place, said) in wrong.items():
        for words in (["resume", str(study)], ["export", str(study), "--out", str(tmp_path / "out")]):
            refused = run(*words, option, place)
            assert refused.exit_code == 2, refused.output
            assert said in refused.stderr
    assert stored(study) == given


def test_other_settings_are_still_refused(study_once: Path, given_once: dict[str, str]) -> None:
    asked = [*arguments(given_once), *FAST, *BUDGET, "--trials", "3", "--seed", "1", "--study", str(study_once)]
    refused = run("search", *asked)
    assert refused.exit_code == 2
    assert "seed: was 0, now 1" in refused.stderr


def test_a_new_place_that_is_empty_is_named(study_once: Path, tmp_path: Path) -> None:
    refused = run("resume", str(study_once), "--train", str(tmp_path / "no.jsonl"))
    assert refused.exit_code == 2
    assert "no.jsonl: no such file" in refused.stderr


def test_printed_commands_can_be_pasted(study_once: Path, given_once: dict[str, str], tmp_path: Path) -> None:
    """A shell takes their words apart as they were meant, whatever the folder is called."""
    study, given = study_once, given_once
    name = str(study)
    result = json.loads((study / "result.json").read_text())
    next_lines = next_commands(StudyResult.from_json(result), StudyFolder(study).spec(), study)
    checkpoint = str(study / result["checkpoint"])
    assert [shlex.split(line)[2] for line in next_lines] == [name, name, checkpoint, name]
    chosen = run("select", name, "--budget", "0.5x-flops")
    assert shlex.split(re.search("next: (.*)", chosen.stdout)[1])[:3] == ["autolr", "export", name]
    out = str(tmp_path / "the winner's")
    solved = run("export", name, "--budget", "0.45x-flops", "--solve", "--out", out)
    assert shlex.split(re.search("not measured: (.*)", solved.stdout)[1])[:3] == ["autolr", "eval", out]
    other = str(tmp_path / "it's another")
    stopped = run("search", *arguments(given), *FAST, *BUDGET, "--time-limit", "0.001s", "--study", other)
    assert stopped.exit_code == 4, stopped.output
    assert shlex.split(re.search("go on with: (.*)", stopped.stderr)[1]) == ["autolr", "resume", other]
    state = run("status", other).stdout
    assert shlex.split(re.search("go on with: (.*)", state)[1]) == ["autolr", "resume", other]
    empty = StudyFolder(tmp_path / "it's empty")
    empty.path.mkdir()
    shutil.copy(study / "study.yaml", empty.path)
    for asked in (empty.load_study, lambda: read_front(empty), lambda: select_trial(empty, ["0.5x-flops"])):
        with pytest.raises(UsageError) as refused:
            asked()
        assert shlex.split(str(refused.value).partition("go on with ")[2]) == ["autolr", "resume", str(empty.path)]


def test_no_message_puts_a_path_into_a_command_unquoted() -> None:
    """Every command with something put in goes through ``autolr.errors.command``."""
    names = "|".join(one.name or one.callback.__name__ for one in app.registered_commands)
    loose = re.compile(rf"autolr ({names}) [^\"'`]*{{")
    sources = Path(autolr.__file__).parent.rglob("*.py")
    found = [f"{file}: {line}" for file in sources for line in file.read_text().splitlines() if loose.search(line)]
    assert not found


def test_a_command_is_read_by_a_shell_as_it_was_meant() -> None:
    words = ["resume", 'it\'s "here" $HOME;', "--trials", 3]
    assert shlex.split(command(*words)) == ["autolr", *map(str, words)]
