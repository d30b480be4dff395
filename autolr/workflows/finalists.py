"""Recovering the few candidates that may become the winner, kept beside the bank so that nothing is computed twice."""

import hashlib
import json

from autolr.bank import Bank
from autolr.machine.tensor_cache import read_kept, write_kept
from autolr.problem import LoadedProblem
from autolr.progress import Progress
from autolr.records import Candidate
from autolr.recovery.base import Changes, Recovery
from autolr.recovery.registry import RECOVERIES
from autolr.results import FrontMember
from autolr.spec.study import StudySpec


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
    path, key = bank.directory / recovery.name / f"{candidate.digest}.safetensors", _key(inputs, recovery, candidate)
    tensors = read_kept(path, key)
    if tensors is None:
        calibration = inputs.parts.calibration
        data = calibration if recovery.examples is None else calibration.take(recovery.examples, inputs.spec.seed)
        count = sum(len(bank.unit(name).modules) for name, _ in candidate.choices)
        whose = "" if trial is None else f" of trial {trial}"
        progress.start(f"{recovery.name} {count} layers{whose} on {len(data)} {inputs.task.noun}")

        def tick(share: float) -> None:
            progress.check()
            progress.update(share)

        tensors = dict(recovery.compute(inputs.model, candidate, bank, inputs.batches_of(data), tick))
        write_kept(path, key, tensors)
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


def _key(inputs: LoadedProblem, recovery: Recovery, candidate: Candidate) -> str:
    versions = {method.name: method.version for method in inputs.bank_methods}
    described = [inputs.calibration_key, candidate.to_json(), versions, recovery.examples, recovery.version]
    described += [inputs.later_forms] if inputs.later_forms else []
    return hashlib.sha256(json.dumps([*described, inputs.spec.seed]).encode()).hexdigest()
