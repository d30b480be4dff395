"""Scorers of a study's data parts, of its task and of its probes.

What the dense model says of a part is computed once and stored in the bank's folder.
"""

import hashlib
import json
from collections.abc import Mapping

from torch import Tensor

from autolr.bank import Bank
from autolr.machine.tensor_cache import read_kept, write_kept
from autolr.probes.features import SentenceBatches
from autolr.probes.scorer import ProbeScorer, probe_sentences
from autolr.problem import LoadedProblem
from autolr.progress import Progress
from autolr.tasks import Scorer


def scorer_of(inputs: LoadedProblem, bank: Bank, part: str, progress: Progress) -> Scorer:
    """Return the scorer of a part, with the dense model's logits on it.

    Args:
        inputs: the opened inputs.
        bank: the logits are kept in its folder.
        part: ``search``, ``selection`` or ``report``.
        progress: told what is under way.
    """
    data, batches = inputs.part(part), inputs.batches(part)
    run = inputs.spec.run
    described = [*inputs.dense_key, inputs.fingerprint[f"data {part}"], run.device, run.scoring_batch_size]
    described += [dict(inputs.task.fingerprint())]
    key = hashlib.sha256(json.dumps(described).encode()).hexdigest()
    path = bank.directory / "dense" / f"{key[:16]}.safetensors"
    stored = read_kept(path, key)
    if stored is not None:
        return inputs.task.stored_scorer(data, batches, stored)
    progress.start(f"score the dense model on the {part} part")
    done = iter(range(1, len(batches) + 1))

    def tick() -> None:
        progress.check()
        progress.update(next(done) / len(batches))

    scorer = inputs.task.scorer(inputs.model, data, batches, tick)
    write_kept(path, key, scorer.kept())
    return scorer


def probe_scorer(inputs: LoadedProblem, bank: Bank, part: str, progress: Progress) -> ProbeScorer | None:
    """Return the scorer of a part's probes, with what the dense model's get right; None where there are none.

    Args:
        inputs: the opened inputs.
        bank: what was found of the dense model is kept in its folder.
        part: ``search``, ``selection`` or ``report``.
        progress: told what is under way.
    """
    if not inputs.probes:
        return None
    tasks, spec = inputs.probes[part], inputs.spec
    described = [*inputs.dense_key, [task.digest for task in tasks]]
    described += [spec.data.pooling, spec.run.device, spec.run.scoring_batch_size]
    key = hashlib.sha256(json.dumps(described).encode()).hexdigest()
    path = bank.directory / "dense" / f"probes-{key[:16]}.safetensors"
    stored = read_kept(path, key)
    if stored is not None:
        return stored_probes(inputs, part, stored)
    sentences = _sentences(inputs, part)
    progress.start(f"probe the dense model on {len(sentences.order)} sentences of the {part} part")
    scorer = ProbeScorer.of(inputs.model, tasks, sentences, spec.data.pooling, progress.check)
    write_kept(path, key, scorer.kept())
    return scorer


def stored_probes(inputs: LoadedProblem, part: str, kept: Mapping[str, Tensor]) -> ProbeScorer:
    """Return the scorer of a part's probes with what another one kept of the dense model."""
    return ProbeScorer.stored(inputs.probes[part], _sentences(inputs, part), inputs.spec.data.pooling, kept)


def _sentences(inputs: LoadedProblem, part: str) -> SentenceBatches:
    size, where = inputs.spec.run.scoring_batch_size, inputs.model.device
    return probe_sentences(inputs.tokenizer, inputs.probes[part], size, inputs.max_length, where)
