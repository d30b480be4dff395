"""Laws of dominance and hypervolume; everything minimised."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autolr.pareto import hypervolume, non_dominated


def dominates(left, right):
    return bool(np.all(left <= right) and np.any(left < right))


def tables(m_values=(1, 2, 3)):
    """Tables (n, m) on a small grid, so that ties and duplicates are common."""
    return st.sampled_from(m_values).flatmap(
        lambda m: arrays(np.float64, st.tuples(st.integers(1, 12), st.just(m)), elements=st.integers(0, 5).map(float))
    )


@given(tables())
@settings(deadline=None, max_examples=60)
def test_front_is_what_nothing_dominates(values):
    """The mask agrees with the definition, point by point."""
    expected = [not any(dominates(other, row) for other in values) for row in values]
    assert non_dominated(values).tolist() == expected


@given(tables())
@settings(deadline=None, max_examples=60)
def test_hypervolume_counts_the_grid_cells_below(values):
    """On an integer grid the volume is the number of unit cells that some point dominates."""
    m = values.shape[1]
    cells = np.stack(np.meshgrid(*[np.arange(6)] * m, indexing="ij"), axis=-1).reshape(-1, m)
    covered = (values[None] <= cells[:, None]).all(axis=2).any(axis=1).sum()
    assert hypervolume(values, [6.0] * m) == pytest.approx(covered)


def test_hypervolume_of_a_known_staircase_is_exact():
    """Points i, n - i under the corner (n + 1, n + 1): a staircase whose area is known."""
    n = 50
    stairs = [(i, n - i) for i in range(n + 1)]
    assert hypervolume(stairs, (n + 1, n + 1)) == sum(n + 1 - i for i in range(n + 1))


def test_points_outside_the_reference_add_nothing():
    """A point on or beyond the corner in one objective has no volume; NaN neither."""
    assert hypervolume([[0, 3], [4, 0], [np.nan, 0]], (3, 3)) == 0.0
    assert hypervolume(np.empty((0, 2)), (3, 3)) == 0.0


def test_an_unbounded_point_has_unbounded_volume():
    """Minus infinity below a finite corner spans an infinite box."""
    assert hypervolume([[-np.inf, 0], [0, 0]], (1, 1)) == np.inf


@pytest.mark.parametrize(
    ("values", "reference", "text"),
    [
        ([[1, 2]], (1, 2, 3), "one entry for each of 2"),
        ([[1, 2]], (np.inf, 1), "finite"),
        (np.array([1, 2]), (1, 2), "shape"),
    ],
)
def test_hypervolume_refuses(values, reference, text):
    """Shapes that do not agree and corners at infinity are named."""
    with pytest.raises(ValueError, match=text):
        hypervolume(values, reference)


def test_nan_is_on_no_front():
    """A point with a NaN is left out."""
    values = [[np.nan, 0], [1, 1], [0, np.inf]]
    assert non_dominated(values).tolist() == [False, True, True]
