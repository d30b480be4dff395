"""The records that hold no tensor: what can be compressed, a choice, a price, a score. They are read without torch."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Heads:
    """How attention's matrices fall into heads that can be left out by themselves.

    Attributes:
        groups: heads of key and value; each is left out with all query heads that read it.
        queries: query heads that read one: 1, but for grouped-query attention.
        width: entries of a head.
    """

    groups: int
    queries: int
    width: int

    @property
    def read(self) -> int:
        """How many inputs a group has in the matrix that reads the heads."""
        return self.queries * self.width

    @property
    def all_read(self) -> int:
        """How many inputs the matrix that reads the heads has."""
        return self.groups * self.read


@dataclass(frozen=True, slots=True)
class Unit:
    """What is compressed as a whole: one weight matrix, or several that are changed together.

    Attributes:
        name: dotted path of the module in the model; of several matrices, of what holds them.
        role: path inside its block, with inner indices as ``*``: equal for the same layer of different blocks.
        block: index of the repeated block that holds it, from 0; -1 outside every block.
        n_blocks: how many blocks there are.
        out_features: rows of ``W``; of several matrices, of the last.
        in_features: columns of ``W``; of several matrices, of the first.
        transposed: the module stores ``W`` as (in, out), as GPT-2's ``Conv1D`` does.
        matrices: the matrices, each as a unit of its own, where there are several: those that make the neurons or the
            heads of attention, then the one that reads them.
        of: what it is: a ``matrix`` by itself, the ``neurons`` of a feed-forward pair, the ``heads`` of an attention,
            its ``value-output`` or its ``query-key`` pair, or an ``embedding``.
        heads: of attention; None of everything else.
    """

    name: str
    role: str
    block: int
    n_blocks: int
    out_features: int
    in_features: int
    transposed: bool = False
    matrices: tuple["Unit", ...] = ()
    of: str = "matrix"
    heads: Heads | None = None

    @property
    def modules(self) -> tuple[str, ...]:
        """Dotted paths of the modules that a choice for this unit replaces."""
        return tuple(matrix.name for matrix in self.matrices) or (self.name,)

    @property
    def weights(self) -> int:
        """How many weights the dense unit has."""
        return sum(matrix.weights for matrix in self.matrices) or self.out_features * self.in_features

    @property
    def multiplied(self) -> int:
        """How many of its weights vectors are multiplied by: all, but for those that are looked up."""
        return self.weights

    @property
    def depth(self) -> float:
        """Relative depth in [0, 1]: 0 is the first block, 1 the last (and every layer outside the blocks)."""
        return 1.0 if self.block < 0 else self.block / max(self.n_blocks - 1, 1)

    @property
    def break_even(self) -> int:
        """Smallest rank at which a low-rank layer is no longer cheaper than the dense one."""
        return break_even_rank(self.out_features, self.in_features)


@dataclass(frozen=True, slots=True)
class Table(Unit):
    """A table of token vectors: the matrix ``W`` (dim, vocabulary) of one-hot inputs, which its module transposes.

    Example:
        >>> Table("wte", "wte", -1, 1, 8, 50, True).of
        'embedding'
    """

    of: str = "embedding"
    multiplied: ClassVar[int] = 0


def break_even_rank(out_features: int, in_features: int) -> int:
    """Return the smallest rank with ``rank * (out + in) >= out * in``.

    Example:
        >>> break_even_rank(384, 384), break_even_rank(1536, 384), break_even_rank(3, 2)
        (192, 308, 2)
    """
    return -(-out_features * in_features // (out_features + in_features))


Sizes = tuple[tuple[str, int], ...]
"""Names and values of what says how large a compressed unit is."""
TOLD_BY_SIZES = {("rank",): "low-rank", ("rank", "rows"): "low-rank-rows"}
"""Forms that stored candidates do not name, for they were the only ones once; there a rank alone has rows 0."""


@dataclass(frozen=True, slots=True, order=True)
class Choice:
    """What is done to one unit.

    Attributes:
        form: what it becomes; a name of :data:`autolr.forms.FORMS`.
        method: what finds the numbers; a name of :data:`autolr.methods.METHODS`.
        sizes: the form's own, in its order.

    Example:
        >>> choice = Choice.of("low-rank", "svd", rank=8)
        >>> choice["rank"], choice.get("rows"), Choice.from_json(choice.to_json()) == choice
        (8, 0, True)
    """

    form: str
    method: str
    sizes: Sizes

    @classmethod
    def of(cls, form: str, method: str, **sizes: int) -> "Choice":
        """Return a choice with its sizes given by name."""
        return cls(form, method, tuple(sizes.items()))

    def __getitem__(self, name: str) -> int:
        """Return one of the sizes."""
        return dict(self.sizes)[name]

    def get(self, name: str, default: int = 0) -> int:
        """Return one of the sizes, or the default where the form has none of this name."""
        return dict(self.sizes).get(name, default)

    def resized(self, **sizes: int) -> "Choice":
        """Return the choice with some of its sizes changed."""
        return replace(self, sizes=tuple({**dict(self.sizes), **sizes}.items()))

    def to_json(self) -> dict[str, str | int]:
        """Return the plain form stored on disk: ``{"method": …, "rank": …, "rows": …}``, or with ``form`` and sizes."""
        sizes = dict(self.sizes)
        if TOLD_BY_SIZES.get(tuple(sizes)) == self.form:
            return {"method": self.method, "rank": sizes["rank"], "rows": sizes.get("rows", 0)}
        return {"form": self.form, "method": self.method, **sizes}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Choice":
        """Rebuild a choice from :meth:`to_json`'s form."""
        sizes = {name: value for name, value in plain.items() if name not in ("form", "method")}
        if "form" not in plain and not sizes.get("rows"):
            sizes.pop("rows", None)
        return cls(plain.get("form") or TOLD_BY_SIZES[tuple(sizes)], plain["method"], tuple(sizes.items()))


@dataclass(frozen=True)
class Candidate:
    """A choice for each compressed unit, sorted by name; a unit that is absent stays dense.

    Example:
        >>> chosen = {"b": Choice.of("low-rank", "svd", rank=8), "a": Choice.of("low-rank", "afm", rank=4)}
        >>> candidate = Candidate.of(chosen)
        >>> [name for name, _ in candidate.choices]
        ['a', 'b']
        >>> candidate == Candidate.from_json(candidate.to_json()), len(candidate.digest)
        (True, 12)
    """

    choices: tuple[tuple[str, Choice], ...] = ()

    @classmethod
    def of(cls, choices: Mapping[str, Choice]) -> "Candidate":
        """Build a candidate from any mapping of unit name to choice."""
        return cls(tuple(sorted(choices.items())))

    def as_dict(self) -> dict[str, Choice]:
        """Return unit name -> choice."""
        return dict(self.choices)

    def to_json(self) -> dict[str, dict[str, str | int]]:
        """Return the plain form stored on disk: ``{unit: {"method": …, "rank": …, "rows": …}}``."""
        return {name: choice.to_json() for name, choice in self.choices}

    @classmethod
    def from_json(cls, plain: Mapping[str, Mapping[str, Any]]) -> "Candidate":
        """Rebuild a candidate from :meth:`to_json`'s form."""
        return cls.of({name: Choice.from_json(choice) for name, choice in plain.items()})

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits that identify the candidate's content."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Conditions:
    """When a cost holds.

    Attributes:
        batch_size: sequences in a batch.
        seq_len: tokens of the longest.
        dtype: of the weights.
        device: where the model runs.
        threads: CPU threads; None: torch's own number.
        lengths: tokens of the batch's sequences in turn, at most ``seq_len``; none: all have ``seq_len``.
    """

    batch_size: int
    seq_len: int
    dtype: str
    device: str = "cpu"
    threads: int | None = None
    lengths: tuple[int, ...] = ()

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Conditions":
        """Rebuild conditions from what JSON made of them."""
        return cls(**{**plain, "lengths": tuple(plain.get("lengths", ()))})


QUANTITIES = ("flops", "params", "nonembedding-params", "memory")
"""What is counted; ``latency`` is measured beside them, where a budget asks for it."""


@dataclass(frozen=True)
class Cost:
    """The price of a model.

    Attributes:
        flops: of one forward pass under ``conditions``; a multiplication and an addition count as two.
        params: all parameters; tied ones once.
        nonembedding_params: the same without the embedding tables.
        memory: bytes of parameters and buffers.
        conditions: batch, length and dtype.
        latency: predicted milliseconds of one forward pass under ``conditions``; None where it was not measured.
    """

    flops: int
    params: int
    nonembedding_params: int
    memory: int
    conditions: Conditions
    latency: float | None = None

    @classmethod
    def from_amounts(cls, amounts: Mapping[str, Any], conditions: Conditions) -> "Cost":
        """Return the price whose quantities have these amounts, by name."""
        counted = {name.replace("-", "_"): amounts[name] for name in QUANTITIES}
        return cls(**counted, conditions=conditions, latency=amounts.get("latency"))

    @property
    def quantities(self) -> tuple[str, ...]:
        """The names of the quantities that are known."""
        return QUANTITIES if self.latency is None else (*QUANTITIES, "latency")

    def get(self, quantity: str) -> int | float:
        """Return one quantity by its name."""
        amount: int | float = {name: getattr(self, name.replace("-", "_")) for name in self.quantities}[quantity]
        return amount

    def ratios(self, dense: "Cost") -> dict[str, float]:
        """Return each quantity as compressed / dense."""
        return {name: self.get(name) / dense.get(name) for name in self.quantities}


@dataclass(frozen=True)
class Score:
    """A measured quality with its standard error and the number of examples it was measured on."""

    value: float
    stderr: float
    n: int

    def to_json(self) -> dict[str, Any]:
        """Return the plain form stored on disk: ``{"value": …, "stderr": …, "n": …}``."""
        return {"value": self.value, "stderr": self.stderr, "n": self.n}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Score":
        """Rebuild a score from :meth:`to_json`'s form."""
        return cls(plain["value"], plain["stderr"], plain["n"])
