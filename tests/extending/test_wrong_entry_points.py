"""A package that registers what cannot be used is named, with its entry point, by every table; so is what is added."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from installed import TABLES, installed
from typer.testing import CliRunner

from autolr.checkpoint.formats import FORMATS
from autolr.checkpoint.plugin import AutolrConfig, FormatError
from autolr.cli.main import app
from autolr.engines import ENGINES
from autolr.errors import AutolrError, UsageError
from autolr.forms import FORMS
from autolr.methods import BANK_FOLDERS, METHODS, svd
from autolr.recovery.refit import REFIT
from autolr.recovery.registry import RECOVERIES
from autolr.registry import Registry
from autolr.scores import add_task

PACKAGE = r"package extending 1\.0: the entry point mine = {} of {} "


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.noun)
@pytest.mark.parametrize(
    ("place", "complaint"),
    [
        ("json:loads", "must be a autolr.*, got <function loads"),
        ("no_such_module:RECORD", "cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'; mend or"),
        ("json:NOTHING", "cannot be loaded: AttributeError: .*NOTHING"),
        ("broken:RECORD", "cannot be loaded: ZeroDivisionError: division by zero"),
        ("leaving:RECORD", "cannot be loaded: SystemExit: 7; mend or uninstall"),
    ],
)
def test_what_is_registered_wrongly(table: Registry, place: str, complaint: str, tmp_path: Path) -> None:
    with installed(tmp_path, {table.group: {"mine": place}}) as package:
        (package / "broken.py").write_text("1 / 0\n")
        (package / "leaving.py").write_text("import sys\nsys.exit(7)\n")
        with pytest.raises(AutolrError, match=PACKAGE.format(place, table.group) + complaint):
            table.all()
    assert table.all()


@pytest.mark.parametrize("body", ["1 / 0", "raise SystemExit(7)"])
def test_a_form_that_cannot_be_loaded_is_told_where_a_checkpoint_asks_for_it(tmp_path: Path, body: str) -> None:
    """By the plug-in of transformers, which knows no tables."""
    with installed(tmp_path, {FORMS.group: {"mine": "unloadable:FORM"}}) as package:
        (package / "unloadable.py").write_text(f"{body}\n")
        with pytest.raises(
            FormatError, match=r"^extending: the entry point mine = unloadable:FORM .* cannot be loaded"
        ):
            AutolrConfig({"layer": {"kind": "another", "rank": 2}})


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.noun)
def test_a_name_in_use(table: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = next(iter(table))
    monkeypatch.setitem(sys.modules, "twin", SimpleNamespace(RECORD=first))
    told = PACKAGE.format("twin:RECORD", table.group) + f"registers the {table.noun} name '{first.name}', which is in"
    with installed(tmp_path, {table.group: {"mine": "twin:RECORD"}}), pytest.raises(AutolrError, match=told):
        table.all()


@pytest.mark.parametrize("table", [t for t in TABLES if t not in (FORMATS, ENGINES)], ids=lambda table: table.noun)
def test_a_search_that_cannot_begin_tells_it_without_a_traceback(table: Registry, tmp_path: Path) -> None:
    with installed(tmp_path, {table.group: {"mine": "no_such_module:RECORD"}}):
        done = CliRunner().invoke(app, ["search", "--budget", "0.5x-flops", "--study", str(tmp_path / "study")])
    assert done.exit_code == 1, done.output
    assert isinstance(done.exception, SystemExit)
    assert "the entry point mine = no_such_module:RECORD" in " ".join(done.stderr.split())


NO_NAMES = ["../../evil", "a/b", "", " ", "SVD", "svd,kfac", "ü", "x" * 61, "-x", "x\n", 3, None, ["x"]]


def test_the_name_of_a_registered_record_obeys_the_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stray", SimpleNamespace(RECORD=replace(svd.METHOD, name="../../evil")))
    told = PACKAGE.format("stray:RECORD", METHODS.group).rstrip() + ": the name of a method must .* got '../../evil'"
    with installed(tmp_path, {METHODS.group: {"mine": "stray:RECORD"}}), pytest.raises(UsageError, match=told):
        METHODS.all()


@pytest.mark.parametrize("name", NO_NAMES, ids=repr)
def test_the_name_of_an_added_record_obeys_the_rule(name: object) -> None:
    table: Registry = Registry("colour", SimpleNamespace, lambda: ())
    with pytest.raises(UsageError, match="the name of a colour must be of a-z"):
        table.add(SimpleNamespace(name=name))


@pytest.mark.parametrize("name", BANK_FOLDERS)
def test_no_method_and_no_recovery_is_called_like_a_folder_of_the_bank(name: str) -> None:
    with pytest.raises(UsageError, match=f"must not be '{name}', for the bank has a folder of that name"):
        METHODS.add(replace(svd.METHOD, name=name))
    with pytest.raises(UsageError, match=f"must not be '{name}', for the bank has a folder of that name"):
        RECOVERIES.add(replace(REFIT, name=name))


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.noun)
@pytest.mark.parametrize("record", [None, "svd", SimpleNamespace(name="sloppy")], ids=["none", "text", "another"])
def test_what_is_added_must_be_a_record_of_the_table(table: Registry, record: object) -> None:
    with pytest.raises(UsageError, match=f"what is added to the table of .* must be a {table.kind.__module__}"):
        table.add(record)
    assert "sloppy" not in table


def test_an_added_task_must_be_one() -> None:
    with pytest.raises(UsageError, match="what is added to the table of tasks must be a"):
        add_task(None)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.noun)
@pytest.mark.parametrize("name", [None, 3, ["x"]], ids=repr)
def test_a_name_that_is_no_text_is_told(table: Registry, name: object) -> None:
    with pytest.raises(UsageError, match=f"a {table.noun} is given by its name .*; known: "):
        table.get(name)
    assert name not in table


def test_what_a_package_registers_is_not_hidden_by_what_was_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "late", SimpleNamespace(RECORD=replace(svd.METHOD, name="mine")))
    METHODS.add(replace(svd.METHOD, name="mine", version=2))
    try:
        with (
            installed(tmp_path, {METHODS.group: {"mine": "late:RECORD"}}),
            pytest.raises(AutolrError, match=r"the entry point mine = late:RECORD .* this process has added another"),
        ):
            METHODS.all()
    finally:
        METHODS.remove("mine")
