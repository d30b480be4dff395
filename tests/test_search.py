"""A study: what it writes, that it can be interrupted anywhere, that it refuses other conditions."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from nli_fixture import write_inputs, write_model, write_pairs
from optuna.trial import TrialState
from transformers import AutoTokenizer, BertJapaneseTokenizer

from autolr.errors import AutolrError, BudgetError, Stopped, UsageError
from autolr.forms.low_rank import LowRank
from autolr.model.digests import tokenizer_digest
from autolr.optimization.study import evaluator as objective_module
from autolr.optimization.study.folder import StudyFolder
from autolr.optimization.study.queue import MAX_FAILURES_IN_A_ROW
from autolr.optimization.study.summary import select_trial, summarize
from autolr.problem import open_inputs
from autolr.progress import Silent
from autolr.report.sentences import result_lines, status_lines
from autolr.results import StudyResult
from autolr.spec.study import StudySpec, make_spec
from autolr.workflows import search as search_module
from autolr.workflows.search import run_search

TRIALS = 12


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def spec_of(options: dict[str, str], **changes: object) -> StudySpec:
    data = {name.removeprefix("--"): value for name, value in options.items() if name != "--model"}
    plain = {
        "model": options["--model"],
        "data": data | {"search_examples": 40, "selection_examples": 40},
        "budgets": ["0.6x-flops"],
        "trials": TRIALS,
        "search": {"methods": ["kfac", "svd", "losparse"], "multiple": 2},
        **changes,
    }
    return make_spec(plain, "test")


def trials_of(path: Path) -> list[dict]:
    study = StudyFolder(path).load_study()
    return [
        {
            "number": t.number,
            "state": t.state.name,
            "values": t.values,
            "params": t.params,
            "digest": t.user_attrs.get("digest"),
        }
        for t in study.trials
    ]


def fail_at(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException) -> None:
    """Let one evaluation of the search, counted from 0, raise an error."""
    monkeypatch.setattr(search_module, "rehearse", lambda *_: None)
    evaluate = objective_module.Objective.evaluate
    calls = iter(range(100))

    def failing(self, candidate, tick, race=None, halved=False):
        if next(calls) == number:
            raise error
        return evaluate(self, candidate, tick, race, halved)

    monkeypatch.setattr(objective_module.Objective, "evaluate", failing)


class StopAfter(Silent):
    """Stops at the n-th time it is asked."""

    def __init__(self, checks: int) -> None:
        self.left = checks

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Stopped("enough")


@pytest.fixture(scope="module")
def finished(options: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "one"
    run_search(spec_of(options), StudyFolder(path), Silent())
    return path


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> StudyFolder:
    """Of another study of the same model and data: it shares the bank."""
    folder = StudyFolder(tmp_path / "study")
    folder.bank = StudyFolder(finished).bank
    return folder


def test_a_study_writes_everything_under_its_folder(finished: Path) -> None:
    names = {p.name for p in finished.iterdir()}
    assert {"study.yaml", "study.journal", "bank", "trials", "front.json", "front", "result.json"} <= names
    assert len(list((finished / "trials").glob("*.json"))) == TRIALS
    result = json.loads((finished / "result.json").read_text())
    assert (finished / result["checkpoint"] / "model.safetensors").is_file()


def test_the_dense_model_is_trial_0_with_ratio_1_and_no_divergence(finished: Path) -> None:
    dense = json.loads((finished / "trials" / "0.json").read_text())
    assert dense["candidate"] == {}
    assert set(dense["costs"]["ratio"].values()) == {1.0}
    assert dense["scores"]["divergence"]["value"] == 0.0
    assert dense["constraints"]["0.6x-flops"] > 0


def test_every_trial_but_the_dense_one_is_within_the_budget(finished: Path) -> None:
    for number in range(1, TRIALS):
        trial = json.loads((finished / "trials" / f"{number}.json").read_text())
        assert trial["costs"]["ratio"]["flops"] <= 0.6
        assert trial["constraints"]["0.6x-flops"] <= 0


def test_the_front_is_the_set_of_feasible_trials_that_none_beats(finished: Path) -> None:
    rows = [json.loads(p.read_text()) for p in (finished / "trials").glob("*.json")]
    points = {
        r["trial"]: (r["scores"]["divergence"]["value"], r["costs"]["ratio"]["flops"])
        for r in rows
        if r["constraints"]["0.6x-flops"] <= 0
    }

    def beaten(mine: tuple[float, float]) -> bool:
        return any(o != mine and o[0] <= mine[0] and o[1] <= mine[1] for o in points.values())

    expected = {points[n] for n in points if not beaten(points[n])}
    members = json.loads((finished / "front.json").read_text())["members"]
    assert {(m["scores"]["divergence"]["value"], m["costs"]["ratio"]["flops"]) for m in members} == expected


def test_the_same_seed_gives_the_same_study(finished: Path, options: dict[str, str], tmp_path: Path) -> None:
    run_search(spec_of(options), StudyFolder(tmp_path / "again"), Silent())
    assert trials_of(tmp_path / "again") == trials_of(finished)


def test_a_folder_of_something_else_is_no_place_for_a_study(options: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"not part of a study \(config.json\), and only an empty directory or"):
        run_search(spec_of(options), StudyFolder(tmp_path / "model"), Silent())
    assert [file.name for file in (tmp_path / "model").iterdir()] == ["config.json"]


def test_what_a_study_leaves_that_was_only_begun_is_its_own(tmp_path: Path) -> None:
    for name in ("study.lock", "latency.json", ".rehearsal-lock", ".study.yaml.0f3a"):
        (tmp_path / name).touch()
    StudyFolder(tmp_path).check_own()


def test_a_study_does_not_go_on_with_forms_of_another_version(
    finished: Path, options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = StudyFolder(Path(shutil.copytree(finished, tmp_path / "study")))
    monkeypatch.setattr(LowRank, "version", 2)
    with pytest.raises(UsageError, match=r"another model, data or setting:\n  form low-rank: was '\(absent\)', now 2"):
        run_search(spec_of(options, trials=30), folder, Silent())


def test_another_seed_gives_another_study(finished: Path, options: dict[str, str], tmp_path: Path) -> None:
    run_search(spec_of(options, seed=1), StudyFolder(tmp_path / "other"), Silent())
    assert trials_of(tmp_path / "other") != trials_of(finished)


def test_a_study_stopped_anywhere_goes_on_as_the_uninterrupted_one(
    finished: Path, options: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "stopped"
    stops = 0
    for checks in (2, 9, 30, 41, 44, 47, 60, 10_000):
        try:
            run_search(spec_of(options), StudyFolder(path), StopAfter(checks))
            break
        except Stopped:
            stops += 1
    assert stops >= 4
    assert trials_of(path) == trials_of(finished)
    assert json.loads((path / "front.json").read_text()) == json.loads((finished / "front.json").read_text())


def test_a_running_trial_of_a_dead_process_is_run_again_under_its_number(
    options: dict[str, str], folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, 6, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run_search(spec_of(options), folder, Silent())
    left = [t for t in trials_of(folder.path) if t["state"] == "RUNNING"]
    assert len(left) == 1
    run_search(spec_of(options), folder, Silent())
    after = trials_of(folder.path)
    assert [t["number"] for t in after] == list(range(TRIALS))
    assert {t["state"] for t in after} == {"COMPLETE"}


def test_a_torn_last_line_of_the_journal_is_cut_off(finished: Path, options: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "torn"
    with pytest.raises(Stopped):
        run_search(spec_of(options), StudyFolder(path), StopAfter(44))
    with (path / "study.journal").open("a") as journal:
        journal.write('{"op_code": 5, "worker')
    run_search(spec_of(options), StudyFolder(path), Silent())
    assert trials_of(path) == trials_of(finished)


def test_a_finished_study_is_not_run_again(finished: Path, options: dict[str, str]) -> None:
    before = [(t.number, t.datetime_complete) for t in StudyFolder(finished).load_study().trials]
    run_search(spec_of(options), StudyFolder(finished), Silent())
    assert [(t.number, t.datetime_complete) for t in StudyFolder(finished).load_study().trials] == before


def test_a_failed_trial_is_told_as_failed_with_its_reason(
    options: dict[str, str], folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, 5, RuntimeError("out of memory"))
    run_search(spec_of(options), folder, Silent())
    trials = folder.load_study().trials
    failed = [t for t in trials if t.state == TrialState.FAIL]
    assert [t.user_attrs["reason"] for t in failed] == ["RuntimeError: out of memory"]
    assert failed[0].values is None
    assert sum(t.state == TrialState.COMPLETE for t in trials) == TRIALS
    assert failed[0].user_attrs["digest"] not in [t.user_attrs["digest"] for t in trials if t.number > failed[0].number]


def test_a_search_whose_trials_all_fail_ends(
    options: dict[str, str], folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self, candidate, tick, race=None):
        raise AutolrError("no")

    monkeypatch.setattr(objective_module.Objective, "evaluate", fails)
    monkeypatch.setattr(search_module, "rehearse", lambda *_: None)
    with pytest.raises(AutolrError, match=f"{MAX_FAILURES_IN_A_ROW} trials in a row failed"):
        run_search(spec_of(options), folder, Silent())


def test_more_trials_can_be_asked_for_later(options: dict[str, str], folder: StudyFolder) -> None:
    run_search(spec_of(options, trials=6), folder, Silent())
    first = trials_of(folder.path)
    run_search(spec_of(options, trials=8), folder, Silent())
    assert trials_of(folder.path)[:6] == first
    assert len(trials_of(folder.path)) == 8


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"budgets": ["0.5x-flops"]}, "budgets: was \\['0.6x-flops'\\], now \\['0.5x-flops'\\]"),
        ({"seed": 3}, "seed: was 0, now 3"),
        ({"search": {"methods": ["svd"], "multiple": 2}}, "search.methods"),
    ],
)
def test_another_setting_is_refused_with_the_difference(
    finished: Path, options: dict[str, str], change: dict, named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        run_search(spec_of(options, **change), StudyFolder(finished), Silent())


def test_another_model_or_data_behind_the_same_name_is_refused(tmp_path: Path) -> None:
    options = write_inputs(tmp_path / "inputs")
    path = tmp_path / "study"
    run_search(spec_of(options, trials=3), StudyFolder(path), Silent())
    write_pairs(Path(options["--test"]), 61, 541)
    with pytest.raises(UsageError, match="data report: was"):
        run_search(spec_of(options, trials=3), StudyFolder(path), Silent())
    write_inputs(tmp_path / "inputs")
    write_model(Path(options["--model"]), seed=9)
    with pytest.raises(UsageError, match="model weights: was"):
        run_search(spec_of(options, trials=4), StudyFolder(path), Silent())
    write_model(Path(options["--model"]))
    change(Path(options["--model"]) / "config.json", hidden_act="silu")
    with pytest.raises(UsageError, match="model config: was"):
        run_search(spec_of(options, trials=4), StudyFolder(path), Silent())


def change(file: Path, **entries: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("config.json", {"hidden_act": "silu"}),
        ("config.json", {"layer_norm_eps": 1e-3}),
        ("tokenizer_config.json", {"truncation_side": "left"}),
        ("tokenizer_config.json", {"model_max_length": 32}),
    ],
)
def test_what_the_dense_model_computes_is_part_of_every_key(tmp_path: Path, name: str, entries: dict) -> None:
    """A bank that several studies share must not take one model's statistics for another's."""
    options = write_inputs(tmp_path / "inputs")
    first = open_inputs(spec_of(options), Silent())
    change(Path(options["--model"]) / name, **entries)
    again = open_inputs(spec_of(options), Silent())
    assert first.dense_key != again.dense_key
    assert first.calibration_key != again.calibration_key
    change(Path(options["--model"]) / "config.json", transformers_version="1.0")
    assert open_inputs(spec_of(options), Silent()).dense_key == again.dense_key


def test_a_tokenizers_digest_is_of_its_rules_alone(tmp_path: Path):
    """Not of where it lies, nor of what a call left behind; of the options of one that is written in Python, too."""
    options = write_inputs(tmp_path / "inputs")
    first = AutoTokenizer.from_pretrained(options["--model"])
    copied = AutoTokenizer.from_pretrained(shutil.copytree(options["--model"], tmp_path / "copy"))
    assert tokenizer_digest(first) == tokenizer_digest(copied)
    before = tokenizer_digest(first)
    first(["the cat"], truncation=True, max_length=3, padding=True)
    assert tokenizer_digest(first) == before
    (tmp_path / "words.txt").write_text("[UNK]\n[PAD]\n[SEP]\n[CLS]\n[MASK]\nthe\nThe\n")
    kinds = [
        BertJapaneseTokenizer(str(tmp_path / "words.txt"), word_tokenizer_type="basic", do_lower_case=lower)
        for lower in (True, False)
    ]
    assert kinds[0].tokenize("The") != kinds[1].tokenize("The")
    assert tokenizer_digest(kinds[0]) != tokenizer_digest(kinds[1])


def test_a_study_without_trials_may_be_begun_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something refused it, or the disk was full: the remedy is another specification."""
    options = write_inputs(tmp_path / "inputs")
    path = tmp_path / "study"

    def full(*_: object, **__: object) -> None:
        raise UsageError("no room")

    with monkeypatch.context() as patch:
        patch.setattr("autolr.workflows.search.build_bank", full)
        with pytest.raises(UsageError, match="no room"):
            run_search(spec_of(options, trials=3), StudyFolder(path), Silent())
    assert (path / "study.yaml").is_file()
    other = spec_of(options, trials=3, seed=7)
    assert run_search(other, StudyFolder(path), Silent()).trials == 3


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_tokens_without_an_embedding_are_found_before_anything_is_computed(tmp_path: Path, part: str) -> None:
    options = write_inputs(tmp_path / "inputs")
    tokenizer = AutoTokenizer.from_pretrained(options["--model"])
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(options["--model"])
    open_inputs(spec_of(options), Silent())  # no text has it
    with Path(options[f"--{part}"]).open("a") as file:
        file.writelines(
            json.dumps({"premise": f"the zebra {i} sleeps", "hypothesis": "a cat", "label": "neutral"}) + "\n"
            for i in range(200)
        )
    with pytest.raises(UsageError, match=r"data hold the token 'zebra', whose id \d+ is beyond the model's \d+ embed"):
        open_inputs(spec_of(options), Silent())


def test_two_processes_do_not_work_on_one_study(finished: Path, options: dict[str, str]) -> None:
    with StudyFolder(finished).locked(), pytest.raises(UsageError, match="another process"):
        run_search(spec_of(options, trials=TRIALS + 1), StudyFolder(finished), Silent())


def test_the_state_says_whether_a_process_is_at_work(finished: Path) -> None:
    folder = StudyFolder(finished)
    with folder.locked():
        lines = list(status_lines(summarize(folder)))
        assert ": running; budgets" in lines[0]
        assert not any("go on with" in line for line in lines)
    assert ": finished; budgets" in next(iter(status_lines(summarize(folder))))


def test_the_exported_winner_gives_the_same_logits_as_the_candidate(finished: Path, options: dict[str, str]) -> None:
    from transformers import AutoModelForSequenceClassification

    from autolr.recovery.base import recovered
    from autolr.results import FrontMember
    from autolr.types import Candidate
    from autolr.workflows.finalists import changes_of_member
    from autolr.workflows.search import open_study

    result = json.loads((finished / "result.json").read_text())
    winner = next(m for m in result["members"] if m["trial"] == result["winner"])
    opened = open_study(StudyFolder(finished), Silent())
    reloaded = AutoModelForSequenceClassification.from_pretrained(finished / result["checkpoint"])
    batch = opened.inputs.batches("report")[0]
    candidate = Candidate.from_json(winner["candidate"])
    changes = changes_of_member(opened.inputs, opened.bank, FrontMember.from_json(winner), Silent())
    with recovered(opened.inputs.model, candidate, opened.bank, changes), torch.no_grad():
        expected = opened.inputs.model(**batch).logits
    with torch.no_grad():
        assert torch.equal(reloaded(**batch).logits, expected)


def test_several_budgets_hold_at_once(options: dict[str, str], folder: StudyFolder) -> None:
    budgets = ["0.7x-flops", "75%-params"]
    result = run_search(spec_of(options, budgets=budgets, trials=6), folder, Silent())
    assert result.reached
    for member in result.to_json()["members"]:
        assert member["costs"]["ratio"]["flops"] <= 0.7
        assert member["costs"]["ratio"]["params"] <= 0.75


def test_a_floor_that_nothing_meets_is_reported_and_the_nearest_exported(
    options: dict[str, str], folder: StudyFolder
) -> None:
    spec = spec_of(options, budgets=["0.2x-flops"], floors=["accuracy>=1.0"], trials=6)
    result = run_search(spec, folder, Silent())
    assert not result.reached
    assert (folder.path / result.checkpoint / "config.json").is_file()
    assert json.loads(folder.front_file.read_text())["nearest"]
    with pytest.raises(BudgetError, match=r"within 0\.9x-flops keeps accuracy>=1\.0; the nearest is trial \d+:"):
        select_trial(folder, ["0.9x-flops"])


def test_a_winner_no_better_than_the_commonest_label_is_said(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    spec = StudyFolder(finished).spec()
    small = result["report"]["compressed"]["accuracy"]

    def warned(majority: float) -> bool:
        changed = StudyResult.from_json(result | {"report": result["report"] | {"majority": majority}})
        return any("commonest label" in line for line in result_lines(changed, spec, finished))

    assert 0 < result["report"]["majority"] <= 1
    assert warned(small["value"] - small["stderr"])
    assert not warned(small["value"] - 3 * small["stderr"])


def test_an_impossible_budget_names_the_nearest_before_anything_is_computed(
    options: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(BudgetError, match=r"nearest reachable budget is 0\.\d+x-params"):
        run_search(spec_of(options, budgets=["0.01x-params"]), StudyFolder(tmp_path / "x"), Silent())
    assert not (tmp_path / "x" / "bank").exists()


@pytest.mark.parametrize("sampler", ["gp", "tpe", "nsga2", "random"])
def test_optunas_own_samplers_run_and_resume(options: dict[str, str], folder: StudyFolder, sampler: str) -> None:
    search = {"methods": ["kfac"], "multiple": 2, "sampler": sampler, "refit": False}
    run_search(spec_of(options, trials=7, search=search), folder, Silent())
    run_search(spec_of(options, trials=11, search=search), folder, Silent())
    params = [tuple(sorted(t["params"].items())) for t in trials_of(folder.path) if t["params"]]
    assert len(params) == 9
    assert len(set(params)) == 9


def test_the_raw_space_proposes_a_method_and_a_rank_for_each_layer(
    options: dict[str, str], folder: StudyFolder
) -> None:
    search = {"methods": ["kfac", "svd"], "multiple": 2, "space": "per-layer", "refit": False}
    run_search(spec_of(options, trials=10, search=search), folder, Silent())
    last = trials_of(folder.path)[-1]
    assert sum(name.startswith("rank/") for name in last["params"]) == 12
    assert sum(name.startswith("method/") for name in last["params"]) == 12


def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_trials_without_a_specification_are_not_adopted(
    finished: Path, options: dict[str, str], tmp_path: Path
) -> None:
    path = copied(finished, tmp_path)
    (path / "study.yaml").unlink()
    with pytest.raises(UsageError, match=r"no study\.yaml"):
        run_search(spec_of(options), StudyFolder(path), Silent())


@pytest.mark.parametrize("name", ["result.json", "front.json"])
def test_damaged_derived_files_are_made_again(
    finished: Path, options: dict[str, str], tmp_path: Path, name: str
) -> None:
    path = copied(finished, tmp_path)
    before = json.loads((path / name).read_text())
    (path / name).write_text('{"winner": 3')
    run_search(spec_of(options), StudyFolder(path), Silent())
    assert json.loads((path / name).read_text()) == before


def test_the_nearest_of_an_unmet_floor_is_compressed(options: dict[str, str], folder: StudyFolder) -> None:
    spec = spec_of(options, budgets=["0.99x-flops"], floors=["accuracy>=1.0"], trials=4)
    result = run_search(spec, folder, Silent())
    assert result.winner != 0


def test_few_proposals_repeat_what_is_known(options: dict[str, str], folder: StudyFolder) -> None:
    search = {"methods": ["kfac", "svd", "losparse"], "multiple": 2, "refit": False}
    run_search(spec_of(options, trials=24, search=search), folder, Silent())
    trials = folder.load_study().trials
    assert not [t.number for t in trials if "same_as" in t.user_attrs]


def test_a_dense_trial_that_fails_is_run_again_and_does_not_keep_select_from_working(
    options: dict[str, str], folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, 0, RuntimeError("out of memory"))
    run_search(spec_of(options, trials=4), folder, Silent())
    for budget in ("0.6x-flops", "100M-params"):
        assert select_trial(folder, [budget]).constraints["0.6x-flops"] <= 0 or budget == "100M-params"
    run_search(spec_of(options, trials=6), folder, Silent())
    origins = [t.user_attrs.get("origin") for t in folder.load_study().trials if t.values]
    assert origins.count("dense") == 1


def test_a_result_says_how_many_trials_it_rests_on(finished: Path, options: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "fewer"
    shutil.copytree(finished, path)
    result = run_search(spec_of(options, trials=TRIALS - 3), StudyFolder(path), Silent())
    assert result.trials == TRIALS
