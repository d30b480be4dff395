"""Records of results: what they write they read, and files of earlier versions are read as they were meant."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from autolr.errors import UsageError
from autolr.optimization.study.folder import StudyFolder
from autolr.optimization.study.front import read_result, write_result
from autolr.optimization.study.summary import read_front
from autolr.records import Conditions, Score
from autolr.report.card import model_card
from autolr.report.front_table import front_table, result_table
from autolr.report.measurements import bench_table
from autolr.report.sentences import missed_limits, next_commands, recovery_sentence, result_lines
from autolr.results import Difference, Front, FrontMember, LatencyCheck, RecoveryNote, Report, StudyResult, Variant
from autolr.results.bench import Bench, TimedModel
from autolr.spec.study import make_spec
from autolr.workflows.export_trial import Exported

OLD_MEMBER = """{
 "trial": 7, "origin": "search",
 "candidate": {"encoder.layer.0.key": {"method": "kfac", "rank": 8, "rows": 0},
               "encoder.layer.0.query": {"method": "losparse", "rank": 4, "rows": 2}},
 "digest": "DIGEST",
 "costs": {"absolute": {"flops": 500, "params": 900, "nonembedding-params": 300, "memory": 3600},
           "ratio": {"flops": 0.5, "params": 0.9, "nonembedding-params": 0.6, "memory": 0.9},
           "conditions": {"batch_size": 8, "seq_len": 32, "dtype": "float32", "device": "cpu",
                          "threads": null, "lengths": [32, 9]}},
 "scores": {"accuracy": {"value": 0.9, "stderr": 0.02, "n": 200},
            "agreement": {"value": 0.95, "stderr": 0.01, "n": 200},
            "divergence": {"value": 0.0625, "stderr": 0.0078125, "n": 200}},
 "constraints": {"0.6x-flops": -0.16666666666666663, "accuracy>=0.8": -0.1}
"""
SELECTED = """,
 "selection": {"accuracy": {"value": 0.88, "stderr": 0.02, "n": 250},
  "agreement": {"value": 0.94, "stderr": 0.01, "n": 250},
               "divergence": {"value": 0.05, "stderr": 0.006, "n": 250}},
 "keeps_floors": true,
 "before_refit": {"accuracy": {"value": 0.87, "stderr": 0.02, "n": 250},
  "agreement": {"value": 0.93, "stderr": 0.01, "n": 250},
                  "divergence": {"value": 0.07, "stderr": 0.006, "n": 250}}
"""
OLD_RESULT = """{
 "winner": 7, "reached": true, "members": [MEMBER],
 "report": {
  "data": "dev.jsonl [report]",
  "dense": {"accuracy": {"value": 0.92, "stderr": 0.01, "n": 500},
  "agreement": {"value": 1.0, "stderr": 0.0, "n": 500},
            "divergence": {"value": 0.0, "stderr": 0.0, "n": 500}},
  "compressed": {"accuracy": {"value": 0.875, "stderr": 0.015, "n": 500},
  "agreement": {"value": 0.93, "stderr": 0.01, "n": 500},
                 "divergence": {"value": 0.055, "stderr": 0.005, "n": 500}},
  "accuracy_difference": {"value": -0.045, "stderr": 0.012, "n": 500},
  "accuracy_ratio": 0.9510869565217391,
  "refitted": 2,
  "majority": 0.34
 },
 "trials": 12, "checkpoint": "front/7"
}"""
"""As a study wrote it before optimism was measured and recoveries had names."""
DIGEST = "200b4bfccd27"
SPEC = make_spec({"budgets": ["0.6x-flops"], "floors": ["accuracy>=0.8"]}, "test")


@pytest.fixture
def old() -> dict:
    member = OLD_MEMBER.replace("DIGEST", DIGEST) + SELECTED + "}"
    return json.loads(OLD_RESULT.replace("MEMBER", member))


def held(part, whole) -> bool:
    """Whether everything in a plain form is in another one too."""
    if isinstance(part, dict):
        return all(key in whole and held(value, whole[key]) for key, value in part.items())
    if isinstance(part, list):
        return len(part) == len(whole) and all(held(a, b) for a, b in zip(part, whole, strict=True))
    return part == whole


def test_a_result_of_an_earlier_version_is_read(old: dict) -> None:
    result = StudyResult.from_json(old)
    winner = result.winning
    assert winner.variant == Variant(winner.candidate, "refit")
    assert winner.selected.before_recovery["divergence"] == Score(0.07, 0.006, 250)
    assert winner.cost.conditions.lengths == (32, 9)
    assert result.report.recovery.layers == 2
    assert result.report.differences == {"accuracy": Score(-0.045, 0.012, 500)}
    assert result.report.headline == "accuracy"
    assert (result.report.optimism, result.report.search, result.report.latency) == (None, None, None)
    assert held(old, json.loads(json.dumps(result.to_json())))
    assert StudyResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_its_sentences_are_those_it_had(old: dict, tmp_path: Path) -> None:
    result = StudyResult.from_json(old)
    lines = list(result_lines(result, SPEC, tmp_path))
    assert lines[0] == ("Winner: trial 7 at 0.500x flops of the dense model (a batch of 8 x 32 tokens, float32).")
    assert lines[1] == (
        "On dev.jsonl [report], 500 pairs that nothing was chosen on: dense 92.0 ± 1.0 %, compressed 87.5 ± 1.5 % "
        "(standard errors); difference -4.5 ± 1.2 points; 95.1 % of dense is kept. Nothing was trained; 2 layers were "
        "refitted by least squares."
    )
    assert lines[2] == (
        "Divergence of the winner: search part 0.0625, selection part 0.07, after refit, selection part 0.05, report "
        "part 0.055."
    )
    assert list(missed_limits(result, SPEC)) == []


def test_an_overlap_is_said_where_the_figure_stands(old: dict, tmp_path: Path) -> None:
    result = StudyResult.from_json(old)
    assert "overlap" not in result.report.to_json()
    overlapping = replace(result.report, overlap=224)
    assert Report.from_json(json.loads(json.dumps(overlapping.to_json()))) == overlapping
    said = "that nothing was chosen on, of which 224 are also among those calibrated or chosen on"
    assert f"500 pairs {said}: dense" in list(result_lines(replace(result, report=overlapping), SPEC, tmp_path))[1]
    card = model_card("dense", result.winning, overlapping, None, "divergence", "Load it.", True)
    assert f"on data {said} (dev.jsonl [report]):" in card


def test_what_is_missed_is_named(old: dict) -> None:
    result = StudyResult.from_json(old)
    late = LatencyCheck(9.0, 0.75, (0.7, 0.8), ((0.75, 0.74, 0.76),), within=False)
    over = replace(
        result.winning,
        constraints={"0.6x-flops": 0.25, "accuracy>=0.8": 0.05},
        selection=replace(result.winning.selected, keeps_floors=False),
    )
    missed = list(missed_limits(replace(result, members=(over,), report=replace(result.report, latency=late)), SPEC))
    assert missed == [
        "0.6x-flops is missed by 25.0 %",
        "accuracy>=0.8 is missed by 5.0 points on the search part, before the refit",
        "the checkpoint takes 0.750x of the dense model's time",
    ]


def test_what_is_to_be_typed_next_works_as_it_stands(
    old: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-model").mkdir()
    data = {"premise_column": "first one", "templates": ["{premise}?", "{hypothesis}!"], "words": ["a", "b", "c"]}
    spec = make_spec({"budgets": ["0.6x-flops"], "data": data, "run": {"trust_remote_code": True}}, "test")
    _, export, evaluate, _ = next_commands(StudyResult.from_json(old), spec, Path("s"))
    assert export == "autolr export s --trial 7 --out my-model-2"
    assert evaluate == (
        "autolr eval s/front/7 --task nli --premise-column 'first one' --template '{premise}?' --template "
        "'{hypothesis}!' --words a,b,c --trust-remote-code --data FILE"
    )


@pytest.mark.parametrize(("gap", "said"), [(-0.013, "0.013 ± 0.053 nats less"), (0.2, "0.2 ± 0.053 nats more")])
def test_what_is_lost_is_more_or_less_by_its_sign(old: dict, tmp_path: Path, gap: float, said: str) -> None:
    result = StudyResult.from_json(old)
    report = replace(result.report, optimism={"divergence": Difference(gap, 0.053)})
    line = next(one for one in result_lines(replace(result, report=report), SPEC, tmp_path) if "loses" in one)
    assert f"against the dense model is {said} on the report part than on the search part" in line


def test_the_ratio_of_a_bench_is_said_to_be_of_paired_times() -> None:
    model = TimedModel(0.004, 0.0039, 0.0041, 1.0, 0.9, 1.1, 5, settled=True, model="a")
    caption = bench_table(Bench(Conditions(8, 32, "float32"), "torch", (model,))).caption
    assert "in the same round; not the ratio of the medians" in caption


def test_a_member_and_an_export_are_printed_in_a_line(old: dict) -> None:
    member = StudyResult.from_json(old).winning
    costs = "0.500x flops, 0.900x params, 0.600x nonembedding-params, 0.900x memory"
    assert str(member) == (
        f"trial 7 (search): {costs}; on the search part accuracy 0.9 ± 0.02, agreement 0.95 ± 0.01, divergence "
        "0.0625 ± 0.008"
    )
    assert str(Exported(member, False, Path("small"), "hf", 0.0)) == (
        f"trial 7 ({costs}) at small as hf; logits of the reloaded checkpoint differ by 0"
    )


def test_training_is_not_denied() -> None:
    said = recovery_sentence(RecoveryNote("distil", 3, "distilled from the dense model", trains=True))
    assert said == "3 layers were distilled from the dense model."


def test_a_damaged_result_is_none_at_all(old: dict, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    assert read_result(folder) is None
    write_result(folder, StudyResult.from_json(old))
    assert read_result(folder) == StudyResult.from_json(old)
    del old["report"]["dense"]
    folder.result_file.write_text(json.dumps(old))
    assert read_result(folder) is None


def test_a_front_of_an_earlier_version_is_read_with_its_scores_on_the_selection_part(old: dict, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    with pytest.raises(UsageError, match="no finished trial yet"):
        read_front(folder)
    member = json.loads(OLD_MEMBER.replace("DIGEST", DIGEST) + "}")
    plain = {"objectives": ["divergence", "flops ratio"], "budgets": ["0.6x-flops"], "floors": [], "members": [member]}
    folder.front_file.write_text(json.dumps(plain | {"scored_on": "search part"}))
    front = read_front(folder)
    assert (front.winner, front.members[0].selection) == (None, None)
    assert held(plain, json.loads(json.dumps(front.to_json())))
    assert Front.from_json(json.loads(json.dumps(front.to_json()))) == front
    write_result(folder, StudyResult.from_json(old))
    front = read_front(folder)
    assert front.winner == 7
    assert front.to_json()["members"][0]["selection"] == old["members"][0]["selection"]
    assert front_table(front).row_count == 1


def test_the_footnote_says_on_which_members_the_refit_was_tried(old: dict) -> None:
    result = StudyResult.from_json(old)
    truncated = replace(result.winning, trial=8, variant=Variant(result.winning.candidate))
    both = replace(result, members=(result.winning, truncated))
    counted = "the refit was tried on the 2 best members there alone and is counted where that was better (trial 7); "
    assert counted in result_table(both, SPEC).caption
    assert "on the only member and was better for none; " in _caption(replace(result, members=(truncated,)))
    without = SPEC.model_copy(update={"search": SPEC.search.model_copy(update={"refit": False})})
    assert "refit" not in result_table(both, without).caption


def _caption(result: StudyResult) -> str:
    return str(result_table(result, SPEC).caption)


@pytest.mark.parametrize("width", [80, 160])
def test_the_front_has_a_column_for_each_budgeted_quantity(old: dict, width: int) -> None:
    result = StudyResult.from_json(old)
    budgets = ("0.7x-nonembedding-params", "400MB-memory")
    spec = SPEC.model_copy(update={"budgets": budgets, "search": SPEC.search})
    for table in (result_table(result, spec), front_table(Front((), result.members, budgets=budgets))):
        assert [str(column.header) for column in table.columns][2:6] == ["FLOPs", "params", "nonemb. params", "memory"]
        console = Console(width=width, file=io.StringIO())
        console.print(table)
        text = console.file.getvalue()
        assert re.search(r"0\.500 +0\.900 +0\.600 +0\.900", text)
        assert "FLOPs, params, nonemb. params, memory: ratio to dense" in " ".join(text.split())
    assert "memory" not in [str(column.header) for column in result_table(result, SPEC).columns]


def test_a_recovered_copy_is_another_point(old: dict) -> None:
    plain = FrontMember.from_json(json.loads(OLD_MEMBER.replace("DIGEST", DIGEST) + "}"))
    copy = replace(plain, variant=Variant(plain.candidate, "refit"))
    assert plain.variant.digest == plain.candidate.digest != copy.variant.digest
    assert FrontMember.from_json(copy.to_json()) == copy
    assert "recovery" not in plain.to_json()
