"""Disjoint parts of a data set that share no premise, so that nothing chosen on one part leaks into another."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping

from autolr.data.nli import NliData
from autolr.errors import UsageError


def split_by_premise(data: NliData, fractions: Mapping[str, float], seed: int) -> dict[str, NliData]:
    """Divide the pairs into named parts; all pairs of one premise go to the same part.

    Premises are visited in the order of a hash of seed and text and each goes to the part that lacks most, so the parts
    depend neither on the order of the rows nor on the process, and a size misses its target by about one premise's
    pairs.

    Args:
        data: the pairs.
        fractions: name -> share of the pairs, each in (0, 1], together 1.
        seed: another seed gives other parts.

    Returns:
        The parts by name, each in the order of ``data``.

    Raises:
        UsageError: the fractions are not positive or do not add up to 1, or a part would be empty.

    Example:
        >>> pairs = NliData("hand", ("a", "a", "b", "c"), ("v", "w", "x", "y"), (0, 1, 2, 0))
        >>> parts = split_by_premise(pairs, {"search": 0.5, "report": 0.5}, seed=0)
        >>> sorted(len(part) for part in parts.values()), parts["search"].name
        ([2, 2], 'hand [search]')
    """
    if any(share <= 0 for share in fractions.values()) or not math.isclose(sum(fractions.values()), 1.0, abs_tol=1e-6):
        raise UsageError(f"the shares of the parts must be positive and add up to 1, got {dict(fractions)}")
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for i, premise in enumerate(data.premises):
        groups[premise].append(i)
    missing = {name: share * len(data) for name, share in fractions.items()}
    chosen: dict[str, list[int]] = {name: [] for name in fractions}
    for premise in sorted(groups, key=lambda text: _rank(text, seed)):
        neediest = max(missing, key=missing.__getitem__)
        chosen[neediest] += groups[premise]
        missing[neediest] -= len(groups[premise])
    for name, indices in chosen.items():
        if not indices:
            raise UsageError(
                f"{data.name}: {len(data)} pairs of {len(groups)} premises cannot be divided into {dict(fractions)}: "
                f"part {name!r} would be empty; give more data or a file for each part"
            )
    return {name: _part(data, name, sorted(indices)) for name, indices in chosen.items()}


def _rank(premise: str, seed: int) -> bytes:
    return hashlib.blake2b(premise.encode(errors="surrogatepass"), key=str(seed).encode(), digest_size=16).digest()


def _part(data: NliData, name: str, indices: list[int]) -> NliData:
    part = data.select(indices)
    return NliData(f"{data.name} [{name}]", part.premises, part.hypotheses, part.labels)
