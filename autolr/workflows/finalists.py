"""Refitting the few candidates that may become the winner, kept beside the bank so that nothing is computed twice."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from autolr.bank import Bank
from autolr.machine.tensor_cache import read_kept, write_kept
from autolr.problem import Inputs
from autolr.progress import Progress
from autolr.recovery.refit import VERSION, Correction, Corrections, refit
from autolr.types import Candidate

REFIT_EXAMPLES = 512
"""Calibration examples that layers are refitted on (1,536 were measured to lower the divergence by 2 % more)."""


def corrections_of(inputs: Inputs, bank: Bank, candidate: Candidate, progress: Progress) -> Corrections:
    """Return what a refit changes in a candidate's layers; nothing where the study does without.

    Args:
        inputs: the opened inputs.
        bank: decompositions; the corrections are kept in its folder.
        candidate: what is compressed.
        progress: told what is under way.
    """
    if not inputs.spec.search.refit or not candidate.choices:
        return {}
    path, key = bank.directory / "refit" / f"{candidate.digest}.safetensors", _key(inputs, candidate)
    stored = read_kept(path, key)
    if stored is not None:
        names = {name.removesuffix("/left") for name in stored if name.endswith("/left")}
        return {name: Correction(stored[f"{name}/left"], stored[f"{name}/bias"]) for name in names}
    data = inputs.parts.calibration.take(REFIT_EXAMPLES, inputs.spec.seed)
    batches = inputs.batches_of(data)
    progress.start(f"refit {len(candidate.choices)} layers on {len(data)} {inputs.task.noun}")

    def step(share: float) -> None:
        progress.check()
        progress.update(share)

    corrections = refit(inputs.model, candidate, bank, batches, step)
    tensors = {f"{name}/left": one.left for name, one in corrections.items()}
    write_kept(path, key, tensors | {f"{name}/bias": one.bias for name, one in corrections.items()})
    return corrections


def kept_corrections(inputs: Inputs, bank: Bank, member: Mapping[str, Any], progress: Progress) -> Corrections:
    """Return the corrections of a member that was scored on the selection part; none where they were not better there.

    Args:
        inputs: the opened inputs.
        bank: decompositions.
        member: in the form of result.json.
        progress: told what is under way.
    """
    if "before_refit" not in member:
        return {}
    return corrections_of(inputs, bank, Candidate.from_json(member["candidate"]), progress)


def _key(inputs: Inputs, candidate: Candidate) -> str:
    versions = {method.name: method.version for method in inputs.methods}
    described = [inputs.calibration_key, candidate.to_json(), versions, REFIT_EXAMPLES, VERSION, inputs.spec.seed]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()
