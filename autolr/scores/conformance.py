"""The laws every score obeys, as one function, so that a third-party score can be tested with one call."""

from math import isfinite

import torch
from torch import Tensor

from autolr.scores.kind import ScoreKind

_CASES = {"two classes": (40, 2), "five classes": (40, 5), "one example": (1, 3), "one class wins": (9, 3)}
"""Examples and classes."""


def check(kind: ScoreKind, *, seed: int = 0) -> None:
    """Run a score through the laws.

    The laws of the record: a finite order of better and worse, a value within the bounds is left as it is and one
    outside is moved to them, and it has words for tables. Of a score of classification too: one value for each example,
    float64, finite and within the bounds; 0 or 1 where it says so; the same again for the same answers; an example's
    value does not depend on the others; arguments are not changed; what it does not need is not read; and where it
    compares with the dense model alone, no answers are better than the dense model's own.

    Args:
        kind: the score to test.
        seed: of the random answers.

    Raises:
        AssertionError: a law is broken; the message names the law, the case and the figure.

    Example:
        >>> from autolr.scores import SCORES
        >>> check(SCORES.get("divergence"))
    """
    _check_record(kind)
    if kind.values is None:
        return
    assert kind.exponential_of is None, f"score {kind.name} is computed from answers and an exponential at once"
    random = torch.Generator().manual_seed(seed)
    for case, (n, classes) in _CASES.items():
        answers, dense = (3 * torch.randn(n, classes, generator=random) for _ in range(2))
        if case == "one class wins":
            dense[:, 0] += 50.0
        labels = torch.randint(classes, (n,), generator=random)
        _check_values(kind, answers, dense, labels, f"score {kind.name} of {case}")


def _check_record(kind: ScoreKind) -> None:
    low, high = kind.bounds
    inside = next(value for value in (0.5 * (low + high), low + 1.0, high - 1.0, 0.0) if isfinite(value))
    assert kind.clipped(inside) == inside, f"score {kind.name} moves {inside}, which is within its bounds"
    assert low <= kind.clipped(low - 1.0 if isfinite(low) else low) <= high, f"score {kind.name} leaves its bounds"
    assert kind.help, f"score {kind.name} needs a help sentence"
    assert kind.show(inside, 0.01), f"score {kind.name} shows nothing"


def _check_values(kind: ScoreKind, answers: Tensor, dense: Tensor, labels: Tensor, label: str) -> None:
    assert kind.values is not None
    given = answers, dense, labels
    before = [tensor.clone() for tensor in given]
    values = kind.values(*given)
    for tensor, earlier in zip(given, before, strict=True):
        assert torch.equal(tensor, earlier), f"{label} changed an argument"
    assert tuple(values.shape) == (len(answers),), f"{label} has shape {tuple(values.shape)}, not ({len(answers)},)"
    assert values.dtype == torch.float64, f"{label} is {values.dtype}, not float64"
    assert bool(torch.isfinite(values).all()), f"{label} is not finite"
    low, high = kind.bounds
    assert bool(((values >= low) & (values <= high)).all()), f"{label}: a value is outside [{low:g}, {high:g}]"
    if kind.binary:
        assert bool(((values == 0) | (values == 1)).all()), f"{label} is said to be 0 or 1, and is not"
    assert torch.equal(values, kind.values(*given)), f"{label} is not deterministic"
    some = torch.arange(0, len(answers), 2)
    alone = kind.values(*(tensor[some] for tensor in given))
    assert torch.allclose(alone, values[some]), f"{label}: an example's value depends on the others"
    if "labels" not in kind.needs:
        other = (labels + 1) % answers.shape[1]
        assert torch.equal(values, kind.values(answers, dense, other)), f"{label} reads labels, and says it does not"
    if "dense" not in kind.needs:
        assert torch.equal(values, kind.values(answers, -dense, labels)), (
            f"{label} reads the dense model's answers, and says it does not"
        )
    if kind.needs == {"dense"}:
        own, changed = kind.values(dense, dense, labels), values
        assert bool((kind.sign * own <= kind.sign * changed + 1e-9).all()), f"{label}: the dense answers are beaten"
