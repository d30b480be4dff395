"""Probes: how well a linguistic label is read from representations of sentences by a simple classifier.

Symbols:
    X (n, d): representations, standardised by the training sentences; Y (n, k): one-hot labels less their mean.

ridge     W = (XᵀX + λ I)⁻¹ Xᵀ Y, the class with the greatest score; λ by generalised cross-validation. Closed form.
logistic  multinomial logistic regression (scikit-learn), its strength chosen on training sentences held out
mlp       one hidden layer (scikit-learn), trained until a tenth of them is told no better

A probe that reads the label may have learned the task rather than found it. So each is also trained on a control task,
the same sentences with labels that say nothing of their language, and its selectivity is what it is better by on the
real ones. Hewitt and Liang give every word a random label; a sentence here gets the random label of its rarest word, of
those that some training sentences share, so that, as there, a control task can be learned only by memorising words.

Source: Hewitt and Liang 2019, Designing and Interpreting Probes with Control Tasks, arXiv 1909.03368; Golub, Heath and
Wahba 1979 (generalised cross-validation).
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autolr.data.probing import ProbingTask, Sentences, dealt

Probe = Literal["ridge", "logistic", "mlp"]
Matrix = Float[Tensor, "sentences hidden"]
Labels = Int[Tensor, " sentences"]
Asked = Float[Tensor, "asked hidden"]
Answers = Int[Tensor, " asked"]
Correct = Bool[Tensor, " asked"]

PENALTIES = torch.logspace(-4, 4, 17, dtype=torch.float64)
"""λ as a share of the mean eigenvalue of XᵀX."""
STRENGTHS = tuple(10.0**power for power in range(-3, 3))
"""C of a logistic regression, strongest penalty first."""
ITERATIONS = 1000
SHARED = 10
"""Training sentences that share a word which decides a control label: with rarer words nothing could be memorised and
every control stayed at chance; with commoner ones a handful of words decides, and the labels are no longer balanced."""
HANDS = 5
SMALL = 1000
"""Of five parts of a logistic regression's training sentences one is held out to compare penalties, each in turn of up
to 1,000 sentences. By likelihood: of few sentences the accuracies tie."""
HIDDEN = 128
"""Width of the multilayer probe."""
BATCH = 32
PATIENCE = 30
"""Sentences of a step and epochs without gain, of the multilayer probe: with scikit-learn's 200 and 10 small sets are
hardly begun when training ends."""
SENTENCE_LENGTHS = 40
"""Words beyond which sentences count as equally long in the baseline that sees nothing else."""


def probe(kind: Probe, train: Matrix, train_labels: Labels, test: Asked, test_labels: Answers) -> Correct:
    """Train a probe and return for each test sentence whether it is right.

    Args:
        kind: of classifier.
        train: representations of the training sentences.
        train_labels: their classes.
        test: representations of the test sentences.
        test_labels: their classes.

    Example:
        >>> X, y = torch.tensor([[0.0], [1.0], [10.0], [11.0]]), torch.tensor([0, 0, 1, 1])
        >>> probe("ridge", X, y, torch.tensor([[2.0], [9.0]]), torch.tensor([0, 0])).tolist()
        [True, False]
    """
    if train_labels.min() == train_labels.max():  # nothing to tell apart: a control task of few words, or a small draw
        return test_labels == train_labels[0]
    mean, spread = train.double().mean(0), train.double().std(0, correction=0)
    known, asked = ((X.double() - mean) / torch.where(spread > 0, spread, 1.0) for X in (train, test))
    return _PROBES[kind](known, train_labels, asked) == test_labels


def _ridge(train: Matrix, labels: Labels, test: Asked) -> Answers:
    weights, offset = ridge_weights(train, labels)
    return (test @ weights + offset).argmax(-1)


def ridge_weights(
    X: Float[Tensor, "sentences hidden"], labels: Labels
) -> tuple[Float[Tensor, "hidden classes"], Float[Tensor, " classes"]]:
    """Return weights and offset of the ridge regression of one-hot labels on centred X, λ by cross-validation.

    Args:
        X: (n, d) float64, columns with mean zero.
        labels: (n,) from 0 to k − 1.
    """
    n = len(X)
    Y = torch.nn.functional.one_hot(labels).double()
    offset = Y.mean(0)
    Y = Y - offset
    values, vectors = torch.linalg.eigh(X.mT @ X if X.shape[1] <= n else X @ X.mT)
    values = values.clamp(min=0.0)
    penalties = PENALTIES * (values.sum() / min(X.shape)).clamp(min=torch.finfo(torch.float64).tiny)
    shrink = values / (values + penalties[:, None])  # (λ, directions), the eigenvalues of the hat matrix
    total = Y.square().sum()
    if X.shape[1] <= n:
        projected = vectors.mT @ (X.mT @ Y)
        # |(u, Y)|² of each left singular vector u, where its singular value is not zero
        energy = projected.square().sum(1) / values.clamp(min=values.max() * 1e-12 + 1e-300)
        energy = torch.where(values > values.max() * 1e-12, energy, 0.0)
    else:
        projected = vectors.mT @ Y
        energy = projected.square().sum(1)
    residual = total - energy.sum() + ((1.0 - shrink).square() * energy).sum(1)
    freedom = (1.0 - (shrink.sum(1) + 1.0) / n).clamp(min=1e-6)  # the mean takes one degree
    best = penalties[int((residual / freedom.square()).argmin())]
    solved = vectors @ (projected / (values + best)[:, None])
    return (solved if X.shape[1] <= n else X.mT @ solved), offset


def _logistic(train: Matrix, labels: Labels, test: Asked) -> Answers:
    hands = dealt(labels.tolist(), HANDS)
    folds = [torch.tensor(hand, dtype=torch.long) for hand in hands if hand]
    few = len(labels) <= SMALL
    return torch.from_numpy(logistic_regression(train, labels, folds if few else folds[-1:]).predict(test.numpy()))


def logistic_regression(X: Matrix, labels: Labels, folds: Sequence[Int[Tensor, " _"]], offset: bool = True) -> Any:
    """Return scikit-learn's logistic regression, with the penalty under which rows held out were most likely.

    Args:
        X: (n, d) float64.
        labels: (n,), of at least two classes.
        folds: rows to hold out in turn; none is where the others have a single class.
        offset: fit one.
    """
    from sklearn.linear_model import LogisticRegression

    def fitted(C: float, rows: Bool[Tensor, " sentences"]) -> Any:
        model = LogisticRegression(C=C, max_iter=ITERATIONS, fit_intercept=offset)
        return model.fit(X[rows].numpy(), labels[rows].numpy())

    def likelihood(C: float) -> float:
        return sum(_log_likelihood(fitted(C, rows), X[~rows], labels[~rows]) for rows in known)

    known = [torch.ones(len(labels), dtype=torch.bool).index_fill(0, fold, False) for fold in folds]
    known = [rows for rows in known if len(set(labels[rows].tolist())) > 1]
    best = max(STRENGTHS, key=likelihood) if known else STRENGTHS[len(STRENGTHS) // 2]
    return fitted(best, torch.ones(len(labels), dtype=torch.bool))


def _log_likelihood(model: Any, X: Matrix, labels: Labels) -> float:
    """Return the sum over rows; a class that the model was not shown says nothing of its penalty."""
    logits = torch.from_numpy(model.decision_function(X.numpy()))
    if logits.ndim == 1:  # of two classes the second's, above the first's
        logits = torch.stack([torch.zeros_like(logits), logits], 1)
    found = logits.log_softmax(1)  # scikit-learn's own takes the logarithm of what may be zero
    classes = torch.from_numpy(model.classes_)
    column = torch.searchsorted(classes, labels).clamp(max=len(classes) - 1)
    return float(found.gather(1, column[:, None])[:, 0][classes[column] == labels].sum())


def _mlp(train: Matrix, labels: Labels, test: Asked) -> Answers:
    from sklearn.neural_network import MLPClassifier

    counts = labels.bincount()
    # scikit-learn holds out a tenth with all classes in it, or fails
    divisible = int(counts[counts > 0].min()) > 1 and len(labels) >= 10 * int((counts > 0).sum())
    model = MLPClassifier(
        (HIDDEN,),
        alpha=1.0,
        batch_size=min(BATCH, len(labels) - divisible * math.ceil(len(labels) / 10)),
        early_stopping=divisible,
        n_iter_no_change=PATIENCE,
        max_iter=ITERATIONS,
        random_state=0,
    )
    return torch.from_numpy(model.fit(train.numpy(), labels.numpy()).predict(test.numpy()))


_PROBES: dict[str, Callable[[Matrix, Labels, Asked], Answers]] = {"ridge": _ridge, "logistic": _logistic, "mlp": _mlp}


def control_labels(task: ProbingTask, seed: int) -> tuple[Labels, Answers]:
    """Return labels of the training and the test sentences that say nothing of their language.

    A sentence gets the random label of its rarest word that ``SHARED`` training sentences have, or of its rarest where
    it has none. Labels are drawn in the proportions of the task's own.

    Args:
        task: the real one.
        seed: of the words' labels.
    """
    counts = Counter(word for text in task.train.texts for word in set(text.split()))
    shares = np.cumsum(np.bincount(task.train.labels, minlength=len(task.classes))) / len(task.train)

    def label(text: str) -> int:
        words = [word for word in text.split() if counts[word] >= SHARED] or text.split() or [""]
        word = min(words, key=lambda w: (counts[w], w))
        digest = hashlib.blake2b(word.encode(), key=str(seed).encode(), digest_size=8).digest()
        return min(int(np.searchsorted(shares, int.from_bytes(digest) / 2**64, side="right")), len(task.classes) - 1)

    def labels(sentences: Sentences) -> Labels:
        return torch.tensor([label(text) for text in sentences.texts])

    return labels(task.train), labels(task.test)


def lengths(sentences: Sentences) -> Float[Tensor, "sentences lengths"]:
    """Return the sentences' numbers of words, one-hot: all that the length baseline sees."""
    words = torch.tensor([min(len(text.split()), SENTENCE_LENGTHS) for text in sentences.texts])
    return torch.nn.functional.one_hot(words, SENTENCE_LENGTHS + 1).float()


def labels_of(sentences: Sentences) -> Labels:
    """Return the sentences' classes."""
    return torch.tensor(sentences.labels)


def texts_of(tasks: Sequence[ProbingTask]) -> list[str]:
    """Return all sentences of some tasks: of each the training, then the test sentences."""
    return [text for task in tasks for text in (*task.train.texts, *task.test.texts)]
