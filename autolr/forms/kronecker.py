"""The form ``kronecker``: ``y = Σ_j (A_j ⊗ B_j) x + b``, sums of Kronecker products that are never multiplied out.

A weight is used for several blocks of a vector, so a choice multiplies more often than it has weights.

Source: Van Loan & Pitsianis 1993; KnGPT2 (Edalati et al. 2022, arXiv 2110.08152), without its training.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from torch import Tensor

from autolr.checkpoint.runtime.layers import KroneckerLinear, kronecker_products
from autolr.forms.base import Form, Given
from autolr.forms.gauge import balance
from autolr.methods.kronecker_shapes import most_terms, shapes, term_products, term_weights
from autolr.pareto import non_dominated
from autolr.records import Choice, Unit

NAME = KroneckerLinear.kind
_STEPS = 4
"""Numbers of terms are multiples of the multiple of ranks where a shape has so many of these; else all are offered."""


def kronecker(method: str, terms: int, a_rows: int, a_columns: int) -> Choice:
    """Return the choice of a number of terms and of the shape of A."""
    return Choice(NAME, method, (("terms", terms), ("a_rows", a_rows), ("a_columns", a_columns)))


class Kronecker(Form):
    """A sum of Kronecker products."""

    name = NAME
    layer = KroneckerLinear
    sizes: ClassVar = {"terms": "terms", "a_rows": "rows of A", "a_columns": "columns of A"}
    scale = NAME
    methods = ("van-loan", "van-loan-kfac")

    def options(self, given: Given, multiple: int) -> tuple[Sequence[Choice], np.ndarray]:
        """Return the numbers of terms of each shape and what they leave out, without those that another one beats.

        An option beats another that has no less error, weights and products.
        """
        found, errors = [], []
        for part in given.decomposition:
            shape = part.rows, part.columns
            tails = part.decomposition.tails().numpy()
            for terms in _numbers(most_terms((given.unit.out_features, given.unit.in_features), *shape), multiple):
                found.append(kronecker(given.method, terms, *shape))
                errors.append(tails[terms])
        if not found:
            return [], np.zeros(0)
        prices = [(self.weights(given.unit, choice), self._products(given.unit, choice)) for choice in found]
        best = np.flatnonzero(non_dominated(np.column_stack([errors, prices])))
        return [found[place] for place in best], np.array(errors)[best]

    def weights(self, unit: Unit, choice: Choice) -> int:
        """Return the entries of all A and B."""
        return choice["terms"] * term_weights(unit.out_features, unit.in_features, *_shape(choice))

    def products(self, unit: Unit, choice: Choice) -> Mapping[str, int]:
        """Return the products of both factors, in the order that takes fewer."""
        return {unit.name: self._products(unit, choice)}

    def _products(self, unit: Unit, choice: Choice) -> int:
        return choice["terms"] * term_products(unit.out_features, unit.in_features, *_shape(choice))

    def build(self, given: Given, choice: Choice, like: Tensor) -> KroneckerLinear:
        """Return the layer of a number of terms, A and B of each of them of about the same length."""
        layer = KroneckerLinear(**self.arguments(given.unit, choice), device=like.device, dtype=like.dtype)
        [part] = [part for part in given.decomposition if (part.rows, part.columns) == _shape(choice)]
        a, b = balance(*(factor.to(given.weight.device) for factor in part.decomposition.truncate(choice["terms"])))
        a, b = a.mT.reshape(-1, layer.a_rows, layer.a_columns), b.reshape(-1, layer.b_rows, layer.b_columns)
        layer.fill_(a, b)
        shift = given.weight.new_zeros(len(given.weight)).double() if given.bias is None else given.bias.double()
        if given.mean is not None:
            mean = given.mean.to(a.device).double()
            kept = (a.double() @ mean.reshape(layer.a_columns, -1) @ b.double().mT).sum(0).flatten()
            shift = shift + given.weight.double() @ mean - kept
        layer.bias.data.copy_(shift)
        return layer

    def timed(self, unit: Unit) -> Sequence[Choice]:
        """Return the fewest and the most terms of the first shape and of the last, and the most of one between."""
        dense = unit.out_features, unit.in_features
        offered = shapes(*dense)
        places = dict.fromkeys([0, len(offered) // 2, len(offered) - 1]) if offered else ()
        most = {offered[place]: most_terms(dense, *offered[place]) for place in places}
        between = {shape for place, shape in enumerate(most) if 0 < place < len(most) - 1}
        numbers = {shape: {terms} if shape in between else {1, terms} for shape, terms in most.items()}
        return [kronecker("", terms, *shape) for shape, own in numbers.items() for terms in sorted(own)]

    def terms(self, unit: Unit, choice: Choice) -> tuple[float, ...]:
        """Return a fixed part, the products, and the numbers between the two factors, which change their order."""
        rows, columns = _shape(choice)
        a_first, b_first = kronecker_products(unit.in_features, unit.out_features, rows, columns)
        between = columns * unit.out_features // rows if b_first < a_first else rows * unit.in_features // columns
        return 1.0, float(self._products(unit, choice)), float(choice["terms"] * between)


def _shape(choice: Choice) -> tuple[int, int]:
    return choice["a_rows"], choice["a_columns"]


def _numbers(most: int, multiple: int) -> range:
    """Return the numbers of terms that are offered of at most so many.

    Example:
        >>> list(_numbers(5, 8)), list(_numbers(70, 16))
        ([1, 2, 3, 4, 5], [16, 32, 48, 64])
    """
    step = multiple if most >= _STEPS * multiple else 1
    return range(step, most + 1, step)


FORM = Kronecker()
