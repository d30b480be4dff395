"""Moving a scene's words within their taxonomies, so that the new scene stands in a chosen relation to the old one."""

from functools import cache
from random import Random

from autolr.data.example.lexicon import ADJECTIVES, KIND_OF, TABLES, VERBS_FOR, patient_group
from autolr.data.example.scenes import Scene
from autolr.data.example.taxonomy import ANY, Relation

_P_NARROWER, _P_ADDED, _P_SYNONYM = 0.35, 0.1, 0.3
_P_BROADER, _P_ASIDE, _P_SWAPPED = 0.4, 0.15, 0.25
_SETTING = ("pace", "care", "company", "place", "time")


def narrow(scene: Scene, rng: Random, *, strictly: bool = False) -> Scene:
    """Return a scene within this one: narrower words, added details; ``strictly`` for not the same scene."""
    out = _moved(scene, rng, ("forward",), _P_NARROWER)
    for slot in _open_slots(scene):
        if rng.random() < _P_ADDED:
            out[slot] = rng.choice(_options(slot, ANY, "forward", None))
    if strictly and all(
        TABLES[slot.split()[-1]].relate(word, scene.get(slot, ANY)) == "equal" for slot, word in out.items()
    ):
        slot = rng.choice(_open_slots(scene))
        out[slot] = rng.choice(_options(slot, ANY, "forward", None))
    return out


def broaden(scene: Scene, rng: Random) -> Scene:
    """Return a scene that holds this one: broader words, dropped details, or just the same."""
    return _moved(scene, rng, ("reverse",), _P_BROADER)


def unsettle(scene: Scene, rng: Random) -> Scene:
    """Return a scene that leaves open whether it is this one: a word or detail broader, others perhaps narrower."""
    first = rng.choice(unsettled_slots(scene))
    out = narrow(scene, rng)
    _move(scene, out, first, ("reverse", "overlap"), rng)
    for slot in scene:
        if slot != first and rng.random() < _P_ASIDE:
            _move(scene, out, slot, ("reverse", "overlap"), rng)
    return out


def exclude(scene: Scene, rng: Random) -> Scene:
    """Return a scene that cannot be this one: a word from beside it, or agent and patient exchanged."""
    if _can_swap(scene) and rng.random() < _P_SWAPPED:
        return narrow(_swapped(scene), rng)
    kinds = _kinds(scene)
    slots = [slot for slot in scene if _choices(slot, scene[slot], ("disjoint",), *kinds)]
    out = narrow(scene, rng)
    for slot in scene:
        if rng.random() < _P_ASIDE:
            _move(scene, out, slot, ("reverse", "overlap"), rng)
    _move(scene, out, rng.choice(slots), ("disjoint",), rng)
    return out


def unsettled_slots(scene: Scene) -> list[str]:
    """Return the slots whose word can be left open: it has a broader one, or can be dropped."""
    kinds = _kinds(scene)
    return [slot for slot in scene if _choices(slot, scene[slot], ("reverse", "overlap"), *kinds)]


def _moved(scene: Scene, rng: Random, relations: tuple[Relation, ...], often: float) -> Scene:
    """Return a copy with each word moved so with this probability, or else perhaps replaced by a synonym."""
    out = dict(scene)
    for slot in scene:
        chance = rng.random()
        if chance < often:
            _move(scene, out, slot, relations, rng)
        elif chance < often + (1 - often) * _P_SYNONYM:
            _move(scene, out, slot, ("equal",), rng)
    return out


def _move(scene: Scene, out: Scene, slot: str, relations: tuple[Relation, ...], rng: Random) -> None:
    """Put a word that stands so to the scene's own into ``out``; leave it alone when there is none."""
    words = _choices(slot, scene[slot], relations, *_kinds(scene))
    if words:
        word = rng.choice(words)
        if word:
            out[slot] = word
        else:
            out.pop(slot, None)


def _kinds(scene: Scene) -> tuple[str, str]:
    return KIND_OF[scene["agent noun"]], KIND_OF[scene["patient noun"]]


@cache
def _choices(slot: str, word: str, relations: tuple[Relation, ...], agent: str, patient: str) -> tuple[str, ...]:
    """Return the words of a slot in one of these relations to a word, for agent and patient of these kinds."""
    kinds = (agent, patient) if slot == "verb" else None
    return tuple(option for relation in relations for option in _options(slot, word, relation, kinds))


@cache
def _options(slot: str, word: str, relation: Relation, kinds: tuple[str, str] | None) -> tuple[str, ...]:
    """Return the words of a slot in this relation to one; a noun keeps its kind, a verb must make sense."""
    table = slot.rsplit(maxsplit=1)[-1]
    found = TABLES[table].related[word].get(relation, ())
    if table == "noun":
        return tuple(other for other in found if other and KIND_OF[other] == KIND_OF[word])
    if kinds:
        usable = VERBS_FOR[kinds[0], patient_group(kinds[1])]
        return tuple(other for other in found if other in usable)
    return found


def _open_slots(scene: Scene) -> list[str]:
    """Return the slots that this scene leaves unconstrained and its nouns allow."""
    return [
        slot for slot in _all_slots(KIND_OF[scene["agent noun"]], KIND_OF[scene["patient noun"]]) if slot not in scene
    ]


@cache
def _all_slots(agent: str, patient: str) -> tuple[str, ...]:
    phrases = (("agent", agent), ("patient", patient))
    return (*(f"{role} {slot}" for role, kind in phrases for slot in ("count", *ADJECTIVES[kind])), *_SETTING)


def _can_swap(scene: Scene) -> bool:
    agent, patient = scene["agent noun"], scene["patient noun"]
    if KIND_OF[patient] == "thing" or TABLES["noun"].relate(agent, patient) != "disjoint":
        return False
    return scene["verb"] in VERBS_FOR[KIND_OF[patient], "animate"]


def _swapped(scene: Scene) -> Scene:
    other = {"agent": "patient", "patient": "agent"}
    roles = {slot: slot.split() for slot in scene}
    return {" ".join([other.get(parts[0], parts[0]), *parts[1:]]): scene[slot] for slot, parts in roles.items()}
