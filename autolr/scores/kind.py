"""The record of a score: what it is called, which way is better, how it is shown, and how it is computed."""

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, inf
from typing import TYPE_CHECKING, Literal

from autolr.registry import is_name

if TYPE_CHECKING:  # a specification is checked against the table, and must not wait for torch
    import torch

ClassValues = Callable[["torch.Tensor", "torch.Tensor", "torch.Tensor"], "torch.Tensor"]
"""(answers (n, classes), the dense model's (n, classes), labels (n,) int64) -> a value for each example, (n,) float64.

Answers are logits, float32. The score is the mean of the values; its standard error follows from them.
"""
Need = Literal["dense", "labels"]
SHARE = "share"
"""Unit of what is shown in per cent, and whose differences are points."""


def shown_share(value: float, stderr: float) -> str:
    """Return a share in per cent; where all examples agree, without an error, of which they say nothing.

    Example:
        >>> shown_share(0.8125, 0.01), shown_share(1.0, 0.0)
        ('81.2 ± 1.0', '100.0')
    """
    unanimous = value in (0.0, 1.0) and stderr == 0.0
    return f"{100 * value:.1f}" if unanimous else f"{100 * value:.1f} ± {100 * stderr:.1f}"


@dataclass(frozen=True)
class ScoreKind:
    """One score of a model: the mean of a value over examples.

    Attributes:
        name: lower-case letters, digits, ``-`` and ``_``; so it is called on the command line and in files.
        better: which of two values is the better one.
        help: what it is, in half a sentence.
        unit: ``share``, ``nats`` or any other; empty: a plain number.
        bounds: the least and the greatest value that it can have.
        column: title of its column in tables; empty: the name.
        limit: a floor (where larger is better) or a ceiling may name it.
        binary: an example's value is 0 or 1; then candidates do not differ where earlier ones did, and a race draws all
            examples alike.
        needs: what it is computed from besides the answers: ``labels``, and ``dense``, the dense model's answers.
        values: computes it from a classifier's answers; None: a task, or the probes, compute it themselves.
        exponential_of: it is not measured, but shown and limited: exp of this score's mean.

    Example:
        >>> kind = ScoreKind("f1", "larger", help="mean of precision and recall", unit="share", bounds=(0.0, 1.0))
        >>> kind.sign, kind.title, kind.show(0.8125, 0.01), kind.difference(0.021)
        (-1.0, 'f1 %', '81.2 ± 1.0', '2.1 points')
    """

    name: str
    better: Literal["smaller", "larger"]
    help: str = ""
    unit: str = ""
    bounds: tuple[float, float] = (0.0, inf)
    column: str = ""
    limit: bool = True
    binary: bool = False
    needs: frozenset[Need] = frozenset()
    values: ClassValues | None = None
    exponential_of: str | None = None

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError(f"a score's name must be lower-case letters, digits, - and _, got {self.name!r}")
        if self.better not in ("smaller", "larger"):
            raise ValueError(f"score {self.name}: better must be 'smaller' or 'larger', got {self.better!r}")
        if not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"score {self.name}: the bounds must ascend, got {self.bounds}")
        if unknown := set(self.needs) - {"dense", "labels"}:
            raise ValueError(f"score {self.name}: needs are 'dense' and 'labels', got {sorted(unknown)}")

    @property
    def sign(self) -> float:
        """1 where less is better, −1 where more is."""
        return 1.0 if self.better == "smaller" else -1.0

    @property
    def measured(self) -> str:
        """Name of the score that is measured: this one, or the one whose exponential this is."""
        return self.exponential_of or self.name

    @property
    def against_dense(self) -> bool:
        """It compares a model with the dense one, and says nothing of the dense model itself."""
        return "dense" in self.needs

    @property
    def title(self) -> str:
        """Title of its column in tables."""
        return self.column or (f"{self.name} %" if self.unit == SHARE else self.name)

    def clipped(self, value: float) -> float:
        """Return an estimate moved to the nearest value that the score can have.

        Example:
            >>> ScoreKind("kl", "smaller").clipped(-0.001), ScoreKind("f1", "larger", bounds=(0.0, 1.0)).clipped(1.2)
            (0.0, 1.0)
        """
        return min(max(value, self.bounds[0]), self.bounds[1])

    def show(self, value: float, stderr: float) -> str:
        """Return a measured value with its standard error: a share in per cent, others to three digits.

        Of an exponential ``value`` and ``stderr`` are those of the score that is measured.

        Example:
            >>> ScoreKind("kl", "smaller", unit="nats").show(0.01234, 0.00056)
            '0.0123 ± 0.0006'
            >>> ScoreKind("perplexity", "smaller", exponential_of="loss").show(2.0, 0.01)
            '7.389'
        """
        if self.exponential_of is not None:
            return f"{exp(value):.4g}"
        if self.unit == SHARE:
            return shown_share(value, stderr)
        return f"{value:.3g} ± {stderr:.1g}"

    def difference(self, amount: float) -> str:
        """Return a difference of two values in words.

        Example:
            >>> ScoreKind("kl", "smaller", unit="nats").difference(0.0123456)
            '0.0123 nats'
        """
        return f"{100 * amount:.1f} points" if self.unit == SHARE else f"{amount:.3g} {self.unit or 'of ' + self.name}"
