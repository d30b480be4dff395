"""From a statement to an English sentence: active or passive, a detail in front, several ways to deny."""

from collections.abc import Mapping
from random import Random

from autolr.data.example.lexicon import ADJECTIVES, IRREGULAR_PLURALS, PARTICIPLES
from autolr.data.example.scenes import Statement
from autolr.data.example.taxonomy import ANY

_SINGULAR = {ANY, "one", "more than one"}
_SPOKEN = tuple(dict.fromkeys(slot for slots in ADJECTIVES.values() for slot in slots))


def speak(statement: Statement, rng: Random) -> str:
    """Return one of the sentences that say this.

    Example:
        >>> scene = {"agent noun": "child", "agent count": "two", "verb": "pushing", "patient noun": "object"}
        >>> sorted({speak(Statement(scene, False), Random(seed)) for seed in range(20)})
        ['An object is being pushed by two children.', 'Two children are pushing an object.']
        >>> speak(Statement(scene, True), Random(3))
        'No object is being pushed by two children.'
    """
    scene = statement.scene
    passive = rng.random() < 0.3
    subject, by = ("patient", "agent") if passive else ("agent", "patient")
    denied_by_no = statement.denied and not scene.get(f"{subject} count") and rng.random() < 0.6
    words = [noun_phrase(scene, subject, "no" if denied_by_no else None)]
    words.append("is" if scene.get(f"{subject} count", ANY) in _SINGULAR else "are")
    verb = scene["verb"]
    words.append(f"being {PARTICIPLES[verb]} by" if passive else verb)
    words.append(noun_phrase(scene, by))
    words.append(" and ".join(scene[slot] for slot in ("pace", "care") if slot in scene))
    words.append(scene.get("company", ANY))
    settings = [scene[slot] for slot in ("place", "time") if slot in scene]
    front = settings.pop(rng.randrange(len(settings))) if settings and not denied_by_no and rng.random() < 0.3 else ANY
    words += settings
    if front:
        words = [front + ",", *words]
    if statement.denied and not denied_by_no:
        words = ["it is not true that", *words]
    sentence = " ".join(word for word in words if word)
    return sentence[0].upper() + sentence[1:] + "."


def noun_phrase(scene: Mapping[str, str], role: str, determiner: str | None = None) -> str:
    """Return a noun with its count and adjectives.

    Example:
        >>> scene = {"agent noun": "dog", "agent size": "huge", "agent colour": "black"}
        >>> noun_phrase(scene, "agent"), noun_phrase({**scene, "agent count": "at least two"}, "agent", None)
        ('a huge black dog', 'at least two huge black dogs')
    """
    noun = scene[f"{role} noun"]
    count = scene.get(f"{role} count", ANY)
    if count not in _SINGULAR:
        noun = IRREGULAR_PLURALS.get(noun, f"{noun}s")
    words = [scene[f"{role} {slot}"] for slot in _SPOKEN if f"{role} {slot}" in scene] + [noun]
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([determiner or count or article, *words])
