"""The search for the candidate with the highest acquisition, on the grid, for any mix of parameter types.

Symbols:
    p: parameters; c: candidates.
    points (c, p): as :mod:`autolr.search.encoding` defines them, always on the grid.
    front (b, p): the points likeliest to be on the front, best first.

A Sobol set covers the space; offspring of the front (few coordinates changed, or mixed with another front point) cover what is
likely good; both are scored in one batch. Then rounds of local search: the neighbours of the best few in one or two coordinates.
Nothing is relaxed and rounded: with integer ranks the gradient of the relaxed problem was measured to be worse.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import qmc

from autolr.search.encoding import Array, Encoding


@dataclass(frozen=True)
class SearchSettings:
    """How hard to look: all counts are of points.

    Attributes:
        n_sobol: points that cover the space.
        n_offspring: variations of front points.
        n_best: how many points the local search keeps.
        n_neighbours: neighbours of each kept point in a round.
        n_rounds: most rounds of local search; it stops earlier when two rounds in a row improve nothing.
        max_checks: most candidates the caller is asked about.
    """

    n_sobol: int = 256
    n_offspring: int = 768
    n_best: int = 6
    n_neighbours: int = 64
    n_rounds: int = 12
    max_checks: int = 256


def sobol(encoding: Encoding, count: int, seed: int, skip: int = 0) -> Array:
    """Return grid points of a scrambled Sobol sequence, (count, p), after the first ``skip``."""
    engine = qmc.Sobol(len(encoding), scramble=True, rng=np.random.default_rng(seed))
    if skip:
        engine.fast_forward(skip)
    draw = engine.random_base2(int(np.ceil(np.log2(count))))[:count] if count > 1 and not skip else engine.random(count)
    return encoding.spread(draw)


def mutate(encoding: Encoding, parents: Array, n_changed: Array, rng: np.random.Generator) -> Array:
    """Change some coordinates of each parent.

    A numeric coordinate moves by a normal step whose width is drawn between one level (a hundredth of the range where it is
    continuous) and half the range; an integer always moves by at least one level. A categorical one takes another choice.

    Args:
        encoding: the grid.
        parents: (c, p).
        n_changed: (c,) how many coordinates to change, at least 1.
        rng: the generator.

    Returns:
        (c, p) on the grid.
    """
    c, p = parents.shape
    order = rng.random((c, p)).argsort(axis=1).argsort(axis=1)
    changed = order < n_changed[:, None]
    numeric = encoding.snap(np.where(encoding.categorical, parents, parents + _steps(encoding, c, rng)))
    n_choices = np.maximum(encoding.n_levels, 2)
    other = (parents + 1 + np.floor(rng.random((c, p)) * (n_choices - 1))) % n_choices
    moved = np.where(encoding.categorical & (encoding.n_levels > 1), other, numeric)
    return np.where(changed, moved, parents)


def _steps(encoding: Encoding, c: int, rng: np.random.Generator) -> Array:
    """Return signed step lengths, (c, p), none shorter than a level."""
    p = len(encoding)
    level = np.where(encoding.n_levels > 1, 1.0 / np.maximum(encoding.n_levels - 1, 1), 0.0)
    shortest = np.log(np.clip(level, 0.01, 0.5))
    width = np.exp(shortest + rng.random((c, p)) * (np.log(0.5) - shortest))
    step = rng.standard_normal((c, p)) * width
    return np.where(step < 0, -1.0, 1.0) * np.maximum(np.abs(step), level)


def offspring(encoding: Encoding, front: Array, count: int, rng: np.random.Generator) -> Array:
    """Return variations of front points, (count, p): half mutated, half crossed with another front point and mutated."""
    parents = front[rng.integers(len(front), size=count)]
    others = front[rng.integers(len(front), size=count)]
    crossed = (np.arange(count) % 2 == 1)[:, None] & (rng.random((count, len(encoding))) < rng.random((count, 1)))
    n_changed = np.minimum(rng.geometric(0.4, size=count), len(encoding))
    return mutate(encoding, np.where(crossed, others, parents), n_changed, rng)


@dataclass
class Pool:
    """The admissible candidates of one proposal with their scores.

    A candidate is admissible when its key is not in ``taken`` and ``is_new`` says yes; ``is_new`` is asked late, best
    candidates first, because it may have to build the candidate.
    """

    encoding: Encoding
    score: Callable[[Array], Array]
    taken: set[bytes]
    is_new: Callable[[Array], bool]
    max_checks: int
    points: Array = field(init=False)
    scores: Array = field(init=False)
    _asked: dict[bytes, bool] = field(default_factory=dict)
    _seen: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.points, self.scores = np.empty((0, len(self.encoding))), np.empty(0)
        self._seen = set(self.taken)

    def add(self, points: Array) -> None:
        """Score the points not met before and keep them, best first."""
        fresh = []
        for i, key in enumerate(self.encoding.keys(points)):
            if key not in self._seen:
                self._seen.add(key)
                fresh.append(i)
        if not fresh:
            return
        points = points[fresh]
        self.points = np.concatenate([self.points, points])
        self.scores = np.concatenate([self.scores, self.score(self.encoding.features(points))])
        order = np.argsort(-self.scores, kind="stable")
        self.points, self.scores = self.points[order], self.scores[order]

    def best(self, count: int) -> Array:
        """Return up to ``count`` of the best admissible points, (at most count, p)."""
        found: list[int] = []
        for i, key in enumerate(self.encoding.keys(self.points)):
            if len(found) == count:
                break
            if key not in self._asked:
                if len(self._asked) >= self.max_checks:
                    break
                self._asked[key] = self.is_new(self.points[i])
            if self._asked[key]:
                found.append(i)
        return self.points[found]


def search(pool: Pool, front: Array, settings: SearchSettings, seed: int) -> Array | None:
    """Return the best admissible point found, (p,), or None when none was.

    Args:
        pool: where candidates are scored and kept; it starts empty.
        front: (b, p), b may be 0.
        settings: how hard to look.
        seed: of everything random here.
    """
    rng = np.random.default_rng(seed)
    encoding = pool.encoding
    pool.add(sobol(encoding, settings.n_sobol, seed))
    if len(front):
        pool.add(offspring(encoding, front, settings.n_offspring, rng))
    stale, top = 0, -np.inf
    for _ in range(settings.n_rounds):
        best = pool.best(settings.n_best)
        if not len(best):
            break
        stale = stale + 1 if pool.scores[0] <= top else 0
        if stale == 2:
            break
        top = pool.scores[0]
        parents = np.repeat(best, settings.n_neighbours, axis=0)
        n_changed = np.minimum(rng.integers(1, 3, size=len(parents)), len(encoding))
        pool.add(mutate(encoding, parents, n_changed, rng))
    best = pool.best(1)
    return best[0] if len(best) else None
