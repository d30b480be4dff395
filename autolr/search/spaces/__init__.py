"""Search spaces: which parameters a sampler proposes, and how they decode to a candidate."""

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
