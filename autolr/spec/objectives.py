"""Which of two scores is the better one."""

from optuna.study import StudyDirection

from autolr.scores import SCORES
from autolr.spec.study import StudySpec

_RESOLVED = 9
"""Digits after the point to which scores of two models differ by more than rounding."""


def rank_of(objective: str, value: float) -> float:
    """Return a number that is less the better a score is, and equal where only rounding tells two apart.

    Args:
        objective: which score.
        value: of a model.

    Example:
        >>> rank_of("accuracy", 0.9) < rank_of("accuracy", 0.8), rank_of("loss", 2.9) < rank_of("loss", 2.8)
        (True, False)
        >>> rank_of("divergence", 4.2e-15) == rank_of("divergence", 4.3e-15)
        True
    """
    return round(SCORES.get(objective).sign * value, _RESOLVED)


def directions(spec: StudySpec) -> list[StudyDirection]:
    """Return the directions of a study's objectives: quality, the first budget's ratio, and the probes where asked."""
    less = SCORES.get(spec.search.objective).better == "smaller"
    quality = StudyDirection.MINIMIZE if less else StudyDirection.MAXIMIZE
    return [quality, StudyDirection.MINIMIZE, *([StudyDirection.MAXIMIZE] if spec.search.probe_axis else [])]
