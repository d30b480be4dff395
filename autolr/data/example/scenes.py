"""Scenes and what follows between them: a scene is a conjunction of slots, its negation the complement."""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from autolr.data.example.lexicon import TABLES
from autolr.data.example.taxonomy import ANY, Relation, Taxonomy

Label = Literal["entailment", "neutral", "contradiction"]
LABELS: tuple[Label, ...] = ("entailment", "neutral", "contradiction")

_NOUN_PHRASE = ("noun", "count", "height", "age", "size", "colour")
SLOTS: Mapping[str, Taxonomy] = {
    **{f"{role} {slot}": TABLES[slot] for role in ("agent", "patient") for slot in _NOUN_PHRASE},
    **{slot: TABLES[slot] for slot in ("verb", "pace", "care", "company", "place", "time")},
}
"""Every slot of a scene with the words that can fill it."""


Scene = dict[str, str]
"""Slot -> word; an absent slot is unconstrained."""


class Statement(NamedTuple):
    """A scene that is claimed or denied.

    Attributes:
        scene: what is claimed or denied.
        denied: the sentence says that there is no such scene.
    """

    scene: Scene
    denied: bool


def compare(one: Mapping[str, str], other: Mapping[str, str], slots: Mapping[str, Taxonomy] = SLOTS) -> Relation:
    """Return how the situations of one scene stand to those of another, both taken to describe the same event.

    Example:
        >>> compare({"agent noun": "poodle", "place": "in the park"}, {"agent noun": "dog"})
        'forward'
        >>> compare({"agent noun": "poodle"}, {"agent noun": "dog", "place": "in the park"})
        'overlap'
        >>> compare({"verb": "pushing", "pace": "slowly"}, {"verb": "pulling"})
        'disjoint'
    """
    seen = set(_slot_relations(one, other, slots))
    if "disjoint" in seen:
        return "disjoint"
    if "overlap" in seen or {"forward", "reverse"} <= seen:
        return "overlap"
    return "forward" if "forward" in seen else "reverse" if "reverse" in seen else "equal"


def _slot_relations(
    one: Mapping[str, str], other: Mapping[str, str], slots: Mapping[str, Taxonomy]
) -> Iterator[Relation]:
    for slot in {**one, **other}:
        yield slots[slot].relate(one.get(slot, ANY), other.get(slot, ANY))


def label_of(premise: Statement, hypothesis: Statement, slots: Mapping[str, Taxonomy] = SLOTS) -> Label:
    """Return what follows for the hypothesis when the premise holds.

    With P and H the sets of situations: a claim entails what holds it (P ⊆ H) and contradicts what it excludes
    (P ∩ H = ∅); a denial turns the set into its complement, which always holds that nothing happens at all.

    Example:
        >>> claim, denial = Statement({"agent noun": "poodle"}, False), Statement({"agent noun": "dog"}, True)
        >>> label_of(claim, denial), label_of(denial, claim), label_of(claim, claim._replace(denied=True))
        ('contradiction', 'contradiction', 'contradiction')
        >>> label_of(Statement({"agent noun": "crow"}, False), denial)
        'entailment'
    """
    found = compare(premise.scene, hypothesis.scene, slots)
    within = found in {"equal", "forward"}
    holds = found in {"equal", "reverse"}
    if not premise.denied:
        if found == "disjoint":
            return "entailment" if hypothesis.denied else "contradiction"
        if within:
            return "contradiction" if hypothesis.denied else "entailment"
        return "neutral"
    if holds:
        return "entailment" if hypothesis.denied else "contradiction"
    return "neutral"
