"""Racing: samples with known probabilities, means and errors that hold, stops that are right as often as is said."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autolr.optimization.racing.race import CONFIDENCE, LOOKS, Incumbent, RacedScorer, example_sizes, separation
from autolr.optimization.racing.sampling import inclusion_probabilities, sampling_order, weighted_mean
from autolr.tasks.class_scorer import ClassScorer

N = 400


@given(seed=st.integers(0, 1000), total=st.integers(2, 60), share=st.floats(0.01, 1.0))
def test_probabilities_sum_to_the_size_of_the_sample_and_follow_size_until_they_are_certain(seed, total, share) -> None:
    size = np.random.default_rng(seed).lognormal(0.0, 2.0, total)
    n = max(1, int(share * total))
    found = inclusion_probabilities(size, n)
    assert found.sum() == pytest.approx(n)
    assert (found > 0).all()
    assert (found <= 1).all()
    unsure = found < 1
    if unsure.any():
        ratio = found[unsure] / size[unsure]
        assert ratio == pytest.approx(ratio[0] * np.ones(unsure.sum()))
        assert (size[~unsure] * ratio[0] >= 1 - 1e-9).all()


def test_examples_come_as_often_as_their_probability_says() -> None:
    size = np.random.default_rng(0).lognormal(0.0, 1.0, 30)
    counts = np.zeros(30)
    for seed in range(4000):
        counts[sampling_order(size, seed)[:10]] += 1
    # The probabilities are asymptotic: in so small a sample one that should be certain is missed now and then.
    assert counts / 4000 == pytest.approx(inclusion_probabilities(size, 10), abs=0.08)


def test_means_are_unbiased_and_their_errors_are_what_they_spread_by() -> None:
    rng = np.random.default_rng(1)
    size = rng.lognormal(0.0, 1.0, N)
    values = size * rng.standard_normal(N) + 0.3
    probabilities = inclusion_probabilities(size, 100)
    found = []
    for seed in range(2000):
        rows = sampling_order(size, seed)[:100]
        mean = weighted_mean(values[rows], probabilities[rows], N)
        found.append((mean.value - values.mean(), mean.stderr, mean.wide_stderr))
    error, stderr, wide = np.array(found).T
    assert abs(error.mean()) < 0.05 * error.std()
    assert np.sqrt((stderr**2).mean()) == pytest.approx(error.std(), rel=0.1)
    assert (wide >= stderr).all()


def test_the_wide_error_is_that_of_a_new_population() -> None:
    rng = np.random.default_rng(2)
    found = []
    for seed in range(1000):
        size = rng.lognormal(0.0, 1.0, N)
        values = size * rng.standard_normal(N)
        rows = sampling_order(size, seed)[:150]
        mean = weighted_mean(values[rows], inclusion_probabilities(size, 150)[rows], N)
        found.append((mean.value, mean.wide_stderr))
    value, wide = np.array(found).T
    assert np.sqrt((wide**2).mean()) == pytest.approx(value.std(), rel=0.1)


def test_a_sample_of_everything_has_the_plain_mean_and_no_error() -> None:
    values = np.random.default_rng(3).standard_normal(20)
    mean = weighted_mean(values, np.ones(20), 20)
    assert mean.value == pytest.approx(values.mean())
    assert mean.stderr == 0.0
    assert mean.wide_stderr == pytest.approx(values.std(ddof=1) / 20**0.5)


def test_what_separates_candidates_is_positive_and_follows_their_spread() -> None:
    known = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 5.0]])
    found = separation(known)
    assert (np.diff(found) > 0).all()
    assert found[0] > 0
    assert separation(np.ones((3, 4))).tolist() == [1.0] * 4


class Table(nn.Module):
    """Answers with a table's row: the tokens are the example's number."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits, self.seen = logits, 0

    def forward(self, input_ids: torch.Tensor) -> object:
        self.seen += len(input_ids)
        return type("Output", (), {"logits": self.logits[input_ids[:, 0]]})()


def batches_of(rows) -> list[dict[str, torch.Tensor]]:
    index = torch.tensor(list(rows))
    return [{"input_ids": part[:, None], "labels": part % 3} for part in index.split(32)]


def worse(dense: torch.Tensor, by: float, seed: int) -> torch.Tensor:
    """Return logits whose mean divergence from the dense ones grows with ``by``; some examples carry most of it."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.exp(torch.randn(len(dense), 1, generator=torch.Generator().manual_seed(99)))
    return dense + by * scale * torch.randn(dense.shape, generator=generator)


@pytest.fixture(scope="module")
def scorer() -> ClassScorer:
    dense = torch.randn(N, 3, generator=torch.Generator().manual_seed(0)) * 2
    return ClassScorer(batches_of(range(N)), dense)


def race_of(scorer: ClassScorer, seed: int = 0) -> RacedScorer:
    references = [worse(scorer.dense, by, 7) for by in (0.3, 0.4, 0.5)]
    return RacedScorer(scorer, "divergence", example_sizes(scorer, "divergence", references), batches_of, seed)


def test_the_parts_are_the_looks_and_together_everything(scorer: ClassScorer) -> None:
    parts = race_of(scorer).parts
    assert [len(part.rows) for part in parts] == [50, 50, 50, 50, 100, 100]  # 25 would be too few for a look
    assert sorted(np.concatenate([part.rows for part in parts]).tolist()) == list(range(N))
    seen = np.cumsum([len(part.rows) for part in parts]) / N
    assert seen.tolist() == [*LOOKS[1:], 1.0]


def test_a_much_worse_candidate_is_stopped_at_the_first_look_with_an_honest_estimate(scorer: ClassScorer) -> None:
    incumbent, model = Incumbent(3, worse(scorer.dense, 0.3, 1)), Table(worse(scorer.dense, 1.0, 2))
    found = race_of(scorer).score(model, incumbent, lambda: None)
    assert found.logits is None
    assert model.seen == 50
    true = scorer.compare(model.logits)
    for name, score in found.scores.items():
        assert score.n == 50
        assert abs(score.value - true[name].value) < 4 * score.stderr + 0.02
    assert found.stderr > 0


def test_a_better_candidate_is_scored_on_everything_exactly(scorer: ClassScorer) -> None:
    incumbent, model = Incumbent(3, worse(scorer.dense, 0.5, 1)), Table(worse(scorer.dense, 0.3, 2))
    found = race_of(scorer).score(model, incumbent, lambda: None)
    assert model.seen == N
    assert found.logits is not None
    assert torch.equal(found.logits, model.logits)
    assert found.scores == scorer.compare(model.logits)


def test_the_same_candidate_is_never_stopped(scorer: ClassScorer) -> None:
    logits = worse(scorer.dense, 0.3, 1)
    assert race_of(scorer).score(Table(logits), Incumbent(0, logits), lambda: None).logits is not None


def test_stops_are_wrong_no_more_often_than_is_said_and_estimates_are_calibrated(scorer: ClassScorer) -> None:
    dense = scorer.dense
    incumbent = Incumbent(0, worse(dense, 0.4, 1))
    best = scorer.compare(incumbent.logits)["divergence"].value
    wrong, equal_or_better, errors, examples = 0, 0, [], 0
    rng = np.random.default_rng(5)
    for seed in range(300):
        model = Table(worse(dense, float(rng.uniform(0.34, 0.6)), 10 + seed))
        found = race_of(scorer, seed).score(model, incumbent, lambda: None)
        true = scorer.compare(model.logits)["divergence"].value
        examples += model.seen
        if true <= best:
            equal_or_better += 1
            wrong += found.logits is None
        if found.logits is None:
            errors.append((found.scores["divergence"].value - true) / found.stderr)
    assert equal_or_better > 50
    assert wrong <= (1 - CONFIDENCE) * equal_or_better + 2 * (0.05 * 0.95 * equal_or_better) ** 0.5
    assert len(errors) > 100
    assert examples < 0.7 * 300 * N
    # The frequentist mean of what is stopped is a little high by design; by far less than its standard error.
    assert abs(np.mean(errors)) < 0.5
    assert np.std(errors) < 1.2


def test_accuracy_races_the_other_way_round(scorer: ClassScorer) -> None:
    labels = scorer.labels
    right = torch.nn.functional.one_hot(labels, 3).float() * 5
    wrong = torch.nn.functional.one_hot((labels + 1) % 3, 3).float() * 5
    race = RacedScorer(scorer, "accuracy", example_sizes(scorer, "accuracy", [right, wrong]), batches_of, 0)
    mixed = torch.where(torch.arange(N)[:, None] % 5 == 0, wrong, right)
    assert race.score(Table(wrong), Incumbent(0, mixed), lambda: None).logits is None
    assert race.score(Table(right), Incumbent(0, mixed), lambda: None).logits is not None
