"""Search spaces: which parameters a sampler proposes, and how they decode to a candidate.

How to add one: a class with the three methods below, a configuration (a subclass of :class:`autolr.spec.spaces.Named`:
what a YAML file may say), a function that builds the one from the other, and a :class:`autolr.spec.spaces.SpaceKind` in
the entry-point group ``autolr.spaces``. Then run :func:`autolr.search.spaces.conformance.check` on it.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from optuna.distributions import BaseDistribution

from autolr.types import Candidate


@runtime_checkable
class Space(Protocol):
    """What the driver asks of a space."""

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the parameters by name."""
        ...

    def decode(self, params: Mapping[str, Any]) -> Candidate:
        """Return the candidate that parameter values stand for."""
        ...

    def seeds(self, seed: int, trials: int) -> dict[str, dict[str, Any]]:
        """Return parameter values worth evaluating first in a study of so many trials, by where they come from."""
        ...
