"""How good a model is, measured."""

from autolr.score.nli import NliScorer, divergence, mean_score, predict

__all__ = ["NliScorer", "divergence", "mean_score", "predict"]
