"""Scores by name, and the form that JSON files have of them."""

from collections.abc import Mapping
from typing import Any

from autolr.records import Score

Scores = Mapping[str, Score]
"""Name of a score -> what was measured."""


def score_to_json(score: Score) -> dict[str, float]:
    """Return a score in its plain form.

    Example:
        >>> score_to_json(Score(0.5, 0.1, 25))
        {'value': 0.5, 'stderr': 0.1, 'n': 25}
    """
    return {"value": score.value, "stderr": score.stderr, "n": score.n}


def score_from_json(plain: Mapping[str, Any]) -> Score:
    """Rebuild a score from :func:`score_to_json`'s form.

    Raises:
        KeyError: the plain form lacks a field.
    """
    return Score(plain["value"], plain["stderr"], plain["n"])


def scores_to_json(scores: Scores) -> dict[str, dict[str, float]]:
    """Return scores in their plain form, in their order."""
    return {name: score_to_json(score) for name, score in scores.items()}


def scores_from_json(plain: Mapping[str, Any]) -> dict[str, Score]:
    """Rebuild scores from :func:`scores_to_json`'s form.

    Raises:
        KeyError: a score lacks a field.
    """
    return {name: score_from_json(score) for name, score in plain.items()}
