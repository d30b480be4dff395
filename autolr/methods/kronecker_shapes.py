"""The shapes in which a matrix is made of Kronecker products: which are of use, and how many terms of each."""

from math import prod, sqrt

from jaxtyping import Float
from torch import Tensor

from autolr.checkpoint.runtime.layers import kronecker_products

SHAPES = 4
"""Shapes of a matrix that are offered for the products they take, and as many for their weights."""


def rearranged(weight: Float[Tensor, "out in"], rows: int, columns: int) -> Float[Tensor, "a b"]:
    """Return a matrix whose rows are the blocks of a weight, so that a sum of s terms ``A ⊗ B`` has rank s.

    Args:
        weight: W, (out, in).
        rows: of A, a divisor of out.
        columns: of A, a divisor of in.

    Returns:
        (entries of A, entries of B), both row by row.

    Example:
        >>> import torch
        >>> A, B = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0]])
        >>> rearranged(torch.kron(A, B), 1, 2).tolist()
        [[3.0, 4.0, 5.0, 6.0], [6.0, 8.0, 10.0, 12.0]]

    Source:
        Van Loan & Pitsianis 1993.
    """
    out_features, in_features = weight.shape
    blocks = weight.reshape(rows, out_features // rows, columns, in_features // columns)
    table: Tensor = blocks.permute(0, 2, 1, 3).reshape(rows * columns, -1)
    return table


def shapes(out_features: int, in_features: int) -> list[tuple[int, int]]:
    """Return rows and columns of A in the shapes that are offered, the best first.

    Left out are the two in which A and B are a column and a row, for these sums are low rank, and all in which a single
    term takes as many products as the dense matrix; where sizes have too few divisors none is left.

    Heuristic: of a random matrix the first term holds a share of the energy near ``(√a + √b)² / a b``, with a entries
    of A and b of B (Marchenko & Pastur 1967). Offered are the shapes of the largest shares for their products, and for
    their weights. That is the order in which shapes were measured to leave errors in MiniLM's layers.

    Example:
        >>> shapes(16, 8), shapes(5, 7)
        ([(1, 4), (16, 2), (2, 8), (8, 1), (2, 4), (8, 2)], [])
    """
    dense = out_features, in_features
    low_rank = {(out_features, 1), (1, in_features)}
    pairs = [(rows, columns) for rows in _divisors(out_features) for columns in _divisors(in_features)]
    useful = [pair for pair in pairs if pair not in low_rank and most_terms(dense, *pair)]
    products = {pair: term_products(*dense, *pair) for pair in useful}
    held = {pair: (sqrt(pair[0] * pair[1]) + sqrt(prod(dense) // prod(pair))) ** 2 for pair in useful}

    def least_first(price: int, pair: tuple[int, int]) -> tuple[float, int, tuple[int, int]]:
        return round(price / held[pair], 9), products[pair], pair

    for_products = sorted(useful, key=lambda pair: least_first(products[pair], pair))
    for_weights = sorted(useful, key=lambda pair: least_first(term_weights(*dense, *pair), pair))
    return list(dict.fromkeys([*for_products[:SHAPES], *for_weights[:SHAPES]]))


def term_weights(out_features: int, in_features: int, rows: int, columns: int) -> int:
    """Return how many weights a term has, of A and B together."""
    return rows * columns + out_features * in_features // (rows * columns)


def term_products(out_features: int, in_features: int, rows: int, columns: int) -> int:
    """Return how often a term multiplies by a weight for each vector, which is never less often than it has weights."""
    return min(kronecker_products(in_features, out_features, rows, columns))


def most_terms(shape: tuple[int, int], rows: int, columns: int) -> int:
    """Return the largest number of terms that take fewer products than the dense matrix, and no more than it needs.

    Args:
        shape: of the dense matrix, (out, in).
        rows: of A.
        columns: of A.

    Example:
        >>> most_terms((16, 8), 8, 2)
        2
    """
    dense, entries = shape[0] * shape[1], rows * columns
    return min((dense - 1) // term_products(*shape, rows, columns), entries, dense // entries)


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
