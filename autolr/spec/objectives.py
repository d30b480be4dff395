"""Which of two scores is the better one."""

from optuna.study import StudyDirection

from autolr.spec.study import StudySpec

SIGN = {"divergence": 1.0, "loss": 1.0, "accuracy": -1.0, "agreement": -1.0}
"""Of each objective: 1 where less is better, −1 where more is."""
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
    return round(SIGN[objective] * value, _RESOLVED)


def directions(spec: StudySpec) -> list[StudyDirection]:
    """Return the directions of a study's objectives: quality, the first budget's ratio, and the probes where asked."""
    quality = StudyDirection.MINIMIZE if SIGN[spec.search.objective] > 0 else StudyDirection.MAXIMIZE
    return [quality, StudyDirection.MINIMIZE, *([StudyDirection.MAXIMIZE] if spec.search.probe_axis else [])]
