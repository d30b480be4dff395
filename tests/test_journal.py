"""A damaged journal: refused with its line and the way out, and rebuilt from the files of the trials."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from nli_fixture import arguments, write_inputs, write_model, write_pairs
from optuna.trial import TrialState
from typer.testing import CliRunner, Result

from autolr.cli import app
from autolr.errors import UsageError
from autolr.optimization.study import evaluator as objective_module
from autolr.optimization.study.folder import StudyFolder
from autolr.optimization.study.rebuild import rebuild
from autolr.optimization.study.summary import find_trial, select_trial, summarize
from autolr.progress import Silent
from autolr.spec.objectives import directions
from autolr.spec.study import StudySpec, make_spec
from autolr.workflows.search import run_search

TRIALS = 24
FAST = ["--method", "kfac", "--multiple", "2", "--search-examples", "40", "--selection-examples", "40"]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> StudySpec:
    """Of a study with all there is: trials that races stopped, proposals in batches of three."""
    folder = tmp_path_factory.mktemp("inputs")
    plain = {
        "model": str(write_model(folder / "model")),
        "data": {
            "train": str(write_pairs(folder / "train.jsonl", 120)),
            "validation": str(write_pairs(folder / "validation.jsonl", 900, 180)),
            "test": str(write_pairs(folder / "test.jsonl", 60, 1100)),
            "search_examples": 400,
            "selection_examples": 60,
        },
        "budgets": ["0.6x-flops"],
        "trials": TRIALS,
        "search": {"methods": ["kfac", "svd", "losparse"], "multiple": 2, "refit": False, "proposals": 3},
    }
    return make_spec(plain, "test")


@pytest.fixture(scope="module")
def finished(spec: StudySpec, tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    folder = StudyFolder(tmp_path_factory.mktemp("finished") / "study")
    run_search(spec, folder, Silent(), checkpoint=False)
    return folder


def copied(finished: StudyFolder, tmp_path: Path) -> StudyFolder:
    """A copy that shares the bank."""
    folder = StudyFolder(tmp_path / "copy")
    shutil.copytree(finished.path, folder.path, ignore=shutil.ignore_patterns("bank"))
    folder.bank = finished.bank
    return folder


def killed(finished: StudyFolder, tmp_path: Path, ended: int) -> StudyFolder:
    """A copy as it was when so many trials had ended: the journal up to there, and the files of those."""
    folder = copied(finished, tmp_path)
    kept, done = [], set()
    for line in folder.journal.read_text().splitlines(keepends=True):
        kept.append(line)
        change = json.loads(line)
        if change["op_code"] == 6 and change["state"] in (1, 2, 3):
            done.add(change["trial_id"])
        if len(done) == ended:
            break
    folder.journal.write_text("".join(kept))
    for number, file in folder.trial_files().items():
        if number not in done:
            file.unlink()
    folder.result_file.unlink()
    return folder


def garble(journal: Path, content: bytes = b'{"op_code": 8, "tri', at: float = 0.5) -> int:
    """Write something else over a line; return its number."""
    lines = journal.read_bytes().splitlines()
    index = int(at * len(lines))
    lines[index] = content
    journal.write_bytes(b"\n".join(lines) + b"\n")
    return index + 1


def trials_of(folder: StudyFolder) -> list[tuple]:
    return [
        (t.number, t.state, t.values, t.params, t.distributions, t.constraints, t.user_attrs)
        for t in folder.load_study().trials
    ]


def without_seconds(trials: list[tuple]) -> list[tuple]:
    return [
        (*rest, {k: v for k, v in attributes.items() if k not in ("seconds", "batch", "place")})
        for *rest, attributes in trials
    ]


DAMAGES = {
    "cut off": b'{"op_code": 8, "tri',
    "no change": b"{}",
    "a number": b"123",
    "a list": b"[]",
    "null": b"null",
    "no such change": b'{"op_code": 77, "worker_id": "x"}',
    "a change that lacks all": b'{"op_code": 4, "worker_id": "x"}',
    "no such time": b'{"op_code": 4, "worker_id": "x", "study_id": 0, "datetime_start": "yesterday"}',
    "a trial that is not there": b'{"op_code": 8, "worker_id": "x", "trial_id": 999, "user_attr": {"a": 1}}',
    "a study that is not there": b'{"op_code": 2, "worker_id": "x", "study_id": 7, "user_attr": {"a": 1}}',
    "zeros": b"\0" * 40,
    "no text": b"\xff\xfe\xfd",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_line_is_named(finished: StudyFolder, tmp_path: Path, damage: str) -> None:
    folder = copied(finished, tmp_path)
    line = garble(folder.journal, DAMAGES[damage])
    with pytest.raises(UsageError, match=rf"study\.journal, line {line}: not a change of the study"):
        folder.load_study()


def test_blank_lines_are_passed_over(finished: StudyFolder, tmp_path: Path) -> None:
    """And do not put out the number of a damaged line, nor what is read later, when another process has written."""
    folder = copied(finished, tmp_path)
    lines = folder.journal.read_text().splitlines()
    folder.journal.write_text("\n\n" + "\n \n".join(lines[:-1]) + "\n\n")
    study = folder.load_study()
    with folder.journal.open("a") as journal:
        journal.write(lines[-1] + "\n")
    assert [t.state for t in study.trials] == [state for _, state, *_ in trials_of(finished)]
    assert trials_of(folder) == trials_of(finished)
    with folder.journal.open("a") as journal:
        journal.write("\noops\n")
    with pytest.raises(UsageError, match=rf"line {2 * len(lines) + 3}: not a change"):
        study.trials  # noqa: B018


def test_a_line_without_an_end_is_being_written(finished: StudyFolder, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path)
    with folder.journal.open("a") as journal:
        journal.write('{"op_code": 5, "worker')
    assert trials_of(folder) == trials_of(finished)


def drop(lines: list[str], what: str) -> list[str]:
    """Lose lines that no other line needs."""
    if what == "end":
        return lines[: len(lines) // 2]
    if what == "all":
        return []
    lost = next(i for i in range(len(lines) // 2, len(lines)) if '"digest"' in lines[i])
    return lines[:lost] + lines[lost + 1 :]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("end", r"its end is lost, there are \d+ trials but .*/23\.json"),
        ("all", "its beginning is lost"),
        ("attribute", r"lines are lost, trial \d+ lacks digest"),
        ("file", "no such file, but there are trials"),
    ],
)
def test_lost_lines_are_noticed(finished: StudyFolder, spec: StudySpec, tmp_path: Path, what: str, said: str) -> None:
    """Nothing is begun anew over the files of the trials, by whatever command."""
    folder = copied(finished, tmp_path)
    folder.journal.write_text("\n".join(drop(folder.journal.read_text().splitlines(), what)) + "\n")
    if what == "file":
        folder.journal.unlink()
    for refused in (folder.load_study, lambda: run_search(spec, folder, Silent())):
        with pytest.raises(UsageError, match=said):
            refused()
    rebuild(folder, Silent())
    assert trials_of(folder) == trials_of(finished)


@pytest.mark.parametrize(
    ("name", "content"),
    [("99999999999999999999", "{}"), ("99999999999999999999", ""), ("24", "{}"), ("057", ""), ("٥٧", ""), ("57", "3")],
)
def test_a_file_that_is_no_trials_is_left_alone(finished: StudyFolder, tmp_path: Path, name: str, content: str) -> None:
    """Whether it is called like no trial, or says that it is another one's (3: a copy of the third's)."""
    folder = copied(finished, tmp_path)
    stray = folder.trials / f"{name}.json"
    stray.write_text(folder.trial_files()[3].read_text() if content == "3" else content)
    assert trials_of(folder) == trials_of(finished)
    garble(folder.journal)
    rebuild(folder, Silent())
    assert trials_of(folder) == trials_of(finished)
    assert stray.exists()


def test_a_damaged_file_beyond_the_journals_end_is_noticed(finished: StudyFolder, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path)
    (folder.trials / "57.json").write_text("{")
    with pytest.raises(UsageError, match=r"its end is lost, there are 24 trials but .*/57\.json"):
        folder.load_study()


def test_the_dense_models_cost_is_put_back_where_its_line_is_lost(
    finished: StudyFolder, spec: StudySpec, tmp_path: Path
) -> None:
    folder = copied(finished, tmp_path)
    lines = folder.journal.read_text().splitlines(keepends=True)
    folder.journal.write_text("".join(line for line in lines if '"dense_cost"' not in line))
    with pytest.raises(UsageError, match="cost is not in the study; resume the study, which puts it there"):
        select_trial(folder, ["0.59x-flops"])
    run_search(spec, folder, Silent(), checkpoint=False)
    assert select_trial(folder, ["0.59x-flops"]) == select_trial(finished, ["0.59x-flops"])


def test_a_rebuilt_study_is_the_same(finished: StudyFolder, tmp_path: Path) -> None:
    """Every trial with all it holds, the study's own attributes, and what the commands say."""
    folder = copied(finished, tmp_path)
    before, said = trials_of(folder), summarize(folder)
    chosen, won = select_trial(folder, ["0.59x-flops"]), find_trial(folder, None, None)
    assert {state for _, state, *_ in before} == {TrialState.COMPLETE, TrialState.PRUNED}
    garble(folder.journal, at=0.3)
    damaged = folder.journal.read_bytes()
    rebuild(folder, Silent())
    assert trials_of(folder) == before
    assert summarize(folder) == said
    assert (select_trial(folder, ["0.59x-flops"]), find_trial(folder, None, None)) == (chosen, won)
    old, new = finished.load_study(), folder.load_study()
    assert (new.user_attrs, new.directions, new.metric_names) == (old.user_attrs, old.directions, old.metric_names)
    assert folder.journal.with_name("study.journal.damaged").read_bytes() == damaged
    assert not list(folder.path.glob("rebuilding-*"))
    garble(folder.journal)
    rebuild(folder, Silent())
    assert folder.journal.with_name("study.journal.damaged-2").is_file()


@pytest.mark.parametrize("ended", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (15, 16))])
def test_a_rebuilt_study_goes_on_as_the_uninterrupted_one(
    finished: StudyFolder, spec: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: int
) -> None:
    """Killed among the first candidates and at each place of a batch; nothing known is evaluated again."""
    folder = killed(finished, tmp_path, ended)
    garble(folder.journal, at=0.9)
    evaluated, evaluate = [], objective_module.Objective.evaluate

    def counted(self, candidate, *others):
        evaluated.append(candidate.digest)
        return evaluate(self, candidate, *others)

    monkeypatch.setattr(objective_module.Objective, "evaluate", counted)
    rebuild(folder, Silent())
    run_search(spec, folder, Silent(), checkpoint=False)
    assert without_seconds(trials_of(folder)) == without_seconds(trials_of(finished))
    left = [attributes for *_, attributes in trials_of(finished)[ended:]]
    assert evaluated == [attributes["digest"] for attributes in left if "same_as" not in attributes]
    for name in ("front.json", "result.json"):
        assert plain(folder.path / name) == plain(finished.path / name)


def plain(file: Path) -> object:
    return json.loads(file.read_text())


def test_files_from_before_parameters_were_kept_give_their_candidates(
    finished: StudyFolder, spec: StudySpec, tmp_path: Path
) -> None:
    folder = copied(finished, tmp_path)
    for number, file in folder.trial_files().items():
        content = json.loads(file.read_text())
        new = ("state", "values", "params", "distributions", "attributes")
        folder.write_trial(number, {name: value for name, value in content.items() if name not in new})
    garble(folder.journal)
    rebuild(folder, Silent())
    before, after = trials_of(finished), trials_of(folder)
    assert [t[:3] for t in after] == [t[:3] for t in before]
    assert [t[5] for t in after] == [t[5] for t in before]
    assert {params for _, _, _, params, *_ in ((*t[:3], len(t[3])) for t in after)} == {0}
    assert summarize(folder) == replace(summarize(finished), study=str(folder.path))
    more = spec.model_copy(update={"trials": TRIALS + 3})
    run_search(more, folder, Silent(), checkpoint=False)
    digests = [attributes["digest"] for *_, attributes in trials_of(folder)]
    assert len(digests) == TRIALS + 3
    assert not set(digests[TRIALS:]) & set(digests[:TRIALS])


class Told(Silent):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize("number", [5, TRIALS - 1])
@pytest.mark.parametrize("content", ['{"trial": 5, "candi', "[]", "{}", "another's", "another candidate"])
def test_a_damaged_file_of_a_trial_is_left_out_and_said(
    finished: StudyFolder, spec: StudySpec, tmp_path: Path, number: int, content: str
) -> None:
    """The others keep their numbers, and the study goes on to as many trials as were wanted."""
    folder, told = copied(finished, tmp_path), Told()
    file = folder.trial_files()[number]
    if content == "another's":
        content = folder.trial_files()[7].read_text()
    if content == "another candidate":
        content = json.dumps({**json.loads(file.read_text()), "candidate": {}})
    file.write_text(content)
    garble(folder.journal)
    rebuild(folder, told)
    assert f"{file} is damaged too and left out; its candidate may be evaluated again" in told.notes
    kept = {t[0]: t for t in trials_of(folder) if t[1].is_finished() and t[1] != TrialState.FAIL}
    assert kept == {t[0]: t for t in trials_of(finished) if t[0] != number}
    found = summarize(folder)
    assert (found.trials["failed"], found.finished, found.failures) == (0, False, ())
    if content == "[]":
        run_search(spec, folder, Silent(), checkpoint=False)
        found = summarize(folder).trials
        assert found["complete"] + found["stopped"] == TRIALS


def test_failed_trials_come_back_with_their_reasons(
    finished: StudyFolder, spec: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, evaluate, calls = StudyFolder(tmp_path / "failing"), objective_module.Objective.evaluate, iter(range(99))
    folder.bank = finished.bank

    def failing(self, *others):
        if next(calls) == 5:
            raise RuntimeError("out of memory")
        return evaluate(self, *others)

    monkeypatch.setattr(objective_module.Objective, "evaluate", failing)
    few = spec.model_copy(update={"trials": 8})
    run_search(few, folder, Silent(), checkpoint=False)
    said = summarize(folder)
    assert [failure.reason for failure in said.failures] == ["RuntimeError: out of memory"]
    garble(folder.journal)
    rebuild(folder, Silent())
    assert summarize(folder) == said
    run_search(few.model_copy(update={"trials": 10}), folder, Silent(), checkpoint=False)
    digests = [attributes["digest"] for *_, attributes in trials_of(folder)]
    assert digests.count(digests[said.failures[0].trial]) == 1


def test_a_study_comes_back_from_a_journal_whose_first_line_is_damaged(finished: StudyFolder, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path)
    garble(folder.journal, at=0.0)
    rebuild(folder, Silent())
    assert trials_of(folder) == trials_of(finished)


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ({}, ["MINIMIZE", "MINIMIZE"]),
        ({"objective": "accuracy", "probe_axis": True}, ["MAXIMIZE", "MINIMIZE", "MAXIMIZE"]),
    ],
)
def test_the_directions_are_those_of_the_specification(search: dict, expected: list[str]) -> None:
    spec = make_spec({"budgets": ["0.5x-flops"], "data": {"probes": "tasks"}, "search": search}, "test")
    assert [one.name for one in directions(spec)] == expected


# From the command line.


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_inputs(tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="module")
def study(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("studies") / "my mum's"
    begun = run("search", *arguments(inputs), *FAST, "--trials", "5", "--budget", "0.5x-flops", "--study", str(path))
    assert begun.exit_code == 0, begun.output
    return path


def test_every_command_refuses_a_damaged_journal_and_resume_rebuilds_it(
    study: Path, inputs: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "it's a copy"
    shutil.copytree(study, path)
    shown = [("status",), ("front",), ("select", "--budget", "0.48x-flops")]
    before = [run(name, str(path), *flags, "--json").stdout for name, *flags in shown]
    line = garble(path / "study.journal")
    commands = [
        ["status", str(path)],
        ["select", str(path), "--budget", "0.48x-flops"],
        ["resume", str(path)],
        ["export", str(path), "--out", str(tmp_path / "out")],
        ["sensitivity", str(path)],
        ["dashboard", str(path)],
        ["search", *arguments(inputs), *FAST, "--trials", "5", "--budget", "0.5x-flops", "--study", str(path)],
    ]
    for words in commands:
        refused = run(*words)
        assert (words[0], refused.exit_code) == (words[0], 2), refused.output
        assert f"study.journal, line {line}: not a change of the study" in refused.stderr
    typed = shlex.split(re.search("from them with (autolr .*)", refused.stderr)[1])
    assert typed == ["autolr", "resume", str(path), "--rebuild"]
    result = json.loads((path / "result.json").read_text())
    mended = run(*typed[1:])
    assert mended.exit_code == 0, mended.output
    assert "with 5 trials" in mended.stderr
    assert [run(name, str(path), *flags, "--json").stdout for name, *flags in shown] == before
    assert json.loads((path / "result.json").read_text()) == result
    assert run("export", str(path), "--out", str(tmp_path / "out")).exit_code == 0
    again = run(*typed[1:])
    assert again.exit_code == 0
    assert "is whole; nothing was rebuilt" in again.stderr


def test_a_study_in_a_database_has_no_journal_to_rebuild(study: Path, tmp_path: Path) -> None:
    path = tmp_path / "shared"
    shutil.copytree(study, path)
    content = yaml.safe_load((path / "study.yaml").read_text())
    content["spec"]["storage"] = "postgresql://me@nowhere/db"
    (path / "study.yaml").write_text(yaml.safe_dump(content))
    refused = run("resume", str(path), "--rebuild")
    assert refused.exit_code == 2
    assert "--rebuild is for a journal" in refused.stderr
