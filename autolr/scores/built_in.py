"""The scores that come with the package, one record each.

accuracy    share of answers that are right: classes of examples, or next tokens
agreement   share of answers that are those of the dense model
divergence  E[KL(p_dense ‖ p_compressed)], nats per answer, ≥ 0
loss        −log p(next token), nats per token
perplexity  exp of the mean loss: shown and limited, but never averaged itself
probe       mean accuracy of probes of the layers; :mod:`autolr.probes` computes it
"""

from math import inf
from typing import TYPE_CHECKING

from autolr.scores.kind import SHARE, ScoreKind

if TYPE_CHECKING:
    import torch


def divergence(dense: "torch.Tensor", compressed: "torch.Tensor") -> "torch.Tensor":
    """Return ``KL(softmax(dense) ‖ softmax(compressed))`` of each example, nats, (n,) float64.

    Args:
        dense: logits, (n, classes).
        compressed: logits, (n, classes).

    Example:
        >>> import torch
        >>> divergence(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]])).round(decimals=4).tolist()
        [0.1201]
    """
    p, q = dense.double().log_softmax(-1), compressed.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).clamp(min=0.0)


def _right(answers: "torch.Tensor", dense: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
    return (answers.argmax(-1) == labels).double()


def _agreeing(answers: "torch.Tensor", dense: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
    return (answers.argmax(-1) == dense.argmax(-1)).double()


def _diverging(answers: "torch.Tensor", dense: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
    return divergence(dense, answers)


ACCURACY = ScoreKind(
    "accuracy",
    better="larger",
    help="share of answers that are right",
    unit=SHARE,
    bounds=(0.0, 1.0),
    binary=True,
    needs=frozenset({"labels"}),
    values=_right,
)
AGREEMENT = ScoreKind(
    "agreement",
    better="larger",
    help="share of answers that are the dense model's",
    unit=SHARE,
    bounds=(0.0, 1.0),
    column="agree %",
    binary=True,
    needs=frozenset({"dense"}),
    values=_agreeing,
)
DIVERGENCE = ScoreKind(
    "divergence",
    better="smaller",
    help="divergence from dense",
    unit="nats",
    bounds=(0.0, inf),
    column="nats",
    limit=False,
    needs=frozenset({"dense"}),
    values=_diverging,
)
LOSS = ScoreKind(
    "loss",
    better="smaller",
    help="negative log-likelihood of the next token",
    unit="nats",
    bounds=(0.0, inf),
    needs=frozenset({"labels"}),
)
PERPLEXITY = ScoreKind(
    "perplexity",
    better="smaller",
    help="exponential of the mean loss",
    bounds=(0.0, inf),
    needs=frozenset({"labels"}),
    exponential_of=LOSS.name,
)
PROBE = ScoreKind(
    "probe",
    better="larger",
    help="mean accuracy of probes of the layers",
    unit=SHARE,
    bounds=(0.0, 1.0),
    needs=frozenset({"labels"}),
)
BUILT_IN = (ACCURACY, AGREEMENT, DIVERGENCE, LOSS, PERPLEXITY, PROBE)
