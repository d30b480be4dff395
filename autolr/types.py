"""The records that flow between the stages, all frozen: those that hold tensors, and those of :mod:`autolr.records`.

Notation: a linear layer is ``y = W x + b`` with ``W (out, in)`` as in ``torch.nn.Linear``; a low-rank layer is
``y = left (right x) + b`` with ``left (out, rank)`` and ``right (rank, in)``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, device

from autolr.records import (
    QUANTITIES,
    Candidate,
    Choice,
    Conditions,
    Cost,
    Score,
    Table,
    Unit,
    break_even_rank,
)

__all__ = [
    "QUANTITIES",
    "Candidate",
    "Choice",
    "Conditions",
    "Core",
    "Cost",
    "Decomposition",
    "Elimination",
    "Evaluation",
    "LayerStats",
    "Method",
    "Need",
    "Rearranged",
    "Remainder",
    "Score",
    "ScoreDims",
    "Table",
    "TableFactors",
    "Unit",
    "break_even_rank",
    "turned_rows",
]

Need = Literal["moments", "gradients", "masks"]


@dataclass(frozen=True)
class LayerStats:
    """What calibration measured of one layer, float64; a token is one live position of the calibration data.

    Padding is not counted, nor are positions of whose output nothing is read (a classifier that reads one position
    leaves most of its last block unread).

    Attributes:
        n_tokens: live tokens seen.
        n_examples: sequences seen.
        mean: ``E[x]``, (in,).
        in_gram: ``E[x xᵀ]``, (in, in), the input second moment; of one-hot inputs, as a table of vectors has, its
            diagonal, (in,), which is the mean.
        mean_abs: ``E|x|``, (in,).
        fisher_in: ``Σ_out E[(∂loss/∂W)²]`` per example, (in,); None without gradients. The gradient of a layer that
            several blocks share is a whole.
        out_gram: ``E[g gᵀ]`` with ``g = ∂loss/∂y`` of an example's loss, per token, (out, out); None without gradients.
        mask_gram: ``E[d dᵀ]`` per example, ``d = Σ_tokens x ⊙ Wᵀ g``, the gradient of the loss by a factor of each
            input, at 1, (in, in): the Fisher information of masks. None where no method needs masks.
    """

    n_tokens: int
    n_examples: int
    mean: Float[Tensor, " in"]
    in_gram: Float[Tensor, "in in"] | Float[Tensor, " in"]
    mean_abs: Float[Tensor, " in"]
    fisher_in: Float[Tensor, " in"] | None = None
    out_gram: Float[Tensor, "out out"] | None = None
    mask_gram: Float[Tensor, "in in"] | None = None

    def to(self, where: device) -> "LayerStats":
        """Return the statistics on a device."""
        tensors: dict[str, Any] = {k: value.to(where) for k, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)

    @property
    def tokens_per_example(self) -> float:
        """Mean number of live tokens in a sequence."""
        return self.n_tokens / self.n_examples

    @property
    def in_covariance(self) -> Float[Tensor, "in in"]:
        """``E[x xᵀ] − E[x] E[x]ᵀ``, (in, in)."""
        return self.in_gram - torch.outer(self.mean, self.mean)


@dataclass(frozen=True)
class Decomposition:
    """A factorization computed once at full rank; every rank of a search is a slice of it.

    Attributes:
        left: ``L⁻¹ U``, (out, k), columns by falling singular value; k is at most the break-even rank on disk.
        singular_values: all ``min(out, in)`` of them, of ``L W R``, falling.
        right: ``Uᵀ L W``, (k, in).
        row_energy: (out,) squared norms of the rows of ``L W R``, for methods that keep rows (then L is diagonal).
        row_metric: (out,) the diagonal of ``L``, for methods that keep rows.
    """

    left: Float[Tensor, "out k"]
    singular_values: Float[Tensor, " full"]
    right: Float[Tensor, "k in"]
    row_energy: Float[Tensor, " out"] | None = None
    row_metric: Float[Tensor, " out"] | None = None

    @property
    def max_rank(self) -> int:
        """Largest rank that can be sliced."""
        return self.right.shape[0]

    def truncate(self, rank: int) -> tuple[Float[Tensor, "out rank"], Float[Tensor, "rank in"]]:
        """Return ``(left, right)`` of the best approximation of this rank.

        Args:
            rank: in [0, max_rank]; 0 leaves nothing of the weight.

        Raises:
            ValueError: the rank is outside that range.
        """
        if not 0 <= rank <= self.max_rank:
            raise ValueError(f"rank must lie in [0, {self.max_rank}], got {rank}")
        return self.left[:, :rank], self.right[:rank]

    def tail_energy(self, rank: int) -> float:
        """Return ``Σ_{j>rank} s_j²``, the squared error ``‖L (W − M) R‖²_F`` at this rank."""
        return float(self.singular_values[rank:].double().square().sum())

    def tails(self) -> Float[Tensor, " full_plus_1"]:
        """Return the whole error curve: entry r is ``tail_energy(r)``, float64, from rank 0 to full rank."""
        squared = self.singular_values.double().square()
        return torch.cat([squared.flip(0).cumsum(0).flip(0), squared.new_zeros(1)])

    def row_residuals(self, rank: int) -> Float[Tensor, " out"]:
        """Return each output row's share of ``tail_energy(rank)``, (out,) float64.

        Raises:
            ValueError: this decomposition's method does not keep rows.
        """
        if self.row_energy is None or self.row_metric is None:
            raise ValueError("this decomposition has no separable rows; only row-keeping methods have")
        scaled = self.row_metric.double()[:, None] * self.left[:, :rank].double() * self.singular_values[:rank].double()
        return (self.row_energy.double() - scaled.square().sum(1)).clamp(min=0.0)


@dataclass(frozen=True)
class Rearranged:
    """Low rank of a rearranged matrix, of which rank s is a sum of s Kronecker products: ``W ≈ Σ_{j≤s} A_j ⊗ B_j``.

    Attributes:
        rows: of each A_j; B_j has as many as make up those of W.
        columns: of each A_j.
        decomposition: of the matrix whose rows are W's blocks of the size of B: ``left`` (rows · columns, k), the
            entries of each A_j row by row; ``right`` (k, entries of B), likewise.
    """

    rows: int
    columns: int
    decomposition: Decomposition


@dataclass(frozen=True)
class Remainder:
    """Low rank of what a number of neurons leaves of the matrices that make and read them.

    Attributes:
        count: how many neurons stay.
        matrices: a decomposition of each matrix, (count, in) of those that make them, (out, count) of the one that
            reads them; their tails are on the scale of the elimination's errors.
    """

    count: int
    matrices: tuple[Decomposition, ...]


@dataclass(frozen=True)
class Elimination:
    """A nested order of a matrix's inputs, and what least squares makes of those that stay.

    Attributes:
        order: (n,) the inputs, the most needed first.
        root: (n, n) upper triangle with ``C = rootᵀ root`` in that order.
        projected: (out, n), ``W rootᵀ`` in that order.
        errors: (n + 1,) float64, ``‖L (W x − W′ x_J)‖²`` per token where the first k inputs stay, from k = 0.
        remainders: low rank of what some numbers leave, rising; none where the method has none.
        turn: (groups, width, width), what the entries of each head of value are multiplied by before: inputs are then
            those of the turned heads, first by group, then by entry, then by query head; None: nothing.
    """

    order: Int[Tensor, " n"]
    root: Float[Tensor, "n n"]
    projected: Float[Tensor, "out n"]
    errors: Float[Tensor, " n_plus_1"]
    remainders: tuple[Remainder, ...] = ()
    turn: Float[Tensor, "groups width width"] | None = None

    def kept(self, count: int) -> Int[Tensor, " count"]:
        """Return the inputs that stay where so many do, rising."""
        return self.order[:count].sort().values

    def weight(self, count: int) -> Float[Tensor, "out count"]:
        """Return ``W′`` for :meth:`kept`, (out, count) float64."""
        root = self.root[:count, :count].double()
        fitted: Tensor = torch.linalg.solve_triangular(
            root.mT, self.projected[:, :count].double(), upper=False, left=False
        )
        return fitted[:, self.order[:count].argsort()]

    def covariance(self, count: int) -> Float[Tensor, "count count"]:
        """Return the covariance of :meth:`kept`, (count, count) float64."""
        root, rising = self.root[:count, :count].double(), self.order[:count].argsort()
        return (root.mT @ root)[rising][:, rising]

    def remainder(self, count: int) -> Remainder:
        """Return the low rank of what so many neurons leave.

        Raises:
            KeyError: there is none for this number.
        """
        return {remainder.count: remainder for remainder in self.remainders}[count]


def turned_rows(
    tensor: Float[Tensor, "rows ..."], turn: Float[Tensor, "groups width width"]
) -> Float[Tensor, "rows ..."]:
    """Return rows, or a bias, of which the entries of each head are multiplied by its group's matrix.

    Args:
        tensor: (heads x width, ...); of query heads several in turn belong to a group.
        turn: of each group.

    Example:
        >>> swap = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
        >>> turned_rows(torch.tensor([1.0, 2.0, 3.0, 4.0]), swap).tolist()
        [2.0, 1.0, 4.0, 3.0]
    """
    groups, width, _ = turn.shape
    heads = tensor.reshape(groups, -1, width, tensor[0].numel())
    turned: Tensor = turn[:, None] @ heads.to(turn)
    return turned.reshape(tensor.shape)


@dataclass(frozen=True)
class ScoreDims:
    """A nested order of the entries of queries and keys in which heads compute their scores.

    Attributes:
        order: (n,) entries of the turned keys, group by group, the most needed first.
        errors: (n + 1,) float64, where the first k entries stay, from k = 0.
        query_turn: (groups, width, width), what the entries of each query head are multiplied by first.
        key_turn: the same of each key head; the scores of all entries are as before.
    """

    order: Int[Tensor, " n"]
    errors: Float[Tensor, " n_plus_1"]
    query_turn: Float[Tensor, "groups width width"]
    key_turn: Float[Tensor, "groups width width"]

    def kept(self, count: int) -> Int[Tensor, " count"]:
        """Return the entries that stay where so many do, rising."""
        return self.order[:count].sort().values


@dataclass(frozen=True)
class Core:
    """Low rank of the vectors that a number of the most frequent tokens, kept as they are, leaves of a table.

    Attributes:
        count: how many tokens are kept.
        mean: (dim,) of the other tokens' vectors, by their frequency.
        vectors: (dim, k) the eigenvectors of their covariance in the metric of the outputs, by falling eigenvalue.
        singular_values: (k,) the square roots of the eigenvalues, falling.
    """

    count: int
    mean: Float[Tensor, " dim"]
    vectors: Float[Tensor, "dim k"]
    singular_values: Float[Tensor, " k"]


@dataclass(frozen=True)
class TableFactors:
    """What low rank makes of a table of vectors ``e`` (dim,): ``e ≈ mean + L⁻¹ U Uᵀ L (e − mean)``.

    Attributes:
        order: (vocabulary,) the tokens by falling frequency.
        root: ``L``, (dim, dim), symmetric and regular, with ``L L`` the metric of the outputs.
        cores: for some numbers of tokens that are kept as they are, rising from 0.
    """

    order: Int[Tensor, " vocabulary"]
    root: Float[Tensor, "dim dim"]
    cores: tuple[Core, ...]

    def core(self, count: int) -> Core:
        """Return what is left by so many tokens.

        Raises:
            KeyError: it was not computed for this number.
        """
        return {core.count: core for core in self.cores}[count]

    def tails(self, count: int) -> Float[Tensor, " k_plus_1"]:
        """Return the expected squared error of a token in the metric, float64, for ranks from 0 to full rank."""
        squared = self.core(count).singular_values.double().square()
        return torch.cat([squared.flip(0).cumsum(0).flip(0), squared.new_zeros(1)])


@dataclass(frozen=True)
class Method:
    """A closed-form factorization method: a record of its name, its needs and one pure function.

    Attributes:
        name: how it is named on the command line.
        version: raised whenever its results change, so that stored decompositions are not mistaken for new ones.
        needs: which statistics it reads.
        decompose: ``(weight (out, in) float64, statistics or None) -> Decomposition``, float64; of a method for
            neurons ``(weights, statistics) -> Elimination``, both of every matrix of the pair, the reading one last;
            of one for attention ``(weights, statistics, heads)``, likewise; of one for queries and keys
            ``(weights, statistics, heads, biases) -> ScoreDims``; of one for embeddings
            ``(table (dim, vocabulary), statistics) -> TableFactors``; of one that rearranges
            ``(weight, statistics or None) -> tuple[Rearranged, ...]``.
        source: author, year and identifier of the publication.
        keeps_rows: it can keep single output rows dense; its choices carry ``rows``.
        of: what it is for: see :attr:`autolr.records.Unit.of`.
        rearranges: it decomposes a matrix rearranged, in several shapes, for sums of Kronecker products.
    """

    name: str
    version: int
    needs: frozenset[Need]
    decompose: Callable[..., Any]  # as ``of`` says
    source: str
    keeps_rows: bool = False
    of: Literal["matrix", "neurons", "heads", "value-output", "query-key", "embedding"] = "matrix"
    rearranges: bool = False

    @property
    def comes_with_form(self) -> bool:
        """Whether it is for one kind of form alone, which brings it; others a study names."""
        return self.of != "matrix" or self.rearranges

    def fits(self, unit: Unit) -> bool:
        """Tell whether a unit is of the kind that the method is for."""
        return unit.of == self.of


@dataclass(frozen=True)
class Evaluation:
    """A candidate with what was measured of it.

    Attributes:
        candidate: what was evaluated.
        cost: its price.
        scores: by name; estimates of what the whole data would give where the evaluation was stopped.
        seconds: spent on each step.
        logits: its answers to all examples; None where the evaluation was stopped.
        stopped_by: the trial that dominates it with confidence, so that the rest of the examples was spared; else None.
        stderr: standard error of the study's objective, as far as it differs from that trial's.
        probe_stderr: of the probes' score, as far as it differs from the dense model's.
    """

    candidate: Candidate
    cost: Cost
    scores: Mapping[str, Score]
    seconds: Mapping[str, float] = field(default_factory=dict)
    logits: Float[Tensor, "examples classes"] | None = None
    stopped_by: int | None = None
    stderr: float = 0.0
    probe_stderr: float = 0.0
