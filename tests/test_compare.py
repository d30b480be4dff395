"""``autolr compare``: what it runs, what it sums up, that it goes on where it stopped."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import yaml
from nli_fixture import write_inputs
from rich.console import Console
from typer.testing import CliRunner

from autolr.cli.main import app
from autolr.errors import UsageError
from autolr.progress import Silent
from autolr.report.comparison import comparison_lines, comparison_table
from autolr.results.comparison import ComparisonSummary
from autolr.spec.study import DataSpec, RunSpec
from autolr.workflows import compare as comparing
from autolr.workflows.compare import Comparison, Entry, compare, read_comparison

ENTRIES = [
    {"name": "autolr", "methods": ["kfac", "svd"]},
    {"name": "uniform SVD", "space": "uniform", "methods": ["svd"], "refit": False},
    {"name": "laser", "space": "laser", "sampler": "random", "refit": False},
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict:
    options = write_inputs(tmp_path_factory.mktemp("inputs"))
    data = {name.removeprefix("--"): value for name, value in options.items() if name != "--model"}
    return {
        "model": options["--model"],
        "data": data | {"search_examples": 40, "selection_examples": 40},
        "budgets": ["0.6x-flops", "0.4x-flops"],
        "seeds": [0, 1],
        "trials": 5,
        "multiple": 1,
        "entries": ENTRIES,
    }


def written(plain: dict, path: Path) -> Path:
    path.write_text(yaml.safe_dump(plain))
    return path


@pytest.fixture(scope="module")
def summary(plain: dict, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ComparisonSummary]:
    folder = tmp_path_factory.mktemp("compared")
    return folder / "out", compare(read_comparison(written(plain, folder / "c.yaml")), folder / "out", Silent())


def test_every_entry_is_run_at_every_budget_and_seed(summary) -> None:
    out, found = summary[0], summary[1].to_json()
    assert len(found["rows"]) == 3 * 2 * 2
    for row in found["rows"]:
        assert row["reached"]
        assert row["ratio"] <= float(row["budget"].partition("x")[0])
        assert len(row["trace"]) == row["trials"] == (5 if row["entry"] == "autolr" else row["trials"])
        assert row["trace"][0] == [pytest.approx(0.0, abs=0.5), 0, 1.0, None]  # the dense model, over the budget
        assert all(seconds > 0 and examples in (0, 40) for seconds, examples, *_ in row["trace"][1:])
    assert json.loads((out / "comparison.json").read_text()) == found
    for seed in (0, 1):  # one bank for all the entries of a seed
        assert {p.name for p in (out / f"bank-{seed}").iterdir()} >= {"kfac", "svd", "statistics"}
    assert not list(out.glob("*/*/*/bank"))
    assert not list(out.glob("*/*/*/front"))


def test_the_table_is_the_mean_over_the_seeds(summary) -> None:
    found = summary[1].to_json()
    for name, by_budget in found["table"].items():
        for budget, cell in by_budget.items():
            rows = [r for r in found["rows"] if (r["entry"], r["budget"]) == (name, budget)]
            values = [r["accuracy_ratio"] for r in rows]
            assert cell["accuracy_ratio"][0] == pytest.approx(sum(values) / 2)
            assert cell["accuracy_ratio"][1] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    searches = found["search"]
    assert max(one["area"][-1] for one in searches.values()) == 1.0
    for one in searches.values():
        assert one["area"] == sorted(one["area"])
        assert one["seconds"] == sorted(one["seconds"])
        near = [n for n, area in enumerate(one["area"], start=1) if area >= 0.99]
        assert one["evaluations"] == (near[0] if near else None)


def test_it_goes_on_where_it_stopped(summary, plain: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, found = summary
    monkeypatch.setattr("autolr.optimization.study.driver.Driver.run", lambda _: pytest.fail("it was finished"))
    assert compare(read_comparison(written(plain, tmp_path / "c.yaml")), out, Silent()) == found


def test_an_entry_that_cannot_reach_a_budget_is_said_and_the_others_go_on(plain: dict, tmp_path: Path) -> None:
    changed = plain | {"budgets": ["0.02x-flops", "0.6x-flops"], "seeds": [0], "entries": ENTRIES[1:2]}
    found = compare(read_comparison(written(changed, tmp_path / "c.yaml")), tmp_path / "out", Silent()).to_json()
    assert "not reachable" in found["rows"][0]["reason"]
    assert found["table"]["uniform SVD"]["0.02x-flops"] is None
    assert found["table"]["uniform SVD"]["0.6x-flops"]["seeds"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"entries": [ENTRIES[0], ENTRIES[0]]}, "'autolr' is given twice"),
        ({"budgets": ["0.5x-flops", "0.5x-params"]}, "must be of one quantity"),
        ({"budgets": ["12ms-latency"]}, "relative to the dense model"),
        ({"entries": [{"name": "a", "space": "grupped"}]}, "did you mean grouped"),
        ({"entries": [ENTRIES[0] | {"sampler": "tep"}]}, r"unknown sampler 'tep'; did you mean tpe\?"),
        ({"entries": [ENTRIES[0] | {"methods": ["kfca"]}]}, r"unknown method 'kfca'; did you mean kfac\?"),
        ({"seed": 1}, r"unknown key 'seed' at the top level; did you mean seeds\?$"),
        ({"run": {"thread": 1}}, r"unknown key 'thread' in run; did you mean threads or stream\?$"),
        ({"data": {"search_example": 9}}, "unknown key 'search_example' in data; did you mean search_examples"),
        ({"entries": [ENTRIES[0], {"name": "b", "method": []}]}, r"'method' in entries\[1\]; did you mean methods"),
        ({"entries": [{"space": "uniform"}]}, r"entries\[0\]\.name is not given$"),
        ({"trials": 0}, "trials"),
        ({"seeds": [0, 0]}, "seeds: one is given twice"),
    ],
)
def test_bad_comparisons_are_refused(plain: dict, tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_comparison(written(plain | change, tmp_path / "c.yaml"))


def test_an_unknown_key_ends_the_command_with_one_line(plain: dict, tmp_path: Path) -> None:
    file = written(plain | {"trails": 9}, tmp_path / "c.yaml")
    done = CliRunner().invoke(app, ["compare", str(file), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert (
        done.stderr
        == f"error: {file}: unknown key 'trails' at the top level; did you mean trials or entries or task?\n"
    )
    assert not (tmp_path / "out").exists()


def test_the_documentation_shows_every_key_with_its_default(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "comparing.md").read_text(encoding="utf-8")
    (tmp_path / "what.yaml").write_text(
        text.partition("```yaml\n# what.yaml")[2].partition("```")[0].partition("\n")[2]
    )
    shown, found = yaml.safe_load((tmp_path / "what.yaml").read_text()), read_comparison(tmp_path / "what.yaml")
    least = {"budgets": shown["budgets"], "entries": [{"name": one["name"]} for one in shown["entries"][:1]]}
    plain = read_comparison(written(least, tmp_path / "least.yaml"))
    assert found.model_copy(update={"entries": found.entries[:1]}) == plain
    records = {"entries": Entry, "data": DataSpec, "run": RunSpec}
    assert set(shown) == set(Comparison.model_fields)
    for name, record in records.items():
        keys = shown[name][0] if name == "entries" else shown[name]
        assert set(keys) == set(record.model_fields)


def test_paths_are_relative_to_the_file(plain: dict, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("kind: grouped\nby: model\n")
    entries = [{"name": "mine", "space": "mine.yaml", "methods": ["svd"]}]
    found = read_comparison(written(plain | {"entries": entries}, tmp_path / "c.yaml"))
    assert found.entries[0].space == str(tmp_path / "mine.yaml")


def test_the_command_prints_a_table_and_draws_a_plot(summary, plain: dict, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out, _ = summary
    file, plot = written(plain, tmp_path / "c.yaml"), tmp_path / "plot.svg"
    done = CliRunner().invoke(app, ["compare", str(file), "--out", str(out), "--plot", str(plot)])
    assert done.exit_code == 0, done.output
    assert "uniform SVD" in done.stdout
    assert "0.4x-flops" in done.stdout
    assert "dominated area 1.000" in done.stdout
    assert plot.read_text().startswith("<?xml")


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_shows_accuracy_ratio_and_divergence_in_any_width(summary, width: int) -> None:
    _, found = summary
    console = Console(width=width, record=True, file=StringIO())
    console.print(comparison_table(found))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    for budget in ("0.6x-flops", "0.4x-flops"):
        first = next(number for number, line in enumerate(lines) if line.lstrip().startswith(budget))
        for line, entry in zip(lines[first:], ENTRIES, strict=False):
            cell = found.table[entry["name"]][budget].to_json()
            assert entry["name"] in line
            assert f"{100 * cell['accuracy_ratio'][0]:.1f} ± {100 * cell['accuracy_ratio'][1]:.1f} " in line
            assert f" {cell['ratio'][0]:.3f} " in line
            assert f" {cell['divergence'][0]:.3g} ± " in line


def test_cells_at_chance_and_over_the_budget_are_marked(summary) -> None:
    _, found = summary
    name, budget = "laser", "0.4x-flops"

    def changed(row, **change):
        return replace(row, outcome=replace(row.outcome, **change))

    def majority(row) -> float:
        return row.outcome.score.value if (row.entry, row.budget) == (name, budget) else 0.0

    rows = tuple(changed(row, majority=majority(row)) for row in found.rows)  # a random model only guesses
    searched = found.table["autolr"]
    over = {**found.table, "autolr": {**searched, budget: replace(searched[budget], reached=1)}}
    console = Console(width=80, record=True, file=StringIO())
    console.print(comparison_table(replace(found, rows=rows, table=over)))
    marked = [line.split() for line in console.export_text().splitlines() if line.rstrip().endswith(("?", "!"))]
    assert [(line[-1], name in line) for line in marked] == [("!", False), ("?", True)]
    lines = list(comparison_lines(replace(found, rows=tuple(changed(row, reached=False) for row in rows))))
    assert lines[0].startswith("? for some seed not distinguishably above chance")
    assert lines[1] == "! for some seed over the budget"
    sure = tuple(changed(row, majority=0.0) for row in found.rows)
    assert not [line for line in comparison_lines(replace(found, rows=sure)) if line.startswith(("?", "!"))]


def test_names_become_folders() -> None:
    assert comparing.slug("a/b c") == "a-b-c"
