"""Budgets, floors and specifications: every form that is allowed means what it says, everything else is refused."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autolr.errors import UsageError
from autolr.spec.budgets import Budget, Floor
from autolr.spec.plain import flatten, read_yaml
from autolr.spec.spaces import load_space_config
from autolr.spec.study import CrewSpec, StudySpec, make_spec
from autolr.types import QUANTITIES, Conditions, Cost

DENSE = Cost(flops=1000, params=200, nonembedding_params=100, memory=800, conditions=Conditions(8, 64, "float32"))


@pytest.mark.parametrize(
    ("text", "quantity", "value", "relative"),
    [
        ("0.5x-flops", "flops", 0.5, True),
        (".5x-flops", "flops", 0.5, True),
        ("1x-memory", "memory", 1.0, True),
        ("1.0x-params", "params", 1.0, True),
        ("50%-params", "params", 0.5, True),
        ("33.3%-nonembedding-params", "nonembedding-params", 0.333, True),
        ("100%-flops", "flops", 1.0, True),
        ("-30%-flops", "flops", 0.7, True),
        ("-0.3x-flops", "flops", 0.7, True),
        ("-0%-flops", "flops", 1.0, True),
        (" 0.5x-flops ", "flops", 0.5, True),
        ("400MB-memory", "memory", 400e6, False),
        ("1.5GB-memory", "memory", 1.5e9, False),
        ("64kB-memory", "memory", 64e3, False),
        ("64KB-memory", "memory", 64e3, False),
        ("123B-memory", "memory", 123.0, False),
        ("400M-memory", "memory", 400e6, False),
        ("2.5G-flops", "flops", 2.5e9, False),
        ("1T-flops", "flops", 1e12, False),
        ("10M-params", "params", 10e6, False),
        ("10000000-params", "params", 1e7, False),
        ("5k-nonembedding-params", "nonembedding-params", 5e3, False),
        ("0.5x-latency", "latency", 0.5, True),
        ("-30%-latency", "latency", 0.7, True),
        ("12ms-latency", "latency", 12.0, False),
        ("1.5s-latency", "latency", 1500.0, False),
        ("800us-latency", "latency", 0.8, False),
        ("2x-throughput", "latency", 0.5, True),
    ],
)
def test_every_form_of_a_budget(text, quantity, value, relative):
    assert Budget.parse(text) == Budget(text.strip(), quantity, value, relative)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "malformed budget ''"),
        ("0.5", "malformed budget"),
        ("flops", "malformed budget"),
        ("0.5xflops", "malformed budget"),
        ("0.5x flops", "malformed budget"),
        ("0,5x-flops", "malformed budget"),
        ("5.x-flops", "malformed budget"),
        ("1e9-flops", "malformed budget"),
        ("+50%-flops", "malformed budget"),
        ("--30%-flops", "malformed budget"),
        ("0.5X-flops", "malformed budget"),
        ("400mb-memory", "malformed budget"),
        ("0.5x-FLOPS", "malformed budget"),
        ("nan-flops", "malformed budget"),
        ("0.5x-flops\n0.5x-params", "malformed budget"),
        ("0.5x-flop", r"unknown quantity 'flop' in budget '0\.5x-flop'; did you mean flops\?"),
        ("0.5x-parameters", r"did you mean params\?"),
        ("0.5ms-flops", "gives flops in ms; only latency is a time"),
        ("5-latency", "gives latency in no unit; write 12ms-latency"),
        ("400MB-latency", "gives latency in MB"),
        ("0ms-latency", "allows no time at all"),
        ("-2ms-latency", "a reduction must be relative, such as -30%-latency"),
        ("0.5x-throughput", "throughput is given as a multiple of the dense model's, at least 1"),
        ("50%-throughput", "at least 1, as 2x-throughput"),
        ("1.5x-flops", r"is 1\.5 of the dense model; it must lie in \(0, 1\]"),
        ("150%-flops", r"is 1\.5 of the dense model"),
        ("0x-flops", "is 0 of the dense model"),
        ("0%-flops", "is 0 of the dense model"),
        ("-100%-flops", "is 0 of the dense model"),
        ("-130%-flops", r"is -0\.3 of the dense model"),
        ("-400MB-memory", "a reduction must be relative, such as -30%-memory"),
        ("-10-params", "a reduction must be relative, such as -30%-params"),
        ("400MB-params", "counts params in bytes; only memory is, write 400M-params"),
        ("0-flops", "allows 0 flops; it must allow at least 1$"),
        ("0MB-memory", "it must allow at least 1$"),
        ("0.5-flops", r"at least 1; a share of the dense model is written 0\.5x-flops"),
    ],
)
def test_a_malformed_budget_says_what_is_wrong(text, complaint):
    with pytest.raises(UsageError, match=complaint) as caught:
        Budget.parse(text)
    assert repr(text) in str(caught.value)


@given(percent=st.integers(1, 100), whole=st.integers(1, 10**6), quantity=st.sampled_from(QUANTITIES))
def test_a_share_is_the_decimal_that_was_written(percent, whole, quantity):
    """A candidate at exactly the share is within the budget and one unit more is not, whatever binary fractions say."""
    dense = Cost(*[100 * whole] * 4, DENSE.conditions)
    for text in (f"{percent}%-{quantity}", f"{percent / 100}x-{quantity}", f"-{100 - percent}%-{quantity}"):
        budget = Budget.parse(text)
        assert budget.limit(dense) == percent * whole


def test_an_absolute_budget_is_what_it_says():
    budget = Budget.parse("500-flops")
    assert budget.limit(DENSE) == 500


@pytest.mark.parametrize(
    ("text", "metric", "value", "relative"),
    [
        ("accuracy>=0.98*dense", "accuracy", 0.98, True),
        ("accuracy >= 0.98 * dense", "accuracy", 0.98, True),
        ("accuracy>=0.8", "accuracy", 0.8, False),
        ("agreement>=.9", "agreement", 0.9, False),
        (" agreement>=1 ", "agreement", 1.0, False),
    ],
)
def test_every_form_of_a_floor(text, metric, value, relative):
    floor = Floor.parse(text)
    assert floor == Floor(text.strip(), metric, value, relative)
    assert floor.threshold(0.5) == (value * 0.5 if relative else value)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("perplexity<=1.1*dense", 1.0953),
        ("perplexity<=2.99", 1.0952),
        ("loss<=1.1*dense", 1.0999),
        ("loss<=1.5", 1.4999),
    ],
)
def test_of_a_loss_the_floor_is_a_ceiling(text: str, kept: float):
    """The dense model's loss is one nat."""
    floor = Floor.parse(text)
    assert floor.score == "loss"
    assert floor.shortfall(kept, 1.0) <= 0 < floor.shortfall(kept + 2e-4, 1.0)
    assert floor.shortfall(kept + 1, 1.0) == pytest.approx(1, abs=1e-3)


def test_a_ceiling_of_the_loss_is_of_language_models():
    with pytest.raises(UsageError, match=r"floor perplexity<=20 is of task lm; the task is nli"):
        make_spec({"budgets": ["0.5x-flops"], "floors": ["perplexity<=20"]}, "options")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "malformed floor"),
        ("accuracy", "malformed floor"),
        ("accuracy>0.8", "malformed floor"),
        ("accuracy<=0.8", "of accuracy more is better; turn the sign round"),
        ("perplexity>=20", "of perplexity less is better; turn the sign round"),
        ("loss<=0", r"is 0; it must be above 0"),
        ("accuracy>=98%", "malformed floor"),
        ("accuracy>=-0.5", "malformed floor"),
        ("accuracy>=0.9*dense*dense", "malformed floor"),
        ("acuracy>=0.8", r"unknown metric 'acuracy' .*did you mean accuracy\?"),
        ("divergence>=0.1", "unknown metric 'divergence'"),
        ("accuracy>=1.2", r"is 1\.2; it must lie in \(0, 1\]"),
        ("accuracy>=98", r"is 98; it must lie in \(0, 1\]"),
        ("accuracy>=0", r"is 0; it must lie in \(0, 1\]"),
        ("accuracy>=1.01*dense", r"is 1\.01; it must lie in \(0, 1\]"),
    ],
)
def test_a_malformed_floor_says_what_is_wrong(text, complaint):
    with pytest.raises(UsageError, match=complaint):
        Floor.parse(text)


def test_the_smallest_specification_and_its_defaults():
    spec = make_spec({"budgets": ["0.5x-flops"]}, "options")
    assert spec == StudySpec(budgets=("0.5x-flops",))
    assert spec.model is None
    assert spec.parsed_budgets == (Budget.parse("0.5x-flops"),)
    assert spec.parsed_floors == ()


def test_a_specification_survives_its_plain_form():
    plain = {
        "model": "somewhere",
        "budgets": ["0.5x-flops", "400MB-memory"],
        "floors": ["accuracy>=0.98*dense"],
        "time_limit": 60,
        "search": {"methods": ["svd"], "exclude": ["*pooler*"]},
        "data": {"label_names": ["a", "b", "c"]},
        "run": {"threads": 2},
    }
    spec = make_spec(plain, "options")
    assert spec.search.methods == ("svd",)
    assert spec.time_limit == 60.0
    assert make_spec(spec.model_dump(mode="json"), "again") == spec


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"budgets": []}, "budgets: .*at least 1 item"),
        ({"budgets": "0.5x-flops"}, "budgets: .*valid (tuple|array)"),
        ({"bugdets": ["0.5x-flops"]}, "unknown key 'bugdets' at the top level; did you mean budgets"),
        ({"search": {"method": ["svd"]}}, r"unknown key 'method' in search; did you mean methods\?"),
        ({"search": {"methods": []}}, r"search\.methods: .*at least 1 item"),
        (
            {"search": {"objective": "speed"}},
            r"search\.objective: unknown score 'speed'; known: accuracy, agreement, divergence, loss",
        ),
        ({"search": {"multiple": 0}}, r"search\.multiple: .*greater than or equal to 1 \(got 0\)"),
        ({"search": {"multiple": "8"}}, r"search\.multiple: .*valid integer \(got '8'\)"),
        ({"search": {"multiple": 8.5}}, r"search\.multiple: .*integer"),
        ({"run": {"threads": 100000}}, r"run\.threads: must be less than or equal to 1024 \(got 100000\)"),
        ({"trials": True}, "trials: .*valid integer"),
        ({"trials": 0}, "trials: "),
        ({"seed": -1}, "seed: "),
        ({"time_limit": 0}, "time_limit: .*greater than 0"),
        ({"time_limit": float("nan")}, "time_limit: "),
        ({"task": "translation"}, r"task: unknown task 'translation'; known: lm, nli \(got 'translation'\)"),
        ({"run": {"dtype": "int8"}}, r"run\.dtype: .*'float32', 'bfloat16' or 'float16'"),
        ({"run": {"offline": "yes"}}, r"run\.offline: .*valid boolean"),
        ({"run": None}, "run: "),
        ({"data": {"search_examples": 1}}, r"data\.search_examples: .*greater than or equal to 2"),
    ],
)
def test_a_wrong_specification_names_the_field_the_rule_and_the_value(change, complaint):
    with pytest.raises(UsageError, match=f"my.yaml: .*{complaint}"):
        make_spec({"budgets": ["0.5x-flops"], **change}, "my.yaml")


@pytest.mark.parametrize(("field", "text"), [("budgets", "half"), ("floors", "accuracy>0.9")])
def test_a_malformed_budget_or_floor_in_a_specification_is_found_while_it_is_read(field, text):
    with pytest.raises(UsageError, match=f"malformed {field[:-1]} '{text}'"):
        make_spec({"budgets": ["0.5x-flops"], field: [text]}, "my.yaml")


def test_every_finding_is_reported_at_once():
    with pytest.raises(UsageError) as caught:
        make_spec({"budgets": ["0.5x-flops"], "trials": 0, "seed": -1, "foo": 1}, "options")
    assert all(name in str(caught.value) for name in ("trials", "seed", "foo"))


def test_an_unknown_key_is_answered_with_the_nearest_of_its_place():
    plain = {"budgets": ["0.5x-flops"], "data": {"trian": "a"}, "search": {"metods": ["svd"]}, "nothing-like-it": 1}
    with pytest.raises(UsageError) as caught:
        make_spec(plain, "study.yaml")
    assert "unknown key 'trian' in data; did you mean train?" in str(caught.value)
    assert "unknown key 'metods' in search; did you mean methods?" in str(caught.value)
    assert "unknown key 'nothing-like-it' at the top level; known: budgets, crew, data" in str(caught.value)


@pytest.mark.parametrize("content", ["[1, 2]", "7", "", "text"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, content):
    path = tmp_path / "study.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match="the specification: "):
        make_spec(read_yaml(path), "study.yaml")


def test_yaml_is_read_as_plain_values(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("budgets:\n  - 0.5x-flops\nsearch: {methods: [svd, afm]}\nmodel: null\n")
    spec = make_spec(read_yaml(path), "study.yaml")
    assert spec.search.methods == ("svd", "afm")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("budgets: [0.5x-flops", "is not YAML"),
        ("a: 1\n\tb: 2", "is not YAML"),
        ("model: !!python/object/apply:os.system [echo]", "is not YAML: could not determine a constructor"),
        ("trials: 5\nbudgets: [0.5x-flops]\ntrials: 50\n", "is not YAML: given twice: trials"),
        ("run: {batch_size: 1, batch_size: 2}", "given twice: batch_size"),
        (b"\xff\xfe\x00", "is not YAML"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_refused(tmp_path, content, complaint):
    """Broken YAML, code in YAML, a key given twice (of which YAML would silently keep the last), no text at all."""
    path = tmp_path / "study.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=re.escape(str(path)) + f"(.|\n)*{complaint}"):
        read_yaml(path)


def test_yaml_merges_are_not_keys_given_twice(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("base: &base {a: 1}\nother: &other {b: 2}\nboth:\n  <<: *base\n  c: 3\n")
    assert read_yaml(path)["both"] == {"a": 1, "c": 3}


@pytest.mark.parametrize("value", ["2026-01-01", "!!set {a, b}"])
def test_yaml_values_that_json_does_not_know_are_refused(tmp_path, value):
    path = tmp_path / "study.yaml"
    path.write_text(f"budgets: [0.5x-flops]\nmodel: {value}\n")
    with pytest.raises(UsageError, match=r"study\.yaml: model: only numbers, texts, lists and mappings are allowed"):
        make_spec(read_yaml(path), "study.yaml")


def test_a_list_that_contains_itself_is_refused():
    loop = [1]
    loop.append(loop)
    with pytest.raises(UsageError, match="only numbers, texts, lists and mappings are allowed"):
        make_spec({"budgets": loop}, "study.yaml")


def test_a_message_repeats_no_more_than_the_beginning_of_a_value(tmp_path):
    """A few lines of YAML stand for millions of values."""
    path = tmp_path / "space.yaml"
    lines = ["a: &a [x,x,x,x,x,x,x,x]", *(f"{b}: &{b} [{','.join([f'*{a}'] * 8)}]" for a, b in pairwise("abcdef"))]
    path.write_text("\n".join(lines))
    with pytest.raises(UsageError, match="must name its kind") as refused:
        load_space_config(str(path))
    assert len(str(refused.value)) < 600
    with pytest.raises(UsageError, match=r"multiple: must be a valid integer \(got \[") as refused:
        make_spec({"budgets": ["0.5x-flops"], "search": {"multiple": read_yaml(path)["d"]}}, "study.yaml")
    assert len(str(refused.value)) < 400


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read .*nothing\.yaml: No such file"):
        read_yaml(tmp_path / "nothing.yaml")


def test_identity_is_all_but_how_long_to_search():
    spec = make_spec({"budgets": ["0.5x-flops"]}, "options")
    longer = spec.model_copy(update={"trials": 99, "time_limit": 5.0, "crew": CrewSpec(workers=4)})
    assert longer.identity() == spec.identity()
    assert "trials" not in spec.identity()
    stored = {"storage": "postgresql://me@host/db"}
    for update in ({"seed": 1}, {"model": "x"}, stored, {"budgets": ("0.4x-flops",)}, {"floors": ("accuracy>=0.5",)}):
        assert spec.model_copy(update=update).identity() != spec.identity()
    names = {name for name, _ in flatten(spec.model_dump(mode="json"))}
    left_out = {name for name in names if name.startswith("crew.")} | {
        "trials",
        "time_limit",
        "storage",
        "run.remeasure",
    }
    assert set(spec.identity()) == names - left_out


def test_specifications_do_not_change_once_made():
    spec = make_spec({"budgets": ["0.5x-flops"]}, "options")
    with pytest.raises(ValueError, match="frozen"):
        spec.trials = 7
