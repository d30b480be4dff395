"""Recovering the few candidates that may become the winner, kept beside the bank so that nothing is computed twice."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from autolr.bank import Bank
from autolr.errors import AutolrError, Stopped
from autolr.machine.tensor_cache import read_kept, write_kept
from autolr.problem import LoadedProblem
from autolr.progress import Progress
from autolr.records import Candidate
from autolr.recovery.base import Changes, Recovery
from autolr.recovery.registry import RECOVERIES
from autolr.results import FrontMember
from autolr.spec.study import StudySpec

T = TypeVar("T")
MOST_TOGETHER = 8 * 2**30
"""Bytes of the compressed models of finalists that are recovered together: all that changes in them is in memory."""


def recovery_of(spec: StudySpec) -> Recovery | None:
    """Return what a study does to its finalists after truncation; None: nothing.

    Raises:
        UsageError: there is no recovery of that name.
    """
    return RECOVERIES.get(spec.search.recovery) if spec.search.refit else None


def changes_of(
    inputs: LoadedProblem, bank: Bank, candidate: Candidate, progress: Progress, trial: int | None = None
) -> Changes | None:
    """Return what the study's recovery changes in a candidate's layers; None where it does without, or changes nothing.

    Args:
        inputs: the opened inputs.
        bank: decompositions; what was computed is kept in its folder.
        candidate: what is compressed.
        progress: told what is under way.
        trial: the candidate's, for what progress is told; None: it is of none.

    Raises:
        AutolrError: the recovery failed.
    """
    recovery = recovery_of(inputs.spec)
    if recovery is None or not candidate.choices:
        return None
    tensors = read_kept(*_place(inputs, bank, recovery, candidate))
    if tensors is None:
        [tensors] = _computed(inputs, bank, recovery, [(trial, candidate)], progress)
    return Changes(recovery, tensors) if tensors else None


def changes_of_member(inputs: LoadedProblem, bank: Bank, member: FrontMember, progress: Progress) -> Changes | None:
    """Return the changes of a member that was scored on the selection part; None where they were not better there.

    Args:
        inputs: the opened inputs.
        bank: decompositions.
        member: of the study's result.
        progress: told what is under way.
    """
    if member.variant.recovery is None:
        return None
    return changes_of(inputs, bank, member.candidate, progress, member.trial)


def recover_together(inputs: LoadedProblem, bank: Bank, members: Sequence[FrontMember], progress: Progress) -> None:
    """Recover finalists at once, where the study's recovery can, and keep what is computed for :func:`changes_of`.

    Where one fails nothing is kept: each may then be recovered by itself.

    Args:
        inputs: the opened inputs.
        bank: decompositions; what was computed is kept in its folder.
        members: the finalists.
        progress: told what is under way.
    """
    recovery = recovery_of(inputs.spec)
    if recovery is None or recovery.compute_together is None:
        return
    missing = [
        (member.trial, member.candidate)
        for member in members
        if member.candidate.choices and read_kept(*_place(inputs, bank, recovery, member.candidate)) is None
    ]
    for group in grouped_by_size(missing, [inputs.costs.cost(candidate).memory for _, candidate in missing]):
        try:
            _computed(inputs, bank, recovery, group, progress)
        except Stopped:
            raise
        except AutolrError:
            continue  # which of them fails is told when each is tried


def grouped_by_size(items: Sequence[T], sizes: Sequence[int], most: int = MOST_TOGETHER) -> list[list[T]]:
    """Return items in groups of which each comes to at most so many bytes, or has one item.

    Example:
        >>> grouped_by_size("abcd", [3, 2, 2, 9], most=5)
        [['a', 'b'], ['c'], ['d']]
    """
    groups: list[list[T]] = []
    left = -1
    for item, size in zip(items, sizes, strict=True):
        if size > left:
            groups.append([])
            left = most
        groups[-1].append(item)
        left -= size
    return groups


def _computed(
    inputs: LoadedProblem,
    bank: Bank,
    recovery: Recovery,
    finalists: Sequence[tuple[int | None, Candidate]],
    progress: Progress,
) -> list[dict[str, Tensor]]:
    """Return what a recovery computes of candidates, each with its trial's number; it is kept in the bank's folder."""
    calibration = inputs.parts.calibration
    data = calibration if recovery.examples is None else calibration.take(recovery.examples, inputs.spec.seed)
    candidates = [candidate for _, candidate in finalists]
    count = sum(len(bank.unit(name).modules) for candidate in candidates for name, _ in candidate.choices)
    trials = ", ".join(str(trial) for trial, _ in finalists if trial is not None)
    whose = f" of trial{'s' if len(finalists) > 1 else ''} {trials}" if trials else ""
    progress.start(f"{recovery.name} {count} layers{whose} on {len(data)} {inputs.task.noun}")

    def tick(share: float) -> None:
        progress.check()
        progress.update(share)

    batches = inputs.batches_of(data)
    if len(candidates) > 1 and recovery.compute_together is not None:
        each = recovery.compute_together(inputs.model, candidates, bank, batches, tick)
    else:
        each = [recovery.compute(inputs.model, candidate, bank, batches, tick) for candidate in candidates]
    found = [dict(tensors) for tensors in each]
    for candidate, tensors in zip(candidates, found, strict=True):
        write_kept(*_place(inputs, bank, recovery, candidate), tensors)
    return found


def _place(inputs: LoadedProblem, bank: Bank, recovery: Recovery, candidate: Candidate) -> tuple[Path, str]:
    """Return the file that holds what was computed of a candidate, and the key that it must have."""
    path = bank.directory / recovery.name / f"{candidate.digest}.safetensors"
    return path, _key(inputs, recovery, candidate)


def _key(inputs: LoadedProblem, recovery: Recovery, candidate: Candidate) -> str:
    versions = {method.name: method.version for method in inputs.bank_methods}
    described = [inputs.calibration_key, candidate.to_json(), versions, recovery.examples, recovery.version]
    described += [inputs.later_forms] if inputs.later_forms else []
    return hashlib.sha256(json.dumps([*described, inputs.spec.seed]).encode()).hexdigest()
