"""Search spaces: which parameters a sampler proposes, and how they decode to a candidate.

How to add one: a class with the three methods below, a configuration (a subclass of :class:`autolr.spec.spaces.Named`:
what a YAML file may say), a function that builds the one from the other, and a :class:`autolr.spec.spaces.SpaceKind` in
the entry-point group ``autolr.spaces``. Then run :func:`autolr.optimization.spaces.conformance.check` on it.
"""

from typing import Protocol, runtime_checkable

from optuna.distributions import BaseDistribution

from autolr.optimization.sampler.encoding import Params, Point
from autolr.types import Candidate


@runtime_checkable
class Space(Protocol):
    """What the driver asks of a space."""

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the parameters by name."""
        ...

    def decode(self, params: Point) -> Candidate:
        """Return the candidate that parameter values stand for."""
        ...

    def seeds(self, seed: int, trials: int) -> dict[str, Params]:
        """Return parameter values worth evaluating first in a study of so many trials, by where they come from."""
        ...
