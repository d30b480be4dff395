"""Words as sets: the meaning of a word is the set of cases it covers, and two words are related as their sets are."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Relation = Literal["equal", "forward", "reverse", "disjoint", "overlap"]
Tree = Mapping[str, Any]
"""Word, or synonyms as ``a/b``, -> the same for its sub-kinds."""

ANY = ""
"""The empty word: no constraint, every case."""


def relation(one: int, other: int) -> Relation:
    """Compare two sets given as bit masks.

    Returns:
        ``forward`` when the first lies within the second, ``reverse`` when it holds the second, ``disjoint`` when
        nothing is in both, ``overlap`` when each has cases of its own.

    Example:
        >>> relation(0b011, 0b011), relation(0b001, 0b011), relation(0b011, 0b001)
        ('equal', 'forward', 'reverse')
        >>> relation(0b011, 0b100), relation(0b011, 0b110)
        ('disjoint', 'overlap')
    """
    common = one & other
    if not common:
        return "disjoint"
    if common == one:
        return "equal" if common == other else "forward"
    return "reverse" if common == other else "overlap"


@dataclass(frozen=True)
class Taxonomy:
    """The words that can fill one slot of a scene.

    Attributes:
        masks: word -> the cases it covers, as bits; ``ANY`` covers all.
        related: word -> relation -> the words that stand in this relation to it, ``relation(candidate, word)``.
    """

    masks: Mapping[str, int]
    related: Mapping[str, Mapping[Relation, tuple[str, ...]]]

    @classmethod
    def of_sets(cls, sets: Mapping[str, Iterable[int]]) -> "Taxonomy":
        """Build it from the cases of each word; ``ANY`` is added.

        Example:
            >>> counts = Taxonomy.of_sets({"two": [2], "some": [2, 3]})
            >>> counts.related["some"]["forward"], counts.related["two"]["reverse"]
            (('two',), ('', 'some'))
        """
        masks = {word: sum(1 << case for case in set(cases)) for word, cases in sets.items()}
        everything = 0
        for mask in masks.values():
            everything |= mask
        masks = {ANY: everything, **masks}
        related: dict[str, dict[Relation, tuple[str, ...]]] = {}
        for word, mask in masks.items():
            groups: dict[Relation, list[str]] = {}
            for candidate, other in masks.items():
                groups.setdefault(relation(other, mask), []).append(candidate)
            related[word] = {name: tuple(words) for name, words in groups.items()}
        return cls(masks, related)

    @classmethod
    def of_tree(cls, tree: Tree) -> "Taxonomy":
        """Build it from kinds and their sub-kinds; siblings exclude each other, ``a/b`` are synonyms.

        A kind covers more than its listed sub-kinds only when it has none.

        Example:
            >>> animals = Taxonomy.of_tree({"dog": {"poodle": {}, "terrier": {}}, "bird": {}})
            >>> animals.related["poodle"]["disjoint"], animals.related["dog"]["forward"]
            (('terrier', 'bird'), ('poodle', 'terrier'))
        """
        sets: dict[str, list[int]] = {}
        _collect(tree, sets, 0)
        return cls.of_sets(sets)

    def relate(self, one: str, other: str) -> Relation:
        """Return how the first word's cases stand to the second's."""
        return relation(self.masks[one], self.masks[other])


def _collect(tree: Tree, sets: dict[str, list[int]], first: int) -> int:
    """Number the leaves from ``first`` on, note each word's leaves, return the next free number."""
    for words, children in tree.items():
        for word in words.split("/"):
            sets[word] = []
        after = _collect(children, sets, first) if children else first + 1
        for word in words.split("/"):
            sets[word] = list(range(first, after))
        first = after
    return first
