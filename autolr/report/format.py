"""How a single measured value is printed."""

from autolr.records import Conditions, Score
from autolr.scores import SCORES, ScoreKind
from autolr.scores.kind import SHARE, shown_share


def amount(value: int | float, quantity: str) -> str:
    """Return an amount of a quantity as it is printed.

    Example:
        >>> amount(1234567, "flops"), amount(12.3456, "latency")
        ('1,234,567', '12.35 ms')
    """
    return f"{value:.2f} ms" if quantity == "latency" else f"{value:,.0f}"


def percent(score: Score) -> str:
    """Return a share with its standard error in per cent.

    Example:
        >>> percent(Score(0.8125, 0.01, 1500))
        '81.2 ± 1.0'
    """
    return shown_share(score.value, score.stderr)


def with_unit(kind: ScoreKind, score: Score) -> str:
    """Return a score with its standard error and its unit.

    Example:
        >>> with_unit(SCORES.get("accuracy"), Score(0.8125, 0.01, 1500))
        '81.2 ± 1.0 %'
    """
    unit = "%" if kind.unit == SHARE else kind.unit
    return f"{kind.show(score.value, score.stderr)} {unit}".rstrip()


def signed(kind: ScoreKind, value: float, stderr: float) -> str:
    """Return a difference of two values of a score, with its sign, its standard error and its unit.

    Example:
        >>> signed(SCORES.get("accuracy"), -0.0125, 0.004), signed(SCORES.get("loss"), 0.0213, 0.0016)
        ('-1.2 ± 0.4 points', '+0.0213 ± 0.0016 nats')
    """
    if kind.unit == SHARE:
        return f"{100 * value:+.1f} ± {100 * stderr:.1f} points"
    return f"{value:+.4f} ± {stderr:.4f} {kind.unit}".rstrip()


def shown_kinds(names: frozenset[str]) -> list[ScoreKind]:
    """Return the scores that a table shows of the measured ones: of a score and its exponential the latter.

    A score of a task that this process does not know is shown as a plain number.

    Args:
        names: of the scores that were measured.

    Example:
        >>> [kind.name for kind in shown_kinds(frozenset({"accuracy", "loss"}))]
        ['accuracy', 'perplexity']
        >>> [kind.name for kind in shown_kinds(frozenset({"accuracy", "brief"}))]
        ['accuracy', 'brief']
    """
    kinds = [kind for kind in SCORES if kind.measured in names]
    kinds += [ScoreKind(name, "smaller") for name in sorted(names - set(SCORES.names()))]
    replaced = {kind.exponential_of for kind in kinds}
    return [kind for kind in kinds if kind.name not in replaced]


def at_chance(score: Score, majority: float | None) -> bool:
    """Tell whether a score is not distinguishably above that of always giving the commonest answer.

    Args:
        score: of which more is better.
        majority: what the commonest answer alone gives; None: there is no such level.

    Example:
        >>> at_chance(Score(0.35, 0.02, 600), 0.34), at_chance(Score(0.8, 0.02, 600), 0.34)
        (True, False)
    """
    return majority is not None and score.value <= majority + 2 * score.stderr


def counted(n: int, noun: str) -> str:
    """Return a number of things.

    Example:
        >>> counted(1, "task"), counted(3, "task")
        ('1 task', '3 tasks')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def conditions_line(conditions: Conditions) -> str:
    """Return what a time or a cost holds for, in words.

    Example:
        >>> conditions_line(Conditions(8, 128, "float32", threads=2))
        'batch of 8 x 128 tokens, float32, cpu, 2 threads'
    """
    tokens = f"{conditions.batch_size} x {conditions.seq_len} tokens"
    lengths = ", ".join(map(str, conditions.lengths))
    padded = f" (sequences of {lengths} in turn)" if lengths else ""
    threads = f", {conditions.threads} threads" if conditions.threads and conditions.device == "cpu" else ""
    return f"batch of {tokens}{padded}, {conditions.dtype}, {conditions.device}{threads}"
