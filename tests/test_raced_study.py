"""A study whose search part is large enough for races: stops are right, cheap, resumable, and proposed in batches."""

import json
from pathlib import Path

import optuna
import pytest
from nli_fixture import write_model, write_pairs
from optuna.trial import TrialState

from autolr.errors import Stopped
from autolr.optimization.sampler.history import ESTIMATE, STDERR
from autolr.optimization.scorers import scorer_of
from autolr.optimization.study.driver import Driver
from autolr.optimization.study.folder import StudyFolder
from autolr.optimization.study.front import front_trials
from autolr.optimization.study.proposals import MOST, needed
from autolr.optimization.study.summary import summarize
from autolr.progress import Silent
from autolr.report.sentences import result_lines
from autolr.results import StudyResult
from autolr.spec.study import make_spec
from autolr.types import Candidate
from autolr.workflows.search import open_study, run_search
from autolr.workflows.select import score_candidate

TRIALS, EXAMPLES, BATCH = 24, 400, 3


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("inputs")
    plain = {
        "model": str(write_model(folder / "model")),
        "data": {
            "train": str(write_pairs(folder / "train.jsonl", 120)),
            "validation": str(write_pairs(folder / "validation.jsonl", 900, 180)),
            "test": str(write_pairs(folder / "test.jsonl", 60, 1100)),
            "search_examples": EXAMPLES,
            "selection_examples": 60,
        },
        "budgets": ["0.6x-flops"],
        "trials": TRIALS,
        "search": {"methods": ["kfac", "svd", "losparse"], "multiple": 2, "refit": False, "proposals": BATCH},
    }
    return make_spec(plain, "test")


@pytest.fixture(scope="module")
def raced(spec, tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    folder = StudyFolder(tmp_path_factory.mktemp("raced") / "study")
    run_search(spec, folder, Silent(), checkpoint=False)
    return folder


def beside(raced: StudyFolder, directory: Path) -> StudyFolder:
    """Return the folder of another study that shares the bank."""
    folder = StudyFolder(directory / "study")
    folder.bank = raced.bank
    return folder


def rows_of(folder: StudyFolder) -> list[tuple]:
    trials = folder.load_study().trials
    return [
        (t.number, t.state, t.values, t.params, t.user_attrs.get(ESTIMATE), t.user_attrs.get(STDERR)) for t in trials
    ]


def test_some_candidates_are_stopped_and_none_of_them_belongs_to_the_front(raced: StudyFolder) -> None:
    study, opened = raced.load_study(), open_study(raced, Silent())
    stopped = [t for t in study.trials if t.state == TrialState.PRUNED]
    assert len(stopped) >= 5
    scorer = scorer_of(opened.inputs, opened.bank, "search", Silent())
    right = 0
    for trial in stopped:
        candidate = Candidate.from_json(trial.user_attrs["candidate"])
        true = score_candidate(opened.inputs, opened.bank, candidate, scorer, Silent())["divergence"].value
        estimate, stderr = (trial.user_attrs[ESTIMATE][name][0] for name in ("values", "stderr"))
        assert trial.user_attrs["scores"]["divergence"]["n"] < EXAMPLES
        assert abs(estimate - true) < 5 * stderr + 1e-6
        rival = study.trials[trial.user_attrs["stopped_by"]]
        assert rival.state == TrialState.COMPLETE
        assert rival.values[1] <= trial.user_attrs[ESTIMATE]["values"][1] * 1.005
        right += true > rival.values[0]
    assert right >= 0.9 * len(stopped)
    assert not {t.number for t in stopped} & {t.number for t in front_trials(study)}


def test_a_race_spares_examples_and_says_so(raced: StudyFolder) -> None:
    files = [json.loads(path.read_text()) for path in (raced.path / "trials").glob("*.json")]
    seen = [f["scores"]["divergence"]["n"] for f in files if f["candidate"] and "same_as" not in f]
    assert sum(seen) < 0.9 * EXAMPLES * len(seen)
    found = summarize(raced)
    assert found.finished
    assert found.trials["stopped"] + found.trials["complete"] == TRIALS
    assert found.trials["stopped"] == sum("stopped_by" in f for f in files)


def test_scores_on_everything_carry_the_error_by_which_they_differ(raced: StudyFolder) -> None:
    complete = [t for t in raced.load_study().trials if t.state == TrialState.COMPLETE]
    assert complete[0].user_attrs[STDERR] == [0.0, 0.0]  # the dense model
    assert complete[1].user_attrs[STDERR] == [0.0, 0.0]  # what the others are compared with
    for trial in complete[2:]:
        paired, plain = trial.user_attrs[STDERR][0], trial.user_attrs["scores"]["divergence"]["stderr"]
        assert paired > 0
        assert paired < 2 * plain + complete[1].user_attrs["scores"]["divergence"]["stderr"]


def test_candidates_come_in_batches_that_do_not_repeat(raced: StudyFolder) -> None:
    trials = raced.load_study().trials
    first = [t for t in trials if "batch" in t.user_attrs]
    assert first
    for trial in first:
        batch = trial.user_attrs["batch"]
        assert len(batch) <= BATCH
        for place, params in enumerate(batch[1:], start=1):
            assert trials[trial.number + place].params == params
            assert trials[trial.number + place].user_attrs["place"] == [trial.number, place]
    assert not [t for t in trials if t.state == TrialState.WAITING]
    repeats = [t.number for t in trials if "same_as" in t.user_attrs]
    assert len(repeats) <= 2  # so small a model has few different allocations


@pytest.mark.parametrize(
    "checks", [pytest.param(40, marks=pytest.mark.slow), pytest.param(75, marks=pytest.mark.slow), 110]
)
def test_a_study_that_was_stopped_anywhere_ends_as_the_uninterrupted_one(
    spec, raced: StudyFolder, tmp_path: Path, checks: int
) -> None:
    class StopAfter(Silent):
        left = checks

        def check(self) -> None:
            self.left -= 1
            if self.left < 0:
                raise Stopped("enough")

    folder = beside(raced, tmp_path)
    with pytest.raises(Stopped):
        run_search(spec, folder, StopAfter(), checkpoint=False)
    run_search(spec, folder, Silent(), checkpoint=False)
    assert rows_of(folder) == rows_of(raced)


def test_a_kill_between_the_members_of_a_batch_loses_none(
    spec, raced: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = beside(raced, tmp_path)
    enqueue, calls = optuna.Study.enqueue_trial, iter(range(1000))

    def killed(self, params, user_attrs=None, **options):
        if "place" in (user_attrs or {}) and next(calls) == 1:
            raise KeyboardInterrupt
        enqueue(self, params, user_attrs=user_attrs, **options)

    monkeypatch.setattr(optuna.Study, "enqueue_trial", killed)
    with pytest.raises(KeyboardInterrupt):
        run_search(spec, folder, Silent(), checkpoint=False)
    monkeypatch.undo()
    run_search(spec, folder, Silent(), checkpoint=False)
    assert rows_of(folder) == rows_of(raced)


def test_lost_answers_of_a_rival_are_scored_anew(
    spec, raced: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = beside(raced, tmp_path)
    step, calls = Driver._step, iter(range(1000))

    def some(self, trial):
        if next(calls) == 14:
            raise Stopped("enough")
        return step(self, trial)

    monkeypatch.setattr(Driver, "_step", some)
    with pytest.raises(Stopped):
        run_search(spec, folder, Silent(), checkpoint=False)
    monkeypatch.undo()
    for path in (folder.path / "trials").glob("*.safetensors"):
        path.unlink()
    run_search(spec, folder, Silent(), checkpoint=False)
    assert [row[:2] for row in rows_of(folder)] == [row[:2] for row in rows_of(raced)]


def test_without_racing_everything_is_scored_on_everything(spec, raced: StudyFolder, tmp_path: Path) -> None:
    search = spec.search.model_copy(update={"racing": False, "sampler": "random"})
    folder = beside(raced, tmp_path)
    run_search(spec.model_copy(update={"search": search, "trials": 12}), folder, Silent(), checkpoint=False)
    trials = folder.load_study().trials
    assert {t.state for t in trials} == {TrialState.COMPLETE}
    assert {t.user_attrs["scores"]["divergence"]["n"] for t in trials} == {EXAMPLES}


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_other_samplers_live_with_stopped_trials(spec, raced: StudyFolder, tmp_path: Path, sampler: str) -> None:
    search = spec.search.model_copy(update={"sampler": sampler})
    folder = beside(raced, tmp_path)
    run_search(spec.model_copy(update={"search": search, "trials": 16}), folder, Silent(), checkpoint=False)
    assert TrialState.PRUNED in {t.state for t in folder.load_study().trials}


def test_the_result_says_what_choosing_on_the_search_part_flattered(spec, raced: StudyFolder) -> None:
    result = raced.result()
    assert result is not None
    winner = next(one for one in result["members"] if one["trial"] == result["winner"])
    optimism, report = result["report"]["optimism"], result["report"]["compressed"]
    expected = report["divergence"]["value"] - winner["scores"]["divergence"]["value"]
    assert optimism["divergence"]["value"] == pytest.approx(expected, abs=1e-6)
    assert optimism["divergence"]["stderr"] > winner["scores"]["divergence"]["stderr"]
    assert any(
        " on the report part than on the search part" in line
        for line in result_lines(StudyResult.from_json(result), spec, raced.path)
    )


def test_more_proposals_at_once_where_trials_are_shorter() -> None:
    found = [needed(seconds) for seconds in (100.0, 5.0, 2.0, 1.0, 0.1)]
    assert found == sorted(found)
    assert found[0] == 1
    assert found[-1] == MOST
