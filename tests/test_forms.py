"""The laws of forms, how choices are stored, and the tables of a candidate."""

import json

import pytest
import torch
from tiny import sized

from autolr.checkpoint.runtime.layers import CompressedLinear
from autolr.errors import UsageError
from autolr.forms import FORMS, conformance, get_forms
from autolr.forms.layer_table import as_markdown, layer_table
from autolr.forms.low_rank import LowRank
from autolr.records import Candidate, Choice


@pytest.mark.parametrize("name", FORMS.names())
@pytest.mark.parametrize("seed", [0, 1])
def test_every_form_obeys_the_laws(name, seed):
    conformance.check(FORMS.get(name), seed=seed)


class Dearer(LowRank):
    """Says that it has fewer weights than it has."""

    def weights(self, unit, choice):
        return super().weights(unit, choice) - 1 if choice["rank"] else 0


class Optimistic(LowRank):
    """Says that it errs less than it does."""

    def options(self, given, multiple):
        choices, errors = super().options(given, multiple)
        return choices, errors / 2


class Biased(LowRank):
    """Forgets the mean of what it cuts away."""

    def build(self, given, choice, like):
        layer = super().build(given, choice, like)
        with torch.no_grad():
            layer.bias.zero_()
        return layer


@pytest.mark.parametrize(
    ("form", "law"), [(Dearer, "weights beside"), (Optimistic, "error is"), (Biased, "mean input")]
)
def test_what_breaks_a_law_is_told_which(form, law):
    with pytest.raises(AssertionError, match=law):
        conformance.check(form())


def test_candidates_are_stored_as_they_were_before_forms_had_names():
    candidate = Candidate.of({"a": sized("svd", 8), "b": sized("losparse", 4, 2), "c": sized("svd", 0)})
    plain = json.loads(json.dumps(candidate.to_json()))
    assert plain == {
        "a": {"method": "svd", "rank": 8, "rows": 0},
        "b": {"method": "losparse", "rank": 4, "rows": 2},
        "c": {"method": "svd", "rank": 0, "rows": 0},
    }
    assert Candidate.from_json(plain) == candidate
    other = Candidate.of({"a": Choice.of("blocks", "svd", blocks=4, rank=2)})
    assert other.to_json() == {"a": {"form": "blocks", "method": "svd", "blocks": 4, "rank": 2}}
    assert Candidate.from_json(other.to_json()) == other


def test_an_unknown_form_names_the_nearest():
    with pytest.raises(UsageError, match=r"unknown form 'low-rang'; did you mean low-rank"):
        get_forms(["low-rank", "low-rang"])


def test_a_candidates_table_has_the_sizes_of_its_forms():
    candidate = Candidate.of({"a": sized("svd", 8), "b": sized("losparse", 4, 2)})
    table = layer_table(candidate)
    assert table == [["layer", "method", "rank", "rows kept dense"], ["a", "svd", "8", ""], ["b", "losparse", "4", "2"]]
    assert as_markdown(table)[1:3] == ["|---|---|---|---|", "| a | svd | 8 |  |"]
    assert FORMS.get("low-rank-rows").describe(sized("losparse", 4, 2)) == "rank 4, rows kept dense 2"


def test_a_layer_that_says_nothing_of_itself_cannot_be_built():
    with pytest.raises(TypeError, match=r"abstract methods? '?dense_weight'?, '?sizes"):
        CompressedLinear(3, 4)
