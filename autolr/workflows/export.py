"""A trial -> a checkpoint on disk that is proved to give the same logits when it is loaded again."""

from collections.abc import Sequence
from pathlib import Path

from autolr.bank import Bank
from autolr.checkpoint.directory import check_not_dense
from autolr.checkpoint.fold import fold_biases, nearest_to_one
from autolr.checkpoint.formats import FORMATS, Format
from autolr.checkpoint.verify import verify
from autolr.errors import AutolrError
from autolr.model.inputs import Batch
from autolr.model.kind import is_causal_class
from autolr.optimization.scorers import scorer_of
from autolr.problem import LoadedProblem
from autolr.progress import Progress
from autolr.recovery.base import Changes, recovered
from autolr.report.card import model_card
from autolr.results import FrontMember, Report
from autolr.scores import SCORES
from autolr.tasks import Scorer

EXPORT_FORMAT = "hf"
"""Of the checkpoint that a study leaves of its winner, and of those that are timed."""
_CHECK_BATCHES = 2


def export(
    inputs: LoadedProblem,
    bank: Bank,
    member: FrontMember,
    changes: Changes | None,
    report: Report | None,
    directory: Path,
    format: str,
    progress: Progress,
) -> float:
    """Write a checkpoint and prove it.

    Args:
        inputs: the opened inputs.
        bank: decompositions.
        member: what to write.
        changes: of its layers, by a recovery; None: they stay as they were truncated.
        report: its scores on the report part, for the model card.
        directory: to write.
        format: name of the format, of :data:`autolr.checkpoint.formats.FORMATS`.
        progress: told what is under way.

    Returns:
        The largest absolute difference of a logit between the model in memory and the one loaded; 0 where the format
        keeps every bit.

    Raises:
        AutolrError: the reloaded model's logits differ.
        UsageError: there is no such format, or the directory cannot be written.
    """
    kind = FORMATS.get(format)
    check_not_dense(directory, inputs.spec.model)
    what = f"trial {member.trial}" if member.scores else member.origin
    progress.start(f"export {what} to {directory} and load it again")
    card = _card(inputs, member, changes, report, kind)
    batches = _checks(inputs.batches("selection"))
    scorer = None if kind.homeless is None else scorer_of(inputs, bank, "selection", progress)  # before compressing
    with recovered(inputs.model, member.candidate, bank, changes):
        if scorer is not None:
            _fold(inputs, bank, kind, scorer, progress)
        kind.write(inputs.model, inputs.tokenizer, card, directory)
        progress.update(0.5)
        allowed = kind.allowed(inputs.model)
        difference = verify(inputs.model, kind.reload(directory, inputs.model), batches, allowed)
    if not difference <= allowed:
        raise AutolrError(
            f"the checkpoint at {directory} does not reproduce the model: logits differ by {difference:.3g}, "
            f"at most {allowed:g} is allowed; do not use it"
        )
    progress.update(1.0)
    return difference


def _card(
    inputs: LoadedProblem, member: FrontMember, changes: Changes | None, report: Report | None, kind: Format
) -> str:
    source = inputs.spec.model or "the embedded example"
    auto = "AutoModelForCausalLM" if is_causal_class(inputs.model) else "AutoModelForSequenceClassification"
    note = None if changes is None else changes.note()
    loading = kind.loading.format(auto=auto)
    return model_card(source, member, report, note, inputs.spec.search.objective, loading, kind.keeps_layers)


def _fold(inputs: LoadedProblem, bank: Bank, kind: Format, scorer: Scorer, progress: Progress) -> None:
    """Fold biases that the format has no place for into the weights, and say what it costs."""
    names = [] if kind.homeless is None else kind.homeless(inputs.model)
    if not names:
        return
    score = SCORES.get(inputs.spec.search.objective)
    before = scorer.score(inputs.model, progress.check)[score.name]
    stats = {name: bank.stats(name) for name in names}
    fold_biases(inputs.model, {name: nearest_to_one(layer.mean, layer.in_gram) for name, layer in stats.items()})
    after = scorer.score(inputs.model, progress.check)[score.name]
    progress.note(
        f"{type(inputs.model).__name__} has no biases in {len(names)} layers; they are folded into the weights: "
        f"{score.name} on the selection part {before.value:.4g} -> {after.value:.4g} {score.unit}".rstrip()
    )


def _checks(batches: Sequence[Batch]) -> list[Batch]:
    """Return the shortest and the longest batch, without labels."""
    chosen = [batches[0], batches[-1]][: max(1, min(_CHECK_BATCHES, len(batches)))]
    return [{name: tensor for name, tensor in batch.items() if name != "labels"} for batch in chosen]
