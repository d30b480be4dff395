"""From easy to hard: single words, then a few slots side by side, then short claims, then every pair."""

from itertools import islice
from random import Random

from autolr.data.example import held_out_premises
from autolr.data.example.grammar import draw, pairs
from autolr.data.example.lexicon import ADJECTIVES, IRREGULAR_PLURALS
from autolr.data.example.scenes import LABELS, Scene, Statement, label_of

Row = tuple[str, str, int]

SINGLE_UNTIL, SENTENCES_FROM, DENIALS_FROM, EVERYTHING_FROM = 0.1, 0.25, 0.35, 0.5
"""Shares of the training: single words up to here, then more slots; claims, denials, every pair from here."""
MAX_SLOTS = 5
FRAGMENTS_BESIDE = 0.25
"""Share of the rows that stays fragments once the sentences have come."""

_LOOKS = tuple(dict.fromkeys(slot for slots in ADJECTIVES.values() for slot in slots))
_ORDER = (
    *(f"agent {slot}" for slot in ("count", *_LOOKS, "noun")),
    "verb",
    *(f"patient {slot}" for slot in ("count", *_LOOKS, "noun")),
    *("pace", "care", "company", "place", "time"),
)


class Curriculum:
    """Rows for the trainer; ``progress`` runs from 0 to 1."""

    def __init__(self, seed: int) -> None:
        held_out = held_out_premises()
        self.rng = Random(f"fragments {seed}")  # noqa: S311 - words, not secrets
        self.sentences = (row for row in pairs(f"training {seed}") if row[0] not in held_out)
        self.bank: list[list[Row]] = [[], [], []]

    def rows(self, n: int, progress: float) -> list[Row]:
        ramp = (progress - SINGLE_UNTIL) / (SENTENCES_FROM - SINGLE_UNTIL)
        slots = 1 + (MAX_SLOTS - 1) * min(1.0, max(0.0, ramp))
        n_fragments = n if progress < SENTENCES_FROM else int(FRAGMENTS_BESIDE * n)
        easy = (row for row in self.sentences if is_easy(row, progress))
        sentences = [(one, other, LABELS.index(label)) for one, other, label in islice(easy, n - n_fragments)]
        return sentences + [self.fragment(slots) for _ in range(n_fragments)]

    def fragment(self, most: float) -> Row:
        """Return a pair of bare words of a few slots, each label equally often."""
        label = self.rng.randrange(3)
        while not self.bank[label]:
            premise, hypothesis, _ = draw(self.rng)
            filled = [slot for slot in _ORDER if slot in premise.scene or slot in hypothesis.scene]
            chosen = set(self.rng.sample(filled, min(len(filled), 1 + int(self.rng.random() * most))))
            one, other = (
                {s: scene[s] for s in filled if s in chosen & set(scene)} for scene in (premise[0], hypothesis[0])
            )
            if one and other:
                found = LABELS.index(label_of(Statement(one, False), Statement(other, False)))
                if len(self.bank[found]) < 1000:
                    self.bank[found].append((self.say(one), self.say(other), found))
        return self.bank[label].pop()

    def say(self, scene: Scene) -> str:
        plural = self.rng.random() < 0.3
        return " ".join(
            IRREGULAR_PLURALS.get(word, f"{word}s") if plural and slot.endswith("noun") else word
            for slot, word in scene.items()
        )


def is_easy(row: tuple[str, str, str], progress: float) -> bool:
    """Short claims come first; from ``EVERYTHING_FROM`` on every pair is admitted."""
    if progress >= EVERYTHING_FROM:
        return True
    words = len(row[0].split()) + len(row[1].split())
    limit = 14 + 20 * (progress - SENTENCES_FROM) / (EVERYTHING_FROM - SENTENCES_FROM)
    denied = any(text.startswith(("No ", "It is not")) for text in row[:2])
    return words <= limit and (not denied or progress >= DENIALS_FROM)
