"""The words of the example: nouns, verbs, counts and details, arranged by what they exclude and what they include."""

from autolr.data.example.taxonomy import Taxonomy, Tree


def _leaves(words: str) -> Tree:
    return {word: {} for word in words.split()}


PEOPLE: Tree = {
    "person": {
        "musician": _leaves("violinist drummer singer pianist"),
        "athlete": _leaves("runner boxer skater swimmer"),
        "worker": _leaves("baker plumber carpenter farmer"),
        "doctor": _leaves("surgeon dentist"),
        "child/kid": _leaves("boy girl toddler"),
    }
}
ANIMALS: Tree = {
    "animal": {
        "dog": _leaves("poodle terrier spaniel"),
        "bird": _leaves("robin crow parrot"),
        "horse": _leaves("mare pony"),
        "cat": _leaves("kitten lynx"),
    }
}
THINGS: Tree = {
    "thing/object": {
        "vehicle": {"truck": {}, "taxi/cab": {}, "van": {}, "wagon": {}},
        "instrument": _leaves("guitar flute drum"),
        "toy": _leaves("doll kite puzzle"),
        "fruit": _leaves("apple pear plum"),
        "tool": _leaves("hammer wrench shovel"),
        "seat": {"stool": {}, "sofa/couch": {}, "bench": {}},
    }
}
_KINDS = {"person": PEOPLE, "animal": ANIMALS, "thing": THINGS}
NOUNS = {kind: tuple(word for word in Taxonomy.of_tree(tree).masks if word) for kind, tree in _KINDS.items()}
"""Kind -> its nouns; a noun is exchanged only within its kind."""

KIND_OF = {noun: kind for kind, nouns in NOUNS.items() for noun in nouns}
"""Noun -> person, animal or thing."""

IRREGULAR_PLURALS = {"person": "people", "child": "children", "lynx": "lynxes", "pony": "ponies", "couch": "couches",
                     "bench": "benches", "fruit": "fruits", "wrench": "wrenches"}  # fmt: skip

VERBS: Tree = {
    "moving": _leaves("pushing pulling lifting lowering"),
    "following": _leaves("chasing tracking"),
    "hitting": _leaves("kicking slapping"),
    "cleaning": _leaves("washing polishing"),
    "trading": _leaves("buying selling"),
    "changing": _leaves("painting repairing breaking"),
    "watching/observing": _leaves("filming sketching"),
    "helping": _leaves("feeding guiding"),
    "hiding": {},
    "finding": {},
}
PARTICIPLES = {
    "moving": "moved", "pushing": "pushed", "pulling": "pulled", "lifting": "lifted", "lowering": "lowered",
    "following": "followed", "chasing": "chased", "tracking": "tracked", "hitting": "hit", "kicking": "kicked",
    "slapping": "slapped", "cleaning": "cleaned", "washing": "washed", "polishing": "polished", "trading": "traded",
    "buying": "bought", "selling": "sold", "changing": "changed", "painting": "painted", "repairing": "repaired",
    "breaking": "broken", "watching": "watched", "observing": "observed", "filming": "filmed",
    "sketching": "sketched", "helping": "helped", "feeding": "fed", "guiding": "guided", "hiding": "hidden",
    "finding": "found",
}  # fmt: skip

_MOVES = "moving pushing pulling lifting lowering"
_LOOKS = "watching observing hiding finding"
_ART = "filming sketching"
VERBS_FOR = {
    kinds: tuple(verbs.split())
    for kinds, verbs in {
        ("person", "thing"): f"{_MOVES} {_LOOKS} {_ART} hitting kicking slapping cleaning washing polishing trading "
        "buying selling changing painting repairing breaking",
        ("person", "animate"): f"{_MOVES} {_LOOKS} {_ART} following chasing tracking hitting kicking slapping cleaning "
        "washing helping feeding guiding",
        ("animal", "thing"): f"moving pushing pulling {_LOOKS} hitting kicking breaking",
        (
            "animal",
            "animate",
        ): f"moving pushing pulling {_LOOKS} following chasing tracking hitting kicking helping guiding",
    }.items()
}
"""(kind of agent, whether the patient is a thing or animate) -> the verbs that make sense."""


def patient_group(kind: str) -> str:
    """Return ``thing`` or ``animate``."""
    return "thing" if kind == "thing" else "animate"


_NUMBERS = ["one", "two", "three", "four", "five"]
_CASES = range(1, 7)  # six stands for "more than five"
COUNTS = {word: {i} for i, word in enumerate(_NUMBERS, start=1)}
COUNTS |= {"some": set(_CASES) - {1}, "several": set(_CASES) - {1, 2}}
COUNTS |= {f"at least {_NUMBERS[i - 1]}": {case for case in _CASES if case >= i} for i in (2, 3, 4)}
COUNTS |= {f"more than {_NUMBERS[i - 1]}": {case for case in _CASES if case > i} for i in (1, 2, 3)}

TABLES = {
    "noun": Taxonomy.of_tree({**PEOPLE, **ANIMALS, **THINGS}),
    "count": Taxonomy.of_sets(COUNTS),
    "height": Taxonomy.of_tree(_leaves("tall short")),
    "age": Taxonomy.of_tree({"young": {}, "old/elderly": {}}),
    "size": Taxonomy.of_tree({"big/large": {"huge": {}, "giant": {}}, "small/little": {"tiny": {}, "miniature": {}}}),
    "colour": Taxonomy.of_tree(_leaves("red blue green yellow black white brown")),
    "verb": Taxonomy.of_tree(VERBS),
    "pace": Taxonomy.of_tree({"slowly": {}, "quickly/rapidly": {}}),
    "care": Taxonomy.of_tree(_leaves("carefully carelessly")),
    "company": Taxonomy.of_tree({"alone": {}, "with others": {"with a friend": {}, "with a stranger": {}}}),
    "place": Taxonomy.of_tree(
        {
            "indoors/inside": {"in the kitchen": {}, "in the garage": {}, "in the museum": {}, "in the attic": {}},
            "outdoors/outside": {"in the park": {}, "on the beach": {}, "in the forest": {}, "on the street": {}},
        }
    ),
    "time": Taxonomy.of_tree(
        {"in the morning": {}, "at noon": {}, "after dark": {"in the evening": {}, "at midnight": {}}}
    ),
}
"""Slot -> the words that can fill it."""

ADJECTIVES = {"person": ("height", "age"), "animal": ("size", "colour"), "thing": ("size", "colour")}
"""Kind -> its adjectives, in the order they are spoken."""
