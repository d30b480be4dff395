"""Scores by name, and the form that JSON files have of them."""

from collections.abc import Mapping
from typing import Any

from autolr.records import Score

Scores = Mapping[str, Score]
"""Name of a score -> what was measured."""


def scores_to_json(scores: Scores) -> dict[str, Any]:
    """Return scores in their plain form, in their order.

    Example:
        >>> scores_to_json({"accuracy": Score(0.5, 0.1, 25)})
        {'accuracy': {'value': 0.5, 'stderr': 0.1, 'n': 25}}
    """
    return {name: score.to_json() for name, score in scores.items()}


def scores_from_json(plain: Mapping[str, Any]) -> dict[str, Score]:
    """Rebuild scores from :func:`scores_to_json`'s form.

    Raises:
        KeyError: a score lacks a field.
    """
    return {name: Score.from_json(score) for name, score in plain.items()}
