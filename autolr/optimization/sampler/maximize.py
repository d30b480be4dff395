"""The search for the candidate with the highest acquisition, on the grid, for any mix of parameter types.

Symbols:
    p: parameters; c: candidates.
    points (c, p): as :mod:`autolr.optimization.sampler.encoding` defines them, always on the grid.
    front (b, p): the points likeliest to be on the front, best first.

A Sobol set covers the space; offspring of the front (few coordinates changed, or mixed with another front point) cover
what is likely good; both are scored in one batch. Then rounds of local search: the neighbours of the best few in one
or two coordinates.
Nothing is relaxed and rounded: with integer ranks the gradient of the relaxed problem was measured to be worse.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from scipy.stats import qmc

from autolr.optimization.sampler.encoding import Array, Encoding, Whole

MOST_ROUNDS = 8
"""Rounds in which a batch is chosen; each costs about as much as a proposal of its own."""


@dataclass(frozen=True)
class SearchSettings:
    """How hard to look: all counts are of points.

    Attributes:
        n_sobol: points that cover the space.
        n_offspring: variations of front points.
        n_best: how many points the local search keeps.
        n_neighbours: neighbours of each kept point in a round.
        n_rounds: most rounds of local search; it stops earlier when two rounds in a row improve nothing.
        n_final: how many of the screen's best are judged by the acquisition proper.
        n_final_neighbours: neighbours of its best two in a round.
        n_final_rounds: most rounds of local search by the acquisition proper.
        max_checks: most candidates the caller is asked about.
        n_again: how many of the points met are screened again for each later proposal of a batch, of which
            the best 32 are judged; then there is one round of local search around the best.
    """

    n_sobol: int = 256
    n_offspring: int = 768
    n_best: int = 6
    n_neighbours: int = 64
    n_rounds: int = 12
    n_final: int = 48
    n_final_neighbours: int = 16
    n_final_rounds: int = 3
    max_checks: int = 256
    n_again: int = 128


def sobol(encoding: Encoding, count: int, seed: int, skip: int = 0) -> Array:
    """Return grid points of a scrambled Sobol sequence, (count, p), after the first ``skip``."""
    engine = qmc.Sobol(len(encoding), scramble=True, rng=np.random.default_rng(seed))
    if skip:
        engine.fast_forward(skip)
    draw = engine.random_base2(int(np.ceil(np.log2(count))))[:count] if count > 1 and not skip else engine.random(count)
    return encoding.spread(np.asarray(draw))


def mutate(encoding: Encoding, parents: Array, n_changed: Whole, rng: np.random.Generator) -> Array:
    """Change some coordinates of each parent.

    A numeric coordinate moves by a normal step whose width is drawn between one level (a hundredth of the range where
    it is continuous) and half the range; an integer always moves by at least one level. A categorical one takes
    another choice.

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
    return np.asarray(np.where(step < 0, -1.0, 1.0) * np.maximum(np.abs(step), level))


def offspring(encoding: Encoding, front: Array, count: int, rng: np.random.Generator) -> Array:
    """Return variations of front points, (count, p): mutated, every other one crossed with a second point before."""
    parents = front[rng.integers(len(front), size=count)]
    others = front[rng.integers(len(front), size=count)]
    crossed = (np.arange(count) % 2 == 1)[:, None] & (rng.random((count, len(encoding))) < rng.random((count, 1)))
    n_changed = np.minimum(rng.geometric(0.4, size=count), len(encoding))
    return mutate(encoding, np.where(crossed, others, parents), n_changed, rng)


@runtime_checkable
class Scores(Protocol):
    """What candidates are judged by, (c, d) -> (c,): a cheap screen and the acquisition proper."""

    def screen(self, candidates: Array) -> Array:
        """Return the screen's scores."""

    def __call__(self, candidates: Array) -> Array:
        """Return the acquisition."""

    def pend(self, points: Array) -> None:
        """Count points as pending from now on."""


@dataclass
class Admits:
    """Whether a point may be proposed: its key is not in ``taken`` and ``is_new`` says yes.

    ``is_new`` is told the point and those taken for the same batch before. It may have to build the candidate, so it is
    asked last, about the points with the highest acquisition, and at most ``max_checks`` times for each proposal.
    """

    encoding: Encoding
    taken: frozenset[bytes] = frozenset()
    is_new: Callable[[Array, Sequence[Array]], bool] | None = None
    max_checks: int = 256
    _asked: dict[bytes, bool] = field(default_factory=dict)
    _spent: int = 0
    _batch: list[Array] = field(default_factory=list)

    def __call__(self, point: Array, key: bytes) -> bool:
        """Return whether the point (p,) with this key may be proposed; no longer when too many were refused."""
        if key in self.taken:
            return False
        if self.is_new is None:
            return True
        if key not in self._asked:
            if len(self._asked) - self._spent >= self.max_checks:
                return False
            self._asked[key] = self.is_new(point, self._batch)
        return self._asked[key]

    def take(self, point: Array) -> None:
        """Count the point (p,) as taken, and allow as many questions again for the next proposal."""
        self.taken = self.taken.union(self.encoding.keys(point[None]))
        self._batch.append(point)
        self._asked = {key: new for key, new in self._asked.items() if not new}
        self._spent = len(self._asked)


@dataclass
class Pool:
    """Candidates met so far with their scores, best first; ``points`` (c, p), ``scores`` (c,)."""

    admits: Admits
    score: Callable[[Array], Array]
    points: Array = field(init=False)
    scores: Array = field(init=False)

    def __post_init__(self) -> None:
        self.points, self.scores = np.empty((0, len(self.admits.encoding))), np.empty(0)
        self._seen, self._keys = set(self.admits.taken), list[bytes]()

    def fresh(self, points: Array) -> Array:
        """Return the points not met before and not taken, each once."""
        rows = []
        for i, key in enumerate(self.admits.encoding.keys(points)):
            if key not in self._seen:
                self._seen.add(key)
                rows.append(i)
        return points[rows]

    def add(self, points: Array) -> None:
        """Score the points not met before and keep them."""
        points = self.fresh(points)
        if not len(points):
            return
        scores = np.concatenate([self.scores, self.score(self.admits.encoding.features(points))])
        order = np.argsort(-scores, kind="stable")
        self.points, self.scores = np.concatenate([self.points, points])[order], scores[order]

    def best(self, count: int) -> Array:
        """Return up to ``count`` of the best points, (at most count, p), without asking whether they are new."""
        return self.points[:count]

    def best_new(self) -> Array | None:
        """Return the best point that may be proposed, (p,); None when all that were asked about are old."""
        if len(self._keys) != len(self.points):
            self._keys = self.admits.encoding.keys(self.points)
        for point, key in zip(self.points, self._keys, strict=True):
            if self.admits(point, key):
                return np.asarray(point)
        return None


def _refine(pool: Pool, n_parents: int, n_neighbours: int, n_rounds: int, rng: np.random.Generator) -> None:
    """Add the neighbours of the pool's best in rounds, until two rounds in a row improve nothing."""
    encoding = pool.admits.encoding
    stale, top = 0, -np.inf
    for _ in range(n_rounds):
        best = pool.best(n_parents)
        stale = stale + 1 if not len(best) or pool.scores[0] <= top else 0
        if not len(best) or stale == 2:
            return
        top = pool.scores[0]
        parents = np.repeat(best, n_neighbours, axis=0)
        pool.add(mutate(encoding, parents, np.minimum(rng.integers(1, 3, size=len(parents)), len(encoding)), rng))


def search(
    scores: Scores, admits: Admits, front: Array, settings: SearchSettings, seed: int, count: int = 1
) -> list[Array]:
    """Return the best points found that may be proposed, different ones, fewer than asked for when there are no more.

    Up to ``MOST_ROUNDS`` are each chosen with those before it pending; of more, a round takes several of its best. Only
    in the first round is searched widely; the later ones have the best that it met and their own local search, and
    where none of these may be proposed, all that it met.

    Args:
        scores: the screen and the acquisition.
        admits: which points may be proposed.
        front: (b, p), at least one point.
        settings: how hard to look.
        seed: of everything random here.
        count: how many.

    Returns:
        At most ``count`` points (p,), best first.
    """
    rng, encoding = np.random.default_rng(seed), admits.encoding
    wide = Pool(admits, scores.screen)
    wide.add(sobol(encoding, settings.n_sobol, seed))
    wide.add(offspring(encoding, front, settings.n_offspring, rng))
    _refine(wide, settings.n_best, settings.n_neighbours, settings.n_rounds, rng)
    met, found = wide, list[Array]()
    in_a_round = -(-count // MOST_ROUNDS)
    n_judged, n_parents, n_rounds = settings.n_final, 2, settings.n_final_rounds
    while len(found) < count:
        final = Pool(admits, scores)
        final.add(wide.best(n_judged))
        _refine(final, n_parents, settings.n_final_neighbours, n_rounds, rng)
        picked = _pick((final, wide, met), admits, min(in_a_round, count - len(found)))
        found += picked
        if not picked or len(found) == count:
            break
        scores.pend(encoding.features(np.stack(picked)))
        near, wide, n_judged, n_rounds = wide.best(settings.n_again), Pool(admits, scores.screen), min(n_judged, 32), 1
        wide.add(np.concatenate([final.best(n_judged), near]))
    return found


def _pick(pools: Sequence[Pool], admits: Admits, count: int) -> list[Array]:
    """Take up to ``count`` of the best points that may be proposed, of the first pool as long as it has any."""
    picked: list[Array] = []
    for pool in pools:
        while len(picked) < count and (best := pool.best_new()) is not None:
            picked.append(best)
            admits.take(best)
    return picked
