"""Pairs whose label follows from how they were made, and whose hypothesis alone says nothing about it.

The hypothesis is drawn first, from one distribution for all labels. Then the label is drawn, then a premise is made
from the hypothesis by moving single slots up, down or aside in their taxonomies so that the label results. A
hypothesis therefore has each label with probability 1/3, whatever its words: telling its label needs the premise.
"""

from collections.abc import Iterator
from random import Random

from autolr.data.example.edits import broaden, exclude, narrow, unsettle, unsettled_slots
from autolr.data.example.lexicon import ADJECTIVES, NOUNS, TABLES, VERBS_FOR, patient_group
from autolr.data.example.scenes import LABELS, Label, Scene, Statement
from autolr.data.example.surface import speak

_P_OPTIONAL = {"pace": 0.1, "care": 0.1, "company": 0.1, "place": 0.3, "time": 0.2}
_P_COUNT, _P_ADJECTIVE = 0.25, 0.2
"""How often a hypothesis fills a slot."""

_P_DENIED_HYPOTHESIS = 0.25
_P_DENIED_PREMISE: dict[tuple[Label, bool], float] = {
    ("entailment", True): 0.35,
    ("contradiction", False): 0.15,
    ("neutral", True): 0.25,
    ("neutral", False): 0.15,
}
"""(label, hypothesis denied) -> how often the premise is a denial; a denial never entails a claim."""

_WORDS = {slot: tuple(word for word in table.masks if word) for slot, table in TABLES.items()}


def pairs(seed: str) -> Iterator[tuple[str, str, Label]]:
    """Yield premise, hypothesis and label without end; the same for the same seed in every process."""
    rng = Random(seed)  # noqa: S311 - sentences, not secrets
    while True:
        premise, hypothesis, label = draw(rng)
        yield speak(premise, rng), speak(hypothesis, rng), label


def draw(rng: Random) -> tuple[Statement, Statement, Label]:
    """Return a premise, a hypothesis and the label by construction."""
    scene = _scene(rng)
    while not unsettled_slots(scene):  # nothing could be left open: not fit for a neutral pair, so for no pair
        scene = _scene(rng)
    hypothesis = Statement(scene, rng.random() < _P_DENIED_HYPOTHESIS)
    label = LABELS[int(3 * rng.random())]
    return _premise(hypothesis, label, rng), hypothesis, label


def _scene(rng: Random) -> Scene:
    agent = "person" if rng.random() < 0.65 else "animal"
    patient = rng.choices(("thing", "person", "animal"), (0.55, 0.25, 0.2))[0]
    scene = {"verb": rng.choice(VERBS_FOR[agent, patient_group(patient)])}
    for role, kind in (("agent", agent), ("patient", patient)):
        scene[f"{role} noun"] = rng.choice(NOUNS[kind])
        if rng.random() < _P_COUNT:
            scene[f"{role} count"] = rng.choice(_WORDS["count"])
        for slot in ADJECTIVES[kind]:
            if rng.random() < _P_ADJECTIVE:
                scene[f"{role} {slot}"] = rng.choice(_WORDS[slot])
    for slot, often in _P_OPTIONAL.items():
        if rng.random() < often:
            scene[slot] = rng.choice(_WORDS[slot])
    return scene


def _premise(hypothesis: Statement, label: Label, rng: Random) -> Statement:
    """Return a statement from which the label follows for the hypothesis."""
    scene, denied = hypothesis
    if rng.random() < _P_DENIED_PREMISE.get((label, denied), 0.0):
        if label != "neutral":
            return Statement(broaden(scene, rng), True)
        return Statement(exclude(scene, rng) if rng.random() < 0.4 else narrow(scene, rng, strictly=True), True)
    if label == "neutral":
        return Statement(unsettle(scene, rng), False)
    if (label == "entailment") is not denied:
        return Statement(narrow(scene, rng), False)
    return Statement(exclude(scene, rng), False)
