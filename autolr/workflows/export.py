"""A trial -> a checkpoint on disk that is proved to give the same logits when it is loaded again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from autolr.bank import Bank
from autolr.checkpoint.dense import homeless_biases, save_dense
from autolr.checkpoint.fold import fold_biases, nearest_to_one
from autolr.checkpoint.load import verify_roundtrip
from autolr.checkpoint.runtime.rewrites import applied
from autolr.checkpoint.save import save_checkpoint
from autolr.errors import AutolrError, UsageError
from autolr.model.inputs import Batch
from autolr.model.kind import is_causal_class
from autolr.problem import Inputs
from autolr.progress import Progress
from autolr.recovery.refit import Corrections, refitted
from autolr.report.card import model_card
from autolr.search.scorers import scorer_of
from autolr.tasks import Scorer
from autolr.types import Candidate

Form = Literal["hf", "dense"]
DENSE_TOLERANCE = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}
"""Largest difference of a logit allowed between the low-rank model and its factors multiplied out: rounding only."""
_CHECK_BATCHES = 2


def export(
    inputs: Inputs,
    bank: Bank,
    member: Mapping[str, Any],
    corrections: Corrections,
    report: Mapping[str, Any] | None,
    directory: Path,
    form: Form,
    progress: Progress,
) -> float:
    """Write a checkpoint and prove it.

    Args:
        inputs: the opened inputs.
        bank: decompositions.
        member: the trial, in the form of front.json.
        corrections: of its layers, by a refit; empty: they stay as they were truncated.
        report: its scores on the report part, for the model card.
        directory: to write.
        form: ``hf`` keeps the low-rank layers, ``dense`` multiplies them out.
        progress: told what is under way.

    Returns:
        The largest absolute difference of a logit between the model in memory and the one loaded; 0 for ``hf``.

    Raises:
        AutolrError: the reloaded model's logits differ.
        UsageError: the directory cannot be written.
    """
    check_not_dense(directory, inputs.spec.model)
    what = f"trial {member['trial']}" if member["scores"] else member["origin"]
    progress.start(f"export {what} to {directory} and load it again")
    candidate = Candidate.from_json(member["candidate"])
    source = inputs.spec.model or "the embedded example"
    auto = "AutoModelForCausalLM" if is_causal_class(inputs.model) else "AutoModelForSequenceClassification"
    card = model_card(source, member, report, form, auto, inputs.spec.search.objective, len(corrections))
    batches = _checks(inputs.batches("selection"))
    scorer = scorer_of(inputs, bank, "selection", progress) if form == "dense" else None  # before compressing
    with refitted(inputs.model, candidate, bank, corrections):
        changed = bool(candidate.choices or applied(inputs.model))
        if scorer is not None:
            _fold(inputs, bank, scorer, progress)
        if form == "dense" or not changed:
            save_dense(inputs.model, directory, inputs.tokenizer, card)
        else:
            save_checkpoint(inputs.model, directory, inputs.tokenizer, card)
        progress.update(0.5)
        allowed = DENSE_TOLERANCE[inputs.spec.run.dtype] if form == "dense" and changed else 0.0
        difference = verify_roundtrip(inputs.model, directory, batches, allowed)
    if not difference <= allowed:
        raise AutolrError(
            f"the checkpoint at {directory} does not reproduce the model: logits differ by {difference:.3g}, "
            f"at most {allowed:g} is allowed; do not use it"
        )
    progress.update(1.0)
    return difference


def _fold(inputs: Inputs, bank: Bank, scorer: Scorer, progress: Progress) -> None:
    """Fold biases that the dense architecture has no place for into the weights, and say what it costs."""
    names = homeless_biases(inputs.model)
    if not names:
        return
    before = scorer.score(inputs.model, progress.check)["divergence"]
    stats = {name: bank.stats(name) for name in names}
    fold_biases(inputs.model, {name: nearest_to_one(one.mean, one.in_gram) for name, one in stats.items()})
    after = scorer.score(inputs.model, progress.check)["divergence"]
    progress.note(
        f"{type(inputs.model).__name__} has no biases in {len(names)} layers; they are folded into the weights: "
        f"divergence on the selection part {before.value:.4g} -> {after.value:.4g} nats"
    )


def check_not_dense(directory: Path, model: str | None) -> None:
    """Raise where the dense model itself would be written over.

    Raises:
        UsageError: the directory is the model's.
    """
    if model and directory.resolve() == Path(model).resolve():
        raise UsageError(f"--out {directory} is the dense model itself; choose another directory")


def _checks(batches: Sequence[Batch]) -> list[dict[str, Any]]:
    """Return the shortest and the longest batch, without labels."""
    chosen = [batches[0], batches[-1]][: max(1, min(_CHECK_BATCHES, len(batches)))]
    return [{name: tensor for name, tensor in batch.items() if name != "labels"} for batch in chosen]
