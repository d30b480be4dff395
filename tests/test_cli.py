"""The command line: what people script against, exit codes, and bad input refused before anything is computed."""

import gzip
import io
import json
import re
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from nli_fixture import arguments, write_inputs, write_model, write_pairs
from rich.console import Console
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from autolr.cli import app, terminal
from autolr.errors import Stopped

FAST = [
    "--method",
    "kfac",
    "--method",
    "losparse",
    "--multiple",
    "2",
    "--search-examples",
    "40",
    "--selection-examples",
    "40",
    "--trials",
    "6",
]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def study(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("studies") / "mine"
    result = run("search", *arguments(inputs), *FAST, "--budget", "0.5x-flops", "--study", str(path))
    assert result.exit_code == 0, result.output
    assert "Winner: trial" in result.stdout
    assert "pairs that nothing was chosen on" in result.stdout
    assert "autolr export" in result.stdout
    return path


def test_search_prints_json_alone_on_stdout(study: Path, inputs: dict[str, str]) -> None:
    result = run("search", *arguments(inputs), *FAST, "--budget", "0.5x-flops", "--study", str(study), "--json")
    content = json.loads(result.stdout)
    assert content["reached"] is True
    assert content["report"]["compressed"]["accuracy"]["n"] == 60


def test_status_counts_trials(study: Path) -> None:
    found = json.loads(run("status", str(study), "--json").stdout)
    assert found["trials"] == {"complete": 6, "stopped": 0, "failed": 0, "running": 0, "waiting": 0}
    assert found["finished"] is True
    assert "finished" in run("status", str(study)).stdout


def test_a_study_that_wants_more_trials_than_it_has_is_not_finished(study: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(study, tmp_path / "copy")
    (copy / "study.yaml").write_text((copy / "study.yaml").read_text().replace("trials: 6\n", "trials: 12\n"))
    found = json.loads(run("status", str(copy), "--json").stdout)
    assert (found["finished"], found["wanted"]) == (False, 12)
    assert "go on with" in run("status", str(copy)).stdout


def test_a_space_of_a_single_point_ends_with_fewer_trials_than_are_wanted(
    inputs: dict[str, str], tmp_path: Path
) -> None:
    given = [*arguments(inputs), *FAST[4:], "--method", "svd", "--space", "uniform", "--no-refit"]
    given += ["--budget", "0.5x-flops"]
    assert run("search", *given, "--study", str(tmp_path / "s")).exit_code == 0
    found = json.loads(run("status", str(tmp_path / "s"), "--json").stdout)
    assert found["trials"]["complete"] < found["wanted"]
    assert found["finished"] is True


@pytest.mark.parametrize("content", ["{", "{}", '{"objectives": [], "members": [{"scores": 3}]}', None])
def test_a_front_that_is_lost_or_damaged_is_read_from_the_trials(
    content: str | None, study: Path, tmp_path: Path
) -> None:
    whole = {command: run(command, str(study), "--json").stdout for command in ("status", "front")}
    copy = shutil.copytree(study, tmp_path / "copy")
    (copy / "front.json").unlink()
    if content is not None:
        (copy / "front.json").write_text(content)
    for command, before in whole.items():
        assert run(command, str(copy), "--json").stdout.replace(str(copy), str(study)) == before


def test_front_members_have_candidate_costs_and_scores(study: Path) -> None:
    found = json.loads(run("front", str(study), "--json").stdout)
    for member in found["members"]:
        assert {"trial", "candidate", "costs", "scores"} <= member.keys()
        assert member["costs"]["conditions"].keys() == {
            "batch_size",
            "seq_len",
            "dtype",
            "device",
            "threads",
            "lengths",
        }
        assert member["costs"]["absolute"].keys() == member["costs"]["ratio"].keys()
        assert all(score.keys() == {"value", "stderr", "n"} for score in member["scores"].values())
    assert "The front" in run("front", str(study)).stdout


def test_select_chooses_within_another_budget(study: Path) -> None:
    found = json.loads(run("select", str(study), "--budget", "0.48x-flops", "--json").stdout)
    assert found["costs"]["ratio"]["flops"] <= 0.48


def test_select_out_of_reach_names_the_nearest_and_exits_3(study: Path) -> None:
    result = run("select", str(study), "--budget", "0.2x-flops")
    assert result.exit_code == 3
    assert "the nearest is trial" in result.stderr


@pytest.mark.parametrize("form", ["hf", "dense"])
def test_export_and_eval(study: Path, inputs: dict[str, str], tmp_path: Path, form: str) -> None:
    out = tmp_path / form
    exported = run("export", str(study), "--out", str(out), "--format", form, "--json")
    assert exported.exit_code == 0, exported.output
    assert json.loads(exported.stdout)["max_logit_difference"] <= (0.0 if form == "hf" else 1e-3)
    card = (out / "README.md").read_text()
    assert "standard error" in card
    assert "AutoModelForSequenceClassification" in card
    found = json.loads(run("eval", str(out), "--task", "nli", "--data", inputs["--test"], "--json").stdout)
    assert {"accuracy", "stderr", "n", "majority"} <= found.keys()
    assert f"# {Path(inputs['--model']).name}, compressed by autolr" in card
    result = json.loads((study / "result.json").read_text())
    assert found["accuracy"] == pytest.approx(result["report"]["compressed"]["accuracy"]["value"])
    assert found["n"] == 60
    spread = json.loads(run("eval", str(out), "--data", inputs["--test"], "--device", "auto", "--json").stdout)
    assert spread["accuracy"] == found["accuracy"]


def test_a_missing_file_is_found_before_the_model_is_loaded(inputs: dict[str, str], tmp_path: Path) -> None:
    """Of a model that takes minutes to load: here it is not there at all, and the data are named."""
    given = {**inputs, "--model": str(tmp_path / "absent")}
    flags = [part for pair in given.items() for part in pair]
    common = ["--budget", "0.5x-flops", "--study", str(tmp_path / "s")]
    for name in ("--train", "--validation", "--test"):
        refused = run("search", *flags, *common, name, str(tmp_path / "no.jsonl"))
        assert refused.exit_code == 2
        assert "no.jsonl: no such file" in refused.stderr
    refused = run("search", *flags, *common, "--probes", str(tmp_path / "no"))
    assert "no such file or folder of probing tasks" in " ".join(refused.stderr.split())
    refused = run("eval", str(tmp_path / "absent"), "--data", str(tmp_path / "no.jsonl"))
    assert "no.jsonl: no such file" in refused.stderr


def test_a_search_has_one_device(inputs: dict[str, str], tmp_path: Path) -> None:
    refused = run(
        "search", *arguments(inputs), "--budget", "0.5x-flops", "--device", "auto", "--study", str(tmp_path / "study")
    )
    assert refused.exit_code == 2
    assert "--device auto is for autolr eval and autolr probe" in refused.stderr


def test_export_by_trial_and_by_budget(study: Path, tmp_path: Path) -> None:
    by_trial = run("export", str(study), "--trial", "1", "--out", str(tmp_path / "a"), "--json")
    assert json.loads(by_trial.stdout)["trial"] == 1
    by_budget = run("export", str(study), "--budget", "0.48x-flops", "--out", str(tmp_path / "b"), "--json")
    assert by_budget.exit_code == 0, by_budget.output
    dense = run("export", str(study), "--trial", "0", "--out", str(tmp_path / "c"), "--json")
    assert json.loads(dense.stdout)["max_logit_difference"] == 0.0


def test_export_replaces_an_older_checkpoint_only_by_force(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "a"
    assert run("export", str(study), "--trial", "1", "--out", str(out)).exit_code == 0
    before = (out / "model.safetensors").stat().st_mtime_ns
    refused = run("export", str(study), "--trial", "2", "--out", str(out))
    assert refused.exit_code == 2
    assert "holds a checkpoint already; choose another --out, or replace it by --force" in refused.stderr
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    assert run("export", str(study), "--trial", "2", "--out", str(out), "--force").exit_code == 0
    assert "Trial 2 " in (out / "README.md").read_text()
    (tmp_path / "notes.txt").write_text("mine")
    for force in ([], ["--force"]):  # which does not let other files be lost
        foreign = run("export", str(study), "--out", str(tmp_path), *force)
        assert foreign.exit_code == 2
        assert "holds files that are not part of a checkpoint" in foreign.stderr
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_export_tells_at_once_of_a_place_that_cannot_be_written(study: Path, tmp_path: Path) -> None:
    refused = run("export", str(study), "--out", "/proc/nowhere/mine")
    assert refused.exit_code == 2
    assert "cannot write to /proc/nowhere/mine: No such file or directory (in /proc); name another" in refused.stderr
    assert "load the model" not in refused.stderr


def test_an_export_that_meets_a_full_disk_names_the_place(study: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        full = run("export", str(study), "--out", str(tmp_path / "mine"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert full.exit_code == 1
    assert f"{tmp_path / 'mine'} could not be written: " in full.stderr
    assert "make room there" in full.stderr
    assert "resume" not in full.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("resumable", "said"), [(True, "finished is on disk"), (False, "there is no result")])
def test_a_signal_says_what_is_left(resumable: bool, said: str) -> None:
    with terminal.progress(resumable) as listener:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped, match=said):
            listener.check()


def test_eval_prints_percent_and_warns_of_a_model_that_guesses(inputs: dict[str, str]) -> None:
    result = run("eval", inputs["--model"], "--data", inputs["--test"])  # random weights
    assert re.search(r"^accuracy \d\d\.\d ± \d\.\d % \(standard error\) on 60 pairs$", result.stdout, re.M)
    assert "always answering the commonest label is right on 33.3 % of them" in result.stderr


def test_a_model_that_is_not_there_is_answered_with_checkpoints_alone(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    given = ["search", *arguments(inputs | {"--model": "./nosuch"}), "--budget", "0.5x-flops", "--study", "s"]
    result = run(*given)
    assert result.exit_code == 2
    assert f"there is no directory ./nosuch; {tmp_path} holds no checkpoint" in result.stderr
    (tmp_path / "mine").symlink_to(inputs["--model"])
    assert "there is no directory ./nosuch; known: mine" in run(*given).stderr


def test_a_note_is_said_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "err", Console(stderr=True))
    with terminal.progress() as listener:
        for text in ("few tokens", "few tokens", "another"):
            listener.note(text)
    assert capsys.readouterr().err == "note: few tokens\nnote: another\n\n"


def test_sentences_break_between_words_on_a_terminal_and_stay_one_line_elsewhere() -> None:
    text = "dense 97.2 ± 0.6 % [of them], " * 8
    for on_terminal in (True, False):
        console = Console(file=io.StringIO(), width=50, force_terminal=on_terminal, color_system=None)
        terminal.say(console, text, "note: ")
        lines = console.file.getvalue().splitlines()
        assert [word for line in lines for word in line.split()] == f"note: {text}".split()
        assert (len(lines) > 1, max(map(len, lines)) <= 50) == (on_terminal, on_terminal)


def test_help_says_what_the_default_length_is() -> None:
    shown = " ".join(run("search", "--help").stdout.replace("│", " ").split())
    assert "the mean length of the search data, rounded up to a multiple of 8" in shown


def test_resume_with_more_trials(study: Path) -> None:
    result = run("resume", str(study), "--trials", "7")
    assert result.exit_code == 0, result.output
    assert json.loads(run("status", str(study), "--json").stdout)["trials"]["complete"] == 7


def test_fewer_trials_than_a_study_has_are_noted(study: Path) -> None:
    done = run("resume", str(study), "--trials", "2")
    assert done.exit_code == 0, done.output
    assert "trials before, more than --trials 2; those that are done stay in it" in done.stderr


def test_a_time_limit_stops_resumably_with_exit_code_4(inputs: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "limited"
    limited = [*arguments(inputs), *FAST, "--budget", "0.5x-flops", "--study", str(path)]
    stopped = run("search", *limited, "--time-limit", "0.01s")
    assert stopped.exit_code == 4
    assert f"autolr resume {path}" in stopped.stderr.replace("\n", "")
    assert run("resume", str(path)).exit_code == 0


def test_estimate_says_what_is_reachable_without_writing_anything(inputs: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "nothing"
    given = [*arguments(inputs), "--budget", "0.5x-flops", "--budget", "0.01x-params", "--study", str(path)]
    result = run("estimate", *given, "--json")
    found = json.loads(result.stdout)
    assert [row["reachable"] for row in found["budgets"]] == [True, False]
    assert result.exit_code == 3
    assert found["seconds"]["total"] > 0
    assert (found["passing_bytes"], found["seconds"]["refit"] > 0) == (0, True)
    streamed = json.loads(run("estimate", *given, "--stream", "--no-refit", "--json").stdout)
    assert (streamed["passing_bytes"] > 0, streamed["seconds"]["refit"]) == (True, 0)
    assert not path.exists()
    shown = run("estimate", *given).stdout
    assert "compressible layers" in shown
    assert "not in it: starting and loading, the rehearsal" in " ".join(shown.split())
    assert run("estimate", *given, "--form", "low-rank").exit_code == 3
    assert "did you mean low-rank" in run("estimate", *given, "--form", "low-rang").stderr


BAD_OPTIONS = {
    "unknown method": (["--method", "drome"], "unknown method 'drome'; did you mean drone?"),
    "glob without match": (["--exclude", "*.querry"], "matches no linear layer"),
    "malformed budget": (["--budget", "half"], "malformed budget 'half'"),
    "unknown quantity": (
        ["--budget", "0.5x-flop"],
        "unknown quantity 'flop' in budget '0.5x-flop'; did you mean flops?",
    ),
    "budget above dense": (["--budget", "1.5x-flops"], "must lie in (0, 1]"),
    "malformed floor": (["--floor", "accuracy=1"], "malformed floor"),
    "missing column": (["--premise-column", "sentence"], "no column 'sentence'"),
    "unknown task": (["--task", "qa"], "task"),
    "unknown space": (["--space", "importanse"], "did you mean importance?"),
    "unknown sampler": (["--sampler", "botorhc"], "did you mean botorch?"),
    "absent device": (["--device", "cuda:7"], "cuda:7"),
    "too long": (["--seq-len", "4096"], "longer than the model's 64 positions"),
    "unknown dtype": (["--dtype", "int3"], "--dtype: must be 'float32', 'bfloat16' or 'float16'"),
    "bad time limit": (["--time-limit", "soon"], "must be a duration"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_a_bad_option_is_refused_with_exit_code_2_before_anything_is_computed(
    name: str, inputs: dict[str, str], tmp_path: Path
) -> None:
    extra, message = BAD_OPTIONS[name]
    path = tmp_path / "study"
    budget = [] if "--budget" in extra else ["--budget", "0.5x-flops"]
    result = run("search", *arguments(inputs), *budget, *extra, "--study", str(path))
    assert result.exit_code == 2, result.output
    assert message in result.stderr.replace("\n", " ")
    assert not (path / "bank").exists()


def replaced(inputs: dict[str, str], option: str, value: Path) -> list[str]:
    return arguments(inputs | {option: str(value)})


def test_an_impossible_budget_exits_3_and_names_the_nearest(inputs: dict[str, str], tmp_path: Path) -> None:
    result = run("search", *arguments(inputs), "--budget", "0.01x-params", "--study", str(tmp_path / "s"))
    assert result.exit_code == 3
    assert "the nearest reachable budget is" in result.stderr.replace("\n", " ")


def test_a_label_the_model_does_not_know(inputs: dict[str, str], tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"premise": "a", "hypothesis": "b", "label": "maybe"}\n')
    result = run(
        "search", *replaced(inputs, "--validation", bad), "--budget", "0.5x-flops", "--study", str(tmp_path / "s")
    )
    assert result.exit_code == 2
    assert "maybe" in result.stderr
    assert "entailment" in result.stderr


def test_an_empty_file(inputs: dict[str, str], tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    result = run(
        "search", *replaced(inputs, "--train", empty), "--budget", "0.5x-flops", "--study", str(tmp_path / "s")
    )
    assert result.exit_code == 2
    assert "empty" in result.stderr


def test_a_directory_that_is_not_a_model(inputs: dict[str, str], tmp_path: Path) -> None:
    result = run(
        "search", *replaced(inputs, "--model", tmp_path), "--budget", "0.5x-flops", "--study", str(tmp_path / "s")
    )
    assert result.exit_code == 2
    assert "config.json" in result.stderr


def test_a_study_folder_that_cannot_be_written(inputs: dict[str, str]) -> None:
    result = run("search", *arguments(inputs), "--budget", "0.5x-flops", "--study", "/proc/autolr-study")
    assert result.exit_code == 2
    assert "cannot write to the study folder" in result.stderr


def test_a_study_of_another_model(study: Path, tmp_path: Path) -> None:
    """Another in content: the same one may lie elsewhere."""
    other = write_inputs(tmp_path / "other")
    write_model(Path(other["--model"]), seed=9)
    result = run("search", *arguments(other), *FAST, "--budget", "0.5x-flops", "--study", str(study))
    assert result.exit_code == 2
    assert "model weights: was" in result.stderr


def test_nan_weights(inputs: dict[str, str], tmp_path: Path) -> None:
    damaged = write_inputs(tmp_path / "damaged")
    file = Path(damaged["--model"]) / "model.safetensors"
    tensors = load_file(file)
    tensors["bert.encoder.layer.0.output.dense.weight"][3, 4] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})
    result = run("search", *arguments(damaged), "--budget", "0.5x-flops", "--study", str(tmp_path / "s"))
    assert result.exit_code == 2
    assert "bert.encoder.layer.0.output.dense.weight has 1 NaN" in result.stderr.replace("\n", " ")


def test_too_few_calibration_tokens_are_said_with_what_is_enough(inputs: dict[str, str], tmp_path: Path) -> None:
    write_pairs(tmp_path / "train.jsonl", 300, 700)

    def search(examples: str, train: Path) -> str:
        given = [*replaced(inputs, "--train", train), *FAST, "--budget", "0.5x-flops", "--trials", "2", "--no-refit"]
        result = run("search", *given, "--calibration-examples", examples, "--study", str(tmp_path / f"of-{examples}"))
        assert result.exit_code == 0, result.output
        return result.stderr

    said = re.search(
        r"12 of 12 layers have fewer than 4 calibration tokens for each .*; --calibration-examples (\d+) would do "
        r"\(now 4\)\n",
        search("4", tmp_path / "train.jsonl"),
    )
    assert said is not None
    assert "calibration tokens" not in search(said[1], tmp_path / "train.jsonl")
    assert re.search(
        r"; more train data is needed: about \d+ pairs would do, the train data has 120\n",
        search("121", Path(inputs["--train"])),
    )


def test_test_data_that_are_the_validation_data(inputs: dict[str, str], tmp_path: Path) -> None:
    same = replaced(inputs, "--test", Path(inputs["--validation"]))
    result = run("search", *same, "--budget", "0.5x-flops", "--study", str(tmp_path / "s"))
    assert result.exit_code == 2
    assert "test data" in result.stderr
    assert "are the validation data" in result.stderr.replace("\n", " ")


@pytest.mark.parametrize(
    "words",
    [
        ["status", ""],
        ["search", "--budget", "0.5x-flops", "--study", ""],
        ["search", "--budget", "0.5x-flops", "--train", ""],
        ["search", "--budget", "0.5x-flops", "--profile", ""],
        ["resume", "STUDY", "--model", ""],
        ["export", "STUDY", "--out", ""],
        ["eval", "", "--data", "x"],
        ["eval", "MODEL", "--data", ""],
        ["bench", ""],
        ["probe", "MODEL", "--tasks", ""],
        ["compare", "", "--out", "x"],
        ["doctor", "--study", ""],
    ],
    ids=" ".join,
)
def test_an_empty_path_is_not_the_working_directory(
    words: list[str], study: Path, inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a shell gives it of a variable that is not set."""
    monkeypatch.chdir(tmp_path)
    places = {"STUDY": str(study), "MODEL": inputs["--model"]}
    refused = run(*(places.get(word, word) for word in words))
    assert refused.exit_code == 2
    assert "is empty" in " ".join(refused.stderr.split())
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_a_study(tmp_path: Path) -> None:
    for command in (["status"], ["front"], ["select", "--budget", "0.5x-flops"], ["resume"], ["dashboard"]):
        result = run(command[0], str(tmp_path), *command[1:])
        assert result.exit_code == 2, result.output
        assert "is not a study folder" in result.stderr.replace("\n", " ")


def test_csv_tsv_and_gzip_are_read(inputs: dict[str, str], tmp_path: Path) -> None:
    rows = [json.loads(line) for line in Path(inputs["--test"]).read_text().splitlines()]
    table = "\n".join(
        ["premise\thypothesis\tlabel", *(f"{r['premise']}\t{r['hypothesis']}\t{r['label']}" for r in rows)]
    )
    (tmp_path / "t.tsv").write_text(table + "\n")
    (tmp_path / "t.csv").write_text(table.replace("\t", ",") + "\n")
    with gzip.open(tmp_path / "t.jsonl.gz", "wt") as file:
        file.write(Path(inputs["--test"]).read_text())
    found = [
        json.loads(run("eval", inputs["--model"], "--data", str(tmp_path / name), "--json").stdout)["accuracy"]
        for name in ("t.tsv", "t.csv", "t.jsonl.gz")
    ]
    assert len(set(found)) == 1


def test_without_test_data_a_part_of_the_validation_data_reports(inputs: dict[str, str], tmp_path: Path) -> None:
    without = {k: v for k, v in inputs.items() if k != "--test"}
    write_pairs(tmp_path / "more.jsonl", 150, 180)
    without["--validation"] = str(tmp_path / "more.jsonl")
    result = run("search", *arguments(without), *FAST, "--budget", "0.5x-flops", "--study", str(tmp_path / "s"))
    assert result.exit_code == 0, result.output
    assert "no test data given" in result.stderr


def test_estimate_leaves_the_bank_of_a_study_alone(study: Path, inputs: dict[str, str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in (study / "bank").rglob("*") if p.is_file()}
    given = [*arguments(inputs), "--budget", "0.5x-flops", "--calibration-examples", "30", "--study", str(study)]
    assert run("estimate", *given).exit_code == 0
    assert {p: p.stat().st_mtime_ns for p in (study / "bank").rglob("*") if p.is_file()} == before


def test_export_does_not_overwrite_the_dense_model(study: Path, inputs: dict[str, str]) -> None:
    result = run("export", str(study), "--out", inputs["--model"])
    assert result.exit_code == 2
    assert "is the dense model itself" in result.stderr.replace("\n", " ")


def test_train_data_that_are_the_test_data(inputs: dict[str, str], tmp_path: Path) -> None:
    same = replaced(inputs, "--train", Path(inputs["--test"]))
    result = run("search", *same, "--budget", "0.5x-flops", "--study", str(tmp_path / "s"))
    assert result.exit_code == 2
    assert "are the train data" in result.stderr.replace("\n", " ")


def test_a_study_folder_is_not_a_checkpoint(study: Path, inputs: dict[str, str]) -> None:
    result = run("eval", str(study), "--data", inputs["--test"])
    assert result.exit_code == 2
    assert "is a study folder" in result.stderr.replace("\n", " ")


def test_help_shows_the_options_that_most_people_need_first() -> None:
    """Ten of them and --help, then the rest in panels with names."""
    lines = run("search", "--help").stdout.splitlines()
    titles = [line.strip("╭╮─ ") for line in lines if line.startswith("╭")]
    assert titles == ["Options", "Data", "Probes", "Search", "Where it runs", "What costs are stated for", "Output"]
    first = "\n".join(lines[: next(i for i, line in enumerate(lines) if line.startswith("╭─ Data"))])
    needed = {"budget", "model", "task", "train", "validation", "test", "floor", "trials", "study", "workers", "help"}
    assert set(re.findall(r"^│ [* ] *--([a-z-]+)", first, re.MULTILINE)) == needed
