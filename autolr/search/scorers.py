"""Scorers of a study's data parts; the dense model's logits on them are computed once and kept in the bank's folder."""

import hashlib
import json

from autolr.bank import Bank
from autolr.machine.tensor_cache import read_kept, write_kept
from autolr.problem import Inputs
from autolr.progress import Progress
from autolr.score import Scorer


def scorer_of(inputs: Inputs, bank: Bank, part: str, progress: Progress) -> Scorer:
    """Return the scorer of a part, with the dense model's logits on it.

    Args:
        inputs: the opened inputs.
        bank: the logits are kept in its folder.
        part: ``search``, ``selection`` or ``report``.
        progress: told what is under way.
    """
    batches = inputs.batches(part)
    run = inputs.spec.run
    described = [*inputs.dense_key, inputs.fingerprint[f"data {part}"], run.device, run.scoring_batch_size]
    described += [dict(inputs.task.fingerprint())]
    key = hashlib.sha256(json.dumps(described).encode()).hexdigest()
    path = bank.directory / "dense" / f"{key[:16]}.safetensors"
    stored = read_kept(path, key)
    if stored is not None:
        return inputs.task.stored_scorer(batches, stored)
    progress.start(f"score the dense model on the {part} part")
    done = iter(range(1, len(batches) + 1))

    def tick() -> None:
        progress.check()
        progress.update(next(done) / len(batches))

    scorer = inputs.task.scorer(inputs.model, batches, tick)
    write_kept(path, key, scorer.kept())
    return scorer
