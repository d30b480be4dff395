"""README and docs/ say what is true of the code: commands and options exist, snippets run, links lead somewhere."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache, partial, wraps
from pathlib import Path

import pytest
import typer

import autolr
from autolr.checkpoint.formats import FORMATS
from autolr.cli.main import app
from autolr.data.example import EXAMPLE_MODEL, example_data
from autolr.data.example.scenes import LABELS
from autolr.engines import ENGINES
from autolr.errors import AutolrError, BudgetError, Stopped, UsageError
from autolr.forms import FORMS
from autolr.methods import METHODS
from autolr.optimization.sampler.registry import SAMPLERS
from autolr.recovery.registry import RECOVERIES
from autolr.registry import Registry
from autolr.results.member import FINALISTS
from autolr.scores import SCORES, TASKS, forget_task
from autolr.spec.spaces import presets

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
TRY = "pip install . && autolr search --budget 0.5x-flops"
TEST = "pip install -e '.[dev]' && pytest"
COMMANDS = typer.main.get_command(app).commands
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TABLES = {
    "method": METHODS,
    "form": FORMS,
    "task": TASKS,
    "score": SCORES,
    "space": tuple(presets()),
    "recovery": RECOVERIES,
    "format": FORMATS,
    "engine": ENGINES,
}
"""Title of a table's first column in docs/ -> what its rows are."""
REGISTRIES = {"method", "form", "task", "score", "sampler", "space", "recovery", "format", "engine"}


def blocks(text: str, language: str) -> list[str]:
    return [body for found, body in FENCE.findall(text) if found == language]


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of every autolr command in fenced shell blocks and in code spans, from the subcommand on."""
    shell = "\n".join(blocks(text, "bash")).replace("\\\n", " ")
    for line in [*shell.splitlines(), *spans(text)]:
        for part in re.split(r"&&|;|--(?= +autolr)", line):
            match = re.search(r"(?:^|\s)autolr ([a-z]+)(.*)", part.partition(" #")[0].replace("…", ""))
            if match:
                yield [match[1], *shlex.split(match[2])]


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", FENCE.sub("", text).replace("\n", " "))


def options(command: str) -> set[str]:
    named = {name for option in COMMANDS[command].params for name in (*option.opts, *option.secondary_opts)}
    return named | {"--help"}


@pytest.mark.parametrize("name", NAMES)
def test_every_command_and_option_exists(name: str) -> None:
    text = TEXTS[ROOT / name]
    for command, *words in commands(text):
        assert command in COMMANDS, f"{name}: autolr {command}"
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in options(command), f"{name}: autolr {command} has no {word}"
    everywhere = {option for command in COMMANDS for option in options(command)}
    foreign = {"--durations", "--check", "--study", "--address", "--runtime-env-json", "--startup", "--seeds"}
    for span in spans(text):
        if span.startswith("--"):
            assert span.split()[0].partition("=")[0] in everywhere | foreign, f"{name}: {span}"


def test_the_readme_fits_two_screens_and_its_two_commands_are_those_that_are_tested() -> None:
    text = TEXTS[ROOT / "README.md"]
    assert len(text.splitlines()) <= 90
    assert max(map(len, text.splitlines())) <= 120
    assert blocks(text, "bash")[0] == f"{TRY}\n"
    assert f"`{TEST}`" in text
    install, _, run = TEST.partition(" && ")
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    assert ci[-1] == run
    assert any(line.startswith("pip install") and line.endswith(install.removeprefix("pip install ")) for line in ci)


@pytest.mark.slow
def test_the_first_command_runs_as_it_stands(tmp_path: Path) -> None:
    words = shlex.split(TRY.partition(" && ")[2])[1:]
    command = [sys.executable, "-m", "autolr", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [study] = (tmp_path / "studies").iterdir()
    report = json.loads((study / "result.json").read_text())["report"]
    kept = report["compressed"]["accuracy"]["value"] / report["dense"]["accuracy"]["value"]
    assert f"keeps {100 * kept:.1f} % of the dense model's accuracy" in TEXTS[ROOT / "docs" / "getting-started.md"]


@pytest.mark.parametrize("name", NAMES)
def test_links_and_anchors_resolve(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        assert file.exists(), f"{name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{name}: {target}"


@cache
def anchors(file: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    heads = re.findall(r"^#+ (.*)$", FENCE.sub("", file.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def test_the_result_is_that_of_the_study() -> None:
    named = {"autolr low rank": "autolr", "uniform K-FAC SVD": "uniform kfac", "SVD-LLM v2": "svd-llm-v2"}
    named |= {"uniform SVD": "uniform svd"}
    measured = (ROOT / "studies" / "search" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w -]+) \| (\d.*±.*) \|$", TEXTS[ROOT / "README.md"], re.MULTILINE)
    assert [name for name, _ in rows] == list(named)
    for name, cells in rows:
        [row] = re.findall(rf"^\| {named[name]} \| (.*) \| 3 \|$", measured, re.MULTILINE)
        assert cells.split(" | ") == re.sub(r" \([\d.]+\)", "", row).split(" | ")


@pytest.mark.parametrize("name", NAMES)
def test_files_that_are_named_exist(name: str) -> None:
    text = TEXTS[ROOT / name]
    for file in re.findall(r"(?<![\w/.])(?:autolr|tests|studies)/[\w/.-]+\.(?:py|svg|md)", text):
        assert (ROOT / file).exists(), f"{name}: {file}"
    if name == "CONTRIBUTING.md":
        for place in re.findall(r"`((?!autolr|tests|docs|studies|search_spaces)[a-z_]+(?:/[a-z_]*)*(?:/|\.py))`", text):
            assert (ROOT / "autolr" / place).exists(), f"{name}: {place}"
        code = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "autolr").rglob("*.py"))
        for record in re.findall(r"`([A-Z][A-Za-z]+)`", text):
            assert re.search(rf"^class {record}\b", code, re.MULTILINE), f"{name}: {record}"


def test_the_floors_are_those_of_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    floors = [set(layer.split(" | ")) for layer in contracts[0]["layers"] if layer != "__main__"]
    told = re.findall(r"^    ([a-z]+(?:, [a-z]+)*)(?:  .*)?$", TEXTS[ROOT / "CONTRIBUTING.md"], re.MULTILINE)
    listed = [set(line.split(", ")) for line in told]
    assert listed[:-1] == floors[: len(listed) - 1]
    assert listed[-1] == set.union(*floors[len(listed) - 1 :])


def test_every_page_is_reached_from_the_index_and_the_readme() -> None:
    for page in DOCS:
        if page.name != "index.md":
            assert f"]({page.name}" in TEXTS[ROOT / "docs" / "index.md"]
            assert f"](docs/{page.name}" in TEXTS[ROOT / "README.md"]


@pytest.mark.parametrize("noun", TABLES)
def test_tables_name_what_there_is(noun: str) -> None:
    rows = TABLES[noun]
    names = {*rows.names()} if isinstance(rows, Registry) else {*rows}
    assert {*column(noun)} == names


def column(title: str) -> list[str]:
    """Return the code spans that begin the rows of the table in docs/ whose first column has a title."""
    [table] = [
        table
        for page in DOCS
        if page.name != "extending.md"
        for table in re.findall(rf"^\| {title} \|.*\n\|[-|]+\n((?:\|.*\n)+)", TEXTS[page], re.MULTILINE)
    ]
    return [re.match(r"\| `([^`]+)`", row)[1] for row in table.splitlines()]


def test_samplers_are_named() -> None:
    text = TEXTS[ROOT / "docs" / "spaces.md"].partition("## Samplers")[2].partition("\n`botorch`")[0]
    assert {*re.findall(r"`([a-z0-9]+)`", text)} == {*SAMPLERS.names()}


@pytest.mark.parametrize("name", ["glossary", "concepts", "recovery"])
def test_the_number_of_finalists_is_that_of_the_program(name: str) -> None:
    text = " ".join((ROOT / f"docs/{name}.md").read_text().split())
    assert re.search(rf"\b[Tt]he {FINALISTS} (members of the front that are )?best\b", text)


def test_exit_codes_are_those_of_the_errors() -> None:
    table = re.findall(r"^\| (\d) \| .* \| (.*) \|$", TEXTS[ROOT / "docs" / "study-folder.md"], re.MULTILINE)
    told = {int(code): where for code, where in table}
    for error in (AutolrError, UsageError, BudgetError, Stopped):
        assert f"`{error.__name__}`" in told[error.exit_code]
    assert told.keys() == {0, 1, 2, 3, 4}


def test_every_kind_of_record_can_be_added_by_what_the_docs_say() -> None:
    """Their groups, records and checks are real, and nothing that has a table is left out."""
    text = TEXTS[ROOT / "docs" / "extending.md"]
    rows = re.findall(r"^\| \[(\w+)\]\(.*?\) \| `(.*?)` \| .*? \| `(.*?)` \| `(.*?)` \|$", text, re.MULTILINE)
    assert {row[0] for row in rows} == REGISTRIES
    for noun, record, group, check in rows:
        assert isinstance(attribute(record), type)
        assert callable(attribute(check))
        assert Registry(noun, object, tuple).group == group


def test_every_example_of_a_third_party_is_named() -> None:
    helpers = {"installed.py", "conftest.py", "__init__.py"}
    files = {file.name for file in (ROOT / "tests" / "extending").glob("*.py") if not file.name.startswith("test_")}
    named = {*re.findall(r"\]\(\.\./tests/extending/(\w+\.py)\)", TEXTS[ROOT / "docs" / "extending.md"])}
    assert files - helpers <= named


def attribute(place: str) -> object:
    module, _, name = place.rpartition(".")
    return getattr(__import__(module, fromlist=[name]), name)


SMALL = {
    "method": "svd",
    "trials": 4,
    "refit": False,
    "calibration_examples": 64,
    "search_examples": 64,
    "selection_examples": 64,
}
"""Options that a snippet's search has beside its own."""


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What snippets may take for granted: a model with its tokenizer, rows, a study of them and its checkpoint."""

    def rows(part: str, start: int, stop: int) -> list[dict[str, str]]:
        data = example_data(part)
        columns = zip(data.premises[start:stop], data.hypotheses[start:stop], data.labels[start:stop], strict=True)
        return [{"premise": first, "hypothesis": second, "label": LABELS[label]} for first, second, label in columns]

    model, tokenizer = autolr.load(EXAMPLE_MODEL)
    data = {"train": rows("validation", 0, 200), "validation": rows("validation", 200, 400)}
    data["test"] = rows("test", 0, 100)
    return {"model": model, "tokenizer": tokenizer, **data, "where": tmp_path_factory.mktemp("snippets")}


@pytest.fixture
def small(names: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have searches of little, and the embedded example's data in the place of what a snippet leaves out."""
    given = {name: names[name] for name in ("model", "tokenizer", "train", "validation", "test")}
    api = {"search": autolr.search, "estimate": autolr.estimate}

    def wrapped(name, model=None, **options):
        left_out = {} if model is not None else given
        return api[name](**{**SMALL, **left_out, **({} if model is None else {"model": model}), **options})

    for name, function in api.items():
        monkeypatch.setattr(autolr, name, wraps(function)(partial(wrapped, name)), raising=False)


SNIPPETS = {name: blocks(TEXTS[page], "python") for name, page in zip(NAMES, PAGES, strict=True)}


@pytest.mark.parametrize("name", [name for name in NAMES if SNIPPETS[name]])
def test_snippets_run(name: str, names: dict[str, object], small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippets of a page, one after the other as a reader would type them."""
    monkeypatch.chdir(names["where"])
    scope = dict(names)
    if name != "README.md" and not Path("my-model").exists():  # README says how it is made
        autolr.search(budget="0.5x-flops", study="studies/mine").export("my-model")
    for snippet in SNIPPETS[name]:
        exec(compile(snippet, name, "exec"), scope)  # noqa: S102
    forget_task("sureness")
