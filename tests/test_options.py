"""Options come from the fields of the specification: each once, with the field's bounds, default, help and panel."""

import inspect
import math
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
import torch
import typer
import typer.rich_utils
from pydantic import Field
from typer.main import get_command
from typer.testing import CliRunner

from autolr.cli import app, options, searching
from autolr.errors import UsageError
from autolr.spec.options import PANELS, Option, options_of
from autolr.spec.plain import Strict, flatten, read_yaml
from autolr.spec.study import CrewSpec, StudySpec, make_spec
from autolr.workflows.resolve import moved, resolve, with_workers

BUDGET = {"budget": "0.5x-flops"}
NO_OPTION = {"search.probe_axis"}
"""Fields that are given by another one's option."""


def test_every_field_of_a_study_is_an_option_of_search() -> None:
    fields = {name for name, _ in flatten(make_spec({"budgets": ["0.5x-flops"]}, "").model_dump(mode="json"))}
    by_path = {".".join(option.path): option for option in options_of(StudySpec).values()}
    assert by_path.keys() == fields - NO_OPTION
    taken = inspect.signature(searching.search).parameters
    assert {option.name for option in by_path.values()} <= taken.keys()


@pytest.mark.parametrize("name", options_of(StudySpec))
def test_an_option_says_what_it_is_in_a_sentence_under_a_title(name: str) -> None:
    option = options_of(StudySpec)[name].option
    assert option.help.endswith((".", "..."))
    assert option.panel in PANELS


class Inner(Strict):
    """Of another record."""

    share: Annotated[float | None, Field(ge=0.5), Option("A share.", "Search")] = None
    sizes: Annotated[tuple[int, ...], Option("Sizes.", name="size")] = (4,)


class Outer(Strict):
    """Holds another record, and a field that is no option."""

    kind: Annotated[Literal["a", "b"], Option("A kind.")]
    quiet: bool = False
    inner: Inner = Inner()


def test_what_a_field_says_is_what_the_option_has() -> None:
    kind, share, size = options_of(Outer).values()
    assert (kind.required, kind.kind, kind.default, kind.many) == (True, str, None, False)
    assert (share.path, share.least, share.kind, share.flag) == (("inner", "share"), 0.5, float, "--share")
    assert (size.name, size.many, size.kind, size.default) == ("size", True, int, (4,))


def test_a_command_shows_and_bounds_what_the_field_says() -> None:
    app = typer.Typer()
    seen: list[object] = []

    @app.command()
    @options.takes("multiple", "extra", "refit", "crew", says={"multiple": "Another text."})
    def command(given: options.Given, extra: Annotated[str, typer.Option(help="Own.")] = "none") -> None:
        seen.append((given, extra))

    shown = CliRunner().invoke(app, ["--help"]).stdout
    assert "Another text." in shown
    assert "[default: 8]" in shown
    assert "--no-refit" in shown
    assert shown.index("--multiple") < shown.index("--extra") < shown.index("--workers") < shown.index("--refit")
    refused = CliRunner().invoke(app, ["--multiple", "0"])
    assert refused.exit_code == 2
    assert "greater than or equal to 1" in refused.output
    assert CliRunner().invoke(app, ["--no-refit", "--worker-timeout", "5m", "--extra", "x"]).exit_code == 0
    crew = {"workers": 1, "ray_address": None, "gpus_per_worker": None, "worker_timeout": "5m"}
    assert seen == [({"multiple": 8, "refit": False, **crew}, "x")]


@pytest.mark.parametrize("name", sorted(get_command(app).commands))
def test_help_loses_no_word_to_markup(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typer.rich_utils, "MAX_WIDTH", 400)
    command = get_command(app).commands[name]
    shown = " ".join(CliRunner().invoke(app, [name, "--help"]).output.split())
    for text in [command.help, *(parameter.help for parameter in command.params)]:
        assert " ".join((text or "").replace("\\[", "[").split()) in shown


def test_an_option_that_no_field_has_is_a_mistake_of_ours() -> None:
    with pytest.raises(LookupError, match="no option multipel"):
        options.takes("multipel")(lambda given: None)


def test_options_become_a_specification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.jsonl").touch()
    given = {
        "budgets": ["0.5x-flops", "400MB-memory"],
        "train": Path("train.jsonl"),
        "validation": "absent.jsonl",
        "words": "yes, no",
        "lengths": (32, 20),
        "time_limit": "1m",
        "worker_timeout": 30,
        "method": "svd",
        "objective": ["accuracy", "probes"],
        "probes": "absent",
        "seed": None,
    }
    spec = resolve(given)
    assert spec.budgets == ("0.5x-flops", "400MB-memory")
    assert (spec.data.train, spec.data.validation) == (str(tmp_path / "train.jsonl"), "absent.jsonl")
    assert (spec.data.words, spec.run.lengths, spec.search.methods) == (("yes", "no"), (32, 20), ("svd",))
    assert (spec.time_limit, spec.crew.timeout, spec.seed) == (60.0, 30.0, 0)
    assert (spec.search.objective, spec.search.probe_axis) == ("accuracy", True)


def test_a_split_of_a_data_set_is_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train").mkdir()
    spec = resolve({**BUDGET, "dataset": "nyu-mll/glue:mnli", "train": "train"})
    assert spec.data.train == "train"
    assert moved(spec, {"train": "train"}).data.train == "train"


def test_a_space_brings_its_methods_unless_others_are_named() -> None:
    assert resolve({**BUDGET, "space": "asvd-strs"}).search.methods == ("asvd",)
    assert resolve({**BUDGET, "space": "asvd-strs", "method": ["svd"]}).search.methods == ("svd",)
    assert resolve(BUDGET).search.methods == ("kfac", "losparse")


@pytest.mark.parametrize(
    ("given", "typed", "complaint"),
    [
        ({"buget": "0.5x-flops"}, True, "there is no option 'buget'; did you mean budget"),
        ({**BUDGET, "multiple": 0}, True, "--multiple: must be greater than or equal to 1 .got 0"),
        ({**BUDGET, "multiple": 0}, False, "^multiple: must be greater than or equal to 1 .got 0"),
        ({**BUDGET, "budgets": ["0.4x-flops"]}, False, "budget is given twice, also as 'budgets'"),
        ({**BUDGET, "worker_timeout": "soon"}, True, "--worker-timeout 'soon' must be a duration"),
        ({**BUDGET, "worker_timeout": -1}, False, "worker_timeout: must be greater than 0"),
        ({**BUDGET, "objective": ["loss", "accuracy"]}, False, "objective names loss and accuracy"),
        ({**BUDGET, "lengths": "3,0"}, True, "--lengths '3,0' must be whole numbers"),
        ({**BUDGET, "words": " "}, True, "--words is empty"),
        ({}, True, "--budget is not given"),
        ({**BUDGET, "model": object()}, False, "^model: only numbers, texts, lists and mappings"),
        ({"budget": ["0.5x-flops", "0.5x-flops"]}, True, "^--budget is given '0.5x-flops' twice; name each once"),
        ({**BUDGET, "method": ["svd", "afm", "svd"]}, True, "^--method is given 'svd' twice"),
        ({**BUDGET, "form": ["low-rank", "low-rank"]}, False, "^form is given 'low-rank' twice"),
        ({**BUDGET, "label_names": "a,a,b"}, True, "^--label-names is given 'a' twice"),
        ({**BUDGET, "words": "a, b, b"}, False, "^words is given 'b' twice"),
        ({**BUDGET, "time_limit": math.inf}, False, "^time_limit must be finite .got inf"),
        ({**BUDGET, "worker_timeout": math.inf}, False, "^worker_timeout must be finite"),
        ({**BUDGET, "task": "lm", "words": "a,b"}, True, "^task lm does not read --words; it reads --text-column"),
        ({**BUDGET, "text_column": "words"}, False, "^task nli does not read text_column; it reads premise_column, "),
        ({**BUDGET, "model": ""}, True, "^--model is empty; name a path"),
        ({"budget": {"0.5x-flops"}}, True, "^--budget: only numbers, .* .got {'0.5x-flops'}"),
        ({**BUDGET, "template": ["a", b"c"]}, False, "^template: only numbers, .* .got b'c'"),
    ],
)
def test_what_is_malformed_is_named_as_it_was_given(given: dict[str, object], typed: bool, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        resolve(given, typed=typed)


def test_what_repeats_or_is_the_default_may_be_given() -> None:
    given = {"task": "lm", "lengths": "32,32", "label_column": "label", "template": [], "words": None}
    assert resolve({**BUDGET, **given}).run.lengths == (32, 32)


def test_a_study_that_was_begun_with_a_name_twice_is_read() -> None:
    spec = make_spec({"budgets": ["0.5x-flops"] * 2, "time_limit": math.inf, "data": {"words": ["a", "a"]}}, "old")
    assert (spec.data.words, spec.time_limit) == (("a", "a"), math.inf)


def test_numbers_of_numpy_and_data_types_of_torch_are_taken() -> None:
    given = {"trials": np.int64(3), "worker_timeout": np.float32(2.5), "dtype": torch.float16, "lengths": [np.int32(4)]}
    spec = resolve({**BUDGET, **given})
    assert (spec.trials, spec.crew.timeout, spec.run.dtype, spec.run.lengths) == (3, 2.5, "float16", (4,))


def test_a_profile_takes_the_place_of_options(tmp_path: Path) -> None:
    file = tmp_path / "profile.yaml"
    file.write_text("batch_size: 2\nlengths: [9, 7]\n")
    spec = resolve({**BUDGET, "batch_size": 16, "dtype": "bfloat16"}, file)
    assert (spec.run.batch_size, spec.run.lengths, spec.run.dtype) == (2, (9, 7), "bfloat16")
    file.write_text("batch: 2\n")
    with pytest.raises(UsageError, match="'batch', which a latency profile does not have; did you mean batch_size"):
        resolve(BUDGET, file)
    file.write_text("[]\n")
    with pytest.raises(UsageError, match="is not a latency profile"):
        resolve(BUDGET, file)
    assert read_yaml(file) == []


def test_a_study_moves_in_its_places_alone(tmp_path: Path) -> None:
    spec = resolve({**BUDGET, "train": "a", "model": "m"})
    now = moved(spec, {"train": tmp_path, "model": None, "space": "mine.yaml"})
    assert (now.data.train, now.model, now.search.space) == (str(tmp_path), "m", "mine.yaml")
    with pytest.raises(UsageError, match="seed is no place; places are model, train"):
        moved(spec, {"seed": 1})


def test_a_study_goes_on_with_the_workers_it_had_but_for_what_is_given() -> None:
    crew = CrewSpec(workers=4, gpus_per_worker=0.5)
    assert with_workers(crew, {"workers": None, "worker_timeout": "2m"}) == CrewSpec(
        workers=4, gpus_per_worker=0.5, timeout=120.0
    )
    assert with_workers(crew, {"workers": 1}).workers == 1
    with pytest.raises(UsageError, match="--workers: must be greater"):
        with_workers(crew, {"workers": 0}, typed=True)
