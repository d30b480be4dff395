"""What optuna-dashboard shows of a study and of each trial: notes in Markdown."""

from collections import Counter

import optuna
from optuna.trial import Trial
from optuna_dashboard import save_note

from autolr.forms.layer_table import as_markdown, layer_table
from autolr.problem import LoadedProblem
from autolr.search.study.trial_record import TrialRecord


def note_study(study: optuna.Study, inputs: LoadedProblem) -> None:
    """Describe the study: model, budgets, data, costs of the dense model."""
    spec, dense = inputs.spec, inputs.costs.dense
    conditions = dense.conditions
    parts = inputs.parts
    lines = [
        "## autolr study",
        f"* model: `{spec.model or 'embedded example'}`, {len(inputs.units.units)} compressible layers",
        f"* budgets: {', '.join(spec.budgets)}" + (f"; floors: {', '.join(spec.floors)}" if spec.floors else ""),
        f"* methods: {', '.join(method.name for method in inputs.methods)}; space: {spec.search.space}; "
        f"sampler: {spec.search.sampler}; seed: {spec.seed}",
        f"* dense: {dense.flops:,} FLOPs (batch {conditions.batch_size} x {conditions.seq_len} tokens), "
        f"{dense.params:,} parameters, {dense.memory:,} bytes ({conditions.dtype})",
        f"* data: {len(parts.calibration)} {inputs.task.noun} calibrate, {len(parts.search)} search, "
        f"{len(parts.selection)} select, {len(parts.report)} report",
        "* a trial's constraint is above zero where it misses its budget or floor",
    ]
    save_note(study, "\n".join(lines))


def note_trial(trial: Trial, record: TrialRecord) -> None:
    """Describe a trial: its measurements, its constraints, its candidate layer by layer."""
    scores = "\n".join(
        f"| {name} | {score.value:.4f} | {score.stderr:.4f} | {score.n} |" for name, score in record.scores.items()
    )
    costs = "\n".join(
        f"| {name} | {record.cost.amounts[name]:,} | {ratio:.4f} |" for name, ratio in record.cost.ratios.items()
    )
    layers = "\n".join(as_markdown(layer_table(record.candidate)))
    methods = Counter(choice.method for _, choice in record.candidate.choices)
    summary = ", ".join(f"{count} x {method}" for method, count in sorted(methods.items())) or "dense"
    met = ", ".join(
        f"{name}: {'met' if value <= 0 else f'missed by {value:.4f}'}" for name, value in record.constraints.items()
    )
    save_note(
        trial,
        f"{summary}; {met}\n\n| score | value | standard error | n |\n|---|---|---|---|\n{scores}\n\n"
        f"| cost | amount | ratio to dense |\n|---|---|---|\n{costs}\n\n"
        f"{layers}\n",
    )
