"""A package that registers what cannot be used is named, with its entry point, by every table."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from installed import TABLES, installed
from typer.testing import CliRunner

from autolr.checkpoint.formats import FORMATS
from autolr.cli.main import app
from autolr.engines import ENGINES
from autolr.errors import AutolrError
from autolr.registry import Registry

PACKAGE = r"package extending 1\.0: the entry point mine = {} of {} "


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.noun)
@pytest.mark.parametrize(
    ("place", "complaint"),
    [
        ("json:loads", "must be a autolr.*, got <function loads"),
        ("no_such_module:RECORD", "cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'; mend or"),
        ("json:NOTHING", "cannot be loaded: AttributeError: .*NOTHING"),
        ("broken:RECORD", "cannot be loaded: ZeroDivisionError: division by zero"),
    ],
)
def test_what_is_registered_wrongly(table: Registry, place: str, complaint: str, tmp_path: Path) -> None:
    with installed(tmp_path, {table.group: {"mine": place}}) as package:
        (package / "broken.py").write_text("1 / 0\n")
        with pytest.raises(AutolrError, match=PACKAGE.format(place, table.group) + complaint):
            table.all()
    assert table.all()


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
