"""Which candidates of a study were evaluated, failed or are under way: none is evaluated twice.

Two trials may come to the same candidate, since different parameters decode to it. The second one is recorded with the
scores of the first; while the first is still being evaluated it waits for them.
"""

from dataclasses import dataclass, field

from optuna.trial import Trial

from autolr.records import Candidate


@dataclass(frozen=True)
class Claim:
    """A trial that is to be run now, by this process or a worker of it.

    Attributes:
        trial: Optuna's.
        candidate: what it evaluates.
        proposed: seconds that the proposal took.
    """

    trial: Trial
    candidate: Candidate
    proposed: float


@dataclass
class CandidateIndex:
    """Candidates by their digests.

    Attributes:
        scored: digest -> the first trial that scored it.
        failed: digests of those that cannot be evaluated.
    """

    scored: dict[str, int] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    _waiting: dict[str, list[Claim]] = field(default_factory=dict)
    """Digest of what is being evaluated -> claimed trials of the same candidate, which wait for it."""
    _released: list[Claim] = field(default_factory=list)
    """Claimed trials that are to be evaluated after all."""

    def is_new(self, digest: str) -> bool:
        """Tell whether nothing is known of a candidate, and nothing will be soon."""
        return digest not in self.scored and digest not in self.failed and digest not in self._waiting

    def begin(self, claim: Claim) -> bool:
        """Tell whether a claim's candidate is to be evaluated; else the claim waits for the one that is under way."""
        digest = claim.candidate.digest
        if digest in self._waiting:
            self._waiting[digest].append(claim)
            return False
        self._waiting[digest] = []
        return True

    def finish(self, digest: str) -> list[Claim]:
        """Return the claims that waited for a candidate, which is scored now."""
        return self._waiting.pop(digest, [])

    def give_up(self, digest: str) -> None:
        """Let the first of those that waited for an evaluation that came to nothing be evaluated, the others wait."""
        waiting = self._waiting.pop(digest, [])
        if waiting:
            self._released.append(waiting[0])
            self._waiting[digest] = waiting[1:]

    def released(self) -> Claim | None:
        """Take a claim that is to be evaluated after all; None: there is none."""
        return self._released.pop() if self._released else None
