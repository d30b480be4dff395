"""Refitting the few candidates that may become the winner, kept beside the bank so that nothing is computed twice."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from autolr.bank import Bank, tensor_digest
from autolr.data.batches import pair_batches
from autolr.progress import Progress
from autolr.refit import VERSION, Correction, Corrections, refit
from autolr.search.inputs import Inputs
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
    stored = _read(path, key)
    if stored is not None:
        return stored
    run, data = inputs.spec.run, inputs.parts.calibration.take(REFIT_EXAMPLES, inputs.spec.seed)
    batches = pair_batches(inputs.tokenizer, data, run.scoring_batch_size, inputs.max_length, inputs.model.device)
    progress.start(f"refit {len(candidate.choices)} layers on {len(data)} pairs")

    def step(share: float) -> None:
        progress.check()
        progress.update(share)

    corrections = refit(inputs.model, candidate, bank, batches, step)
    _write(path, key, corrections)
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


def _read(path: Path, key: str) -> dict[str, Correction] | None:
    """Return the corrections of a file, or None if it is absent, damaged or of something else."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError):
        return None
    if metadata.get("key") != key or metadata.get("checksum") != tensor_digest(tensors):
        return None
    names = {name.removesuffix("/left") for name in tensors if name.endswith("/left")}
    return {name: Correction(tensors[f"{name}/left"], tensors[f"{name}/bias"]) for name in names}


def _write(path: Path, key: str, corrections: Mapping[str, Correction]) -> None:
    tensors = {f"{name}/left": one.left.cpu().contiguous() for name, one in corrections.items()}
    tensors |= {f"{name}/bias": one.bias.cpu().contiguous() for name, one in corrections.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, temporary, metadata={"key": key, "checksum": tensor_digest(tensors)})
    temporary.replace(path)
