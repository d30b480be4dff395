"""How good a model is, measured."""

from autolr.score.language import LanguageScorer
from autolr.score.nli import NliScorer, divergence, predict
from autolr.score.scorer import Scorer, mean_score

__all__ = ["LanguageScorer", "NliScorer", "Scorer", "divergence", "mean_score", "predict"]
