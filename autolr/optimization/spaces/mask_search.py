"""Kwon et al.'s search of masks: which heads and neurons fit into a budget and have the largest Fisher information.

Which of a layer's masks stay at a number is decided by the layer's record (:mod:`autolr.methods.masks`); here the
numbers are found, by the diagonal of the Fisher information. For each number of heads of the whole model those of the
largest are kept, and of the neurons, by falling Fisher information, as many as then fit; of these candidates the one
that keeps most is taken.

Source: Kwon et al. 2022 (arXiv 2204.09656), algorithm 1. Other than published, every layer keeps a head and a neuron at
least, for none can be without; and what fits is asked of the budgets themselves, whichever they are.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import numpy as np

from autolr.bank import Bank
from autolr.errors import BudgetError, UsageError
from autolr.forms.heads import HeadsForm
from autolr.forms.masked_heads import FORM as HEADS
from autolr.forms.masked_neurons import FORM as NEURONS
from autolr.forms.neurons import Neurons
from autolr.problem import LoadedProblem
from autolr.records import Candidate, Choice

KWON = "kwon"
Importance = Mapping[str, np.ndarray]
"""Unit -> (masks,) the Fisher information of each of its masks."""
Counts = Counter[str]
"""Unit -> how many of its masks stay."""


@dataclass(frozen=True)
class _Order:
    """The masks of all heads, or of all neurons, in the order in which they are kept.

    Attributes:
        units: of each mask.
        kept: Fisher information of the first k, from k = 0.
        least: masks that are always kept, one of each unit.
    """

    units: tuple[str, ...]
    kept: tuple[float, ...]
    least: int

    @classmethod
    def of(cls, importance: Importance) -> "_Order":
        first, rest = [], []
        for name, values in importance.items():
            own = [(-float(value), name) for value in sorted(values, reverse=True)]
            first.append(own[0])
            rest.extend(own[1:])
        order = first + sorted(rest, key=lambda mask: mask[0])
        kept = accumulate((-value for value, _ in order), initial=0.0)
        return cls(tuple(name for _, name in order), tuple(kept), len(first))

    def counts(self, kept: int) -> Counts:
        """Return how many masks of each unit are among the first."""
        return Counter(self.units[:kept])


def search_masks(
    heads: Importance, neurons: Importance, fits: Callable[[Counts, Counts], bool]
) -> tuple[Counts, Counts]:
    """Return how many heads and neurons of each unit stay.

    Args:
        heads: Fisher information of each head's mask.
        neurons: of each neuron's.
        fits: tells whether so many of them meet the budgets; where some do, fewer do.

    Raises:
        BudgetError: one head and one neuron of each unit are too many.

    Example:
        >>> heads, neurons = {"attention": np.array([5.0, 1.0])}, {"pair": np.array([3.0, 2.5, 2.0])}
        >>> kept = search_masks(heads, neurons, lambda h, n: 2 * h.total() + n.total() <= 5)  # a head costs two
        >>> [dict(counts) for counts in kept]
        [{'attention': 1}, {'pair': 3}]
    """
    of_heads, of_neurons = _Order.of(heads), _Order.of(neurons)
    best: tuple[float, int, int] | None = None
    for n_heads in range(of_heads.least, len(of_heads.units) + 1):
        counts = of_heads.counts(n_heads)
        sizes = range(of_neurons.least, len(of_neurons.units) + 1)
        fitting = bisect_left(sizes, True, key=partial(_exceeds, fits, counts, of_neurons))
        if not fitting:
            continue
        n_neurons = sizes[fitting - 1]
        total = of_heads.kept[n_heads] + of_neurons.kept[n_neurons]
        if best is None or total > best[0]:
            best = (total, n_heads, n_neurons)
    if best is None:
        raise BudgetError("the budget is not met by one head and one neuron of each layer; raise it")
    return of_heads.counts(best[1]), of_neurons.counts(best[2])


def _exceeds(fits: Callable[[Counts, Counts], bool], heads: Counts, neurons: _Order, kept: int) -> bool:
    return not fits(heads, neurons.counts(kept))


def masks_by_fisher(inputs: LoadedProblem, bank: Bank) -> Candidate:
    """Return the candidate of a study.

    Raises:
        UsageError: the study's forms are others, or the model has neither neurons nor heads that could be left out.
        BudgetError: the budgets are not reached.
    """
    space, got = inputs.spec.search.space, ", ".join(inputs.form_names)
    if not {HEADS.name, NEURONS.name} <= set(inputs.form_names):
        raise UsageError(
            f"--space {space} is one of masks, and needs --form {NEURONS.name} --form {HEADS.name} (got {got})"
        )
    of_heads, of_neurons = _importance(inputs, bank, "heads", HEADS), _importance(inputs, bank, "neurons", NEURONS)
    if not of_heads and not of_neurons:
        raise UsageError(f"--space {space}: this model has no heads or neurons that could be left out; choose another")

    def candidate(heads: Counts, neurons: Counts) -> Candidate:
        choices: dict[str, Choice] = {}
        for form, importance, counts in ((HEADS, of_heads, heads), (NEURONS, of_neurons, neurons)):
            [method] = form.methods
            for name, count in counts.items():
                if count < len(importance[name]):  # with all of them the layer is dense
                    choices[name] = form.choice(method, count)
        return Candidate.of(choices)

    counts = search_masks(of_heads, of_neurons, lambda heads, neurons: inputs.fits(candidate(heads, neurons)))
    return candidate(*counts)


def _importance(inputs: LoadedProblem, bank: Bank, kind: str, form: HeadsForm | Neurons) -> Importance:
    """Return the Fisher information of the masks of the units that a form is for."""
    [method] = form.methods
    names = [unit.name for unit in inputs.units.groups if unit.of == kind]
    return {name: bank.decomposition(name, method).importance.numpy() for name in names}
