"""Scores against numpy and scipy, and that neither padding nor batching is part of them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy, sem
from tiny import batches, build, sequences

from autolr.errors import AutolrError
from autolr.scores.built_in import divergence
from autolr.tasks import mean_score
from autolr.tasks.class_scorer import ClassScorer, predict
from autolr.types import Score

EXAMPLES = sequences(11)
LABELS = torch.randint(0, 3, (11,), generator=torch.Generator().manual_seed(3))


def labelled(size, side="right"):
    data, start = batches(EXAMPLES, size, side), 0
    for batch in data:
        stop = start + len(batch["input_ids"])
        batch["labels"] = LABELS[start:stop]
        start = stop
    return data


def random_logits(seed, n=13, classes=3, scale=3.0):
    return scale * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 2**31), classes=st.integers(2, 5), scale=st.floats(0.01, 20.0))
def test_divergence_is_scipys_relative_entropy_of_the_softmaxes(seed, classes, scale):
    dense, low = random_logits(seed, 6, classes, scale), random_logits(seed + 1, 6, classes, scale)
    p, q = (np.exp(x.double().numpy()) for x in (dense, low))
    found = divergence(dense, low)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), entropy(p, q, axis=1), rtol=1e-9, atol=1e-13)
    assert (found >= 0).all()


def test_divergence_does_not_depend_on_the_level_of_the_logits_and_vanishes_for_equal_ones():
    dense, low = random_logits(0), random_logits(1)
    torch.testing.assert_close(divergence(dense + 7.0, low - 5.0), divergence(dense, low), atol=1e-5, rtol=1e-4)
    assert divergence(dense, dense).tolist() == [0.0] * 13
    assert not torch.allclose(divergence(dense, low), divergence(low, dense))


def test_divergence_of_certain_models_is_finite():
    certain = torch.tensor([[1e4, 0.0, -1e4]])
    assert float(divergence(certain, torch.zeros(1, 3))) == pytest.approx(np.log(3))
    assert float(divergence(certain, certain.flip(1))) == pytest.approx(2e4)


@given(values=st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40))
def test_a_mean_comes_with_scipys_standard_error(values):
    score = mean_score(torch.tensor(values, dtype=torch.float64))
    assert score.value == pytest.approx(np.mean(values), abs=1e-9)
    assert score.stderr == pytest.approx(sem(values), rel=1e-9, abs=1e-9)
    assert score.n == len(values)


def test_one_example_has_no_spread():
    assert mean_score(torch.tensor([0.25])) == Score(0.25, 0.0, 1)


def test_accuracy_and_agreement_are_shares_of_equal_classes():
    """Counted one by one; the standard error of a share is that of its zeros and ones."""
    dense, low = random_logits(0, 11), random_logits(1, 11)
    scores = ClassScorer(labelled(4), dense).compare(low)
    right = [int(np.argmax(row)) == int(label) for row, label in zip(low.numpy(), LABELS, strict=True)]
    same = [int(np.argmax(a)) == int(np.argmax(b)) for a, b in zip(low.numpy(), dense.numpy(), strict=True)]
    for name, hits in (("accuracy", right), ("agreement", same)):
        share = sum(hits) / 11
        assert 0 < share < 1
        assert scores[name].value == pytest.approx(share)
        assert scores[name].stderr == pytest.approx(np.sqrt(share * (1 - share) / 10))
        assert scores[name].n == 11
    assert scores["divergence"].value == pytest.approx(float(divergence(dense, low).mean()))


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_dense_model_agrees_with_itself(family):
    model = build(family)
    scores = ClassScorer.of(model, labelled(4)).score(model)
    assert scores["agreement"] == Score(1.0, 0.0, 11)
    assert scores["divergence"] == Score(0.0, 0.0, 11)
    predicted = predict(model, labelled(4)).argmax(-1)
    assert scores["accuracy"].value == pytest.approx(float((predicted == LABELS).double().mean()))


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize(("family", "side"), [("bert", "right"), ("llama", "right"), ("llama", "left")])
def test_neither_padding_nor_batch_size_changes_a_score(family, side, size):
    """Against every example alone and unpadded, for a compressed model (here: one with other weights)."""
    dense, low = build(family), build(family, seed=1)
    alone = ClassScorer.of(dense, labelled(1))
    expected = alone.score(low)
    scorer = ClassScorer.of(dense, labelled(size, side))
    torch.testing.assert_close(scorer.dense, alone.dense, atol=1e-5, rtol=1e-4)
    for name, score in scorer.score(low).items():
        assert score.value == pytest.approx(expected[name].value, rel=1e-4)
        assert score.stderr == pytest.approx(expected[name].stderr, rel=1e-4)
        assert score.n == 11


def test_predictions_are_in_evaluation_mode_without_gradients_and_ignore_labels():
    model = build("bert").train()
    data = labelled(4)
    logits = predict(model, data)
    assert logits.dtype == torch.float32
    assert not logits.requires_grad
    torch.testing.assert_close(logits, predict(build("bert"), data), atol=0, rtol=0)
    for batch in data:
        batch["labels"] = torch.full_like(batch["labels"], 77)
    torch.testing.assert_close(predict(model, data), logits, atol=0, rtol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_outputs_that_are_not_finite_are_an_error(value):
    """Of the compressed model and of the dense one, before any score is made of them."""
    dense, low = random_logits(0, 11), random_logits(1, 11)
    low[2, 1] = low[2, 2] = low[7, 0] = value
    with pytest.raises(AutolrError, match="output is NaN or infinite on 2 of 11 examples"):
        ClassScorer(labelled(4), dense).compare(low)
    model = build("bert")
    model.classifier.bias.data[0] = value
    with pytest.raises(AutolrError, match="output is NaN or infinite on 11 of 11 examples"):
        ClassScorer.of(model, labelled(4))
    with pytest.raises(AutolrError, match="output is NaN or infinite on 11 of 11 examples"):
        ClassScorer.of(build("bert"), labelled(4)).score(model)


def test_work_can_be_stopped_between_batches():
    ticks = []

    def tick():
        ticks.append(len(ticks))
        if len(ticks) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(build("bert"), labelled(4), tick)
    assert ticks == [0, 1]
