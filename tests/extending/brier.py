"""A score of classification from elsewhere; its entry point is ``brier = "brier:SCORE"`` in ``autolr.scores``."""

from torch.nn.functional import one_hot

from autolr.scores import ScoreKind


def values(answers, dense, labels):
    p = answers.double().softmax(-1)
    return (p - one_hot(labels, p.shape[-1])).square().sum(-1)


SCORE = ScoreKind(
    "brier",
    "smaller",
    help="squared error of the classes' probabilities",
    bounds=(0.0, 2.0),
    needs=frozenset({"labels"}),
    values=values,
)
