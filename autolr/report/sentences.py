"""What was reached, and what to do next, in sentences with their conditions."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from autolr.errors import command
from autolr.records import Conditions
from autolr.report.format import at_chance, conditions_line, counted, percent, signed, with_unit
from autolr.results import FrontMember, LatencyCheck, RecoveryNote, Report, StudyResult, StudyStatus
from autolr.results.scores import Scores
from autolr.scores import SCORES, TASKS
from autolr.scores.kind import SHARE
from autolr.spec.options import SpecOption, options_of
from autolr.spec.study import StudySpec


def result_lines(result: StudyResult, spec: StudySpec, path: Path) -> Iterator[str]:
    """Return what was reached, in sentences with their conditions.

    Args:
        result: of the study.
        spec: the study's.
        path: of its folder.
    """
    report, winner = result.report, result.winning
    yield _winner_sentence(report, winner, spec)
    if report.latency is not None:
        yield latency_sentence(report.latency, winner.cost.conditions)
    yield f"{_headline_sentence(report, spec)} {recovery_sentence(report.recovery)}"
    yield from _exponential_sentences(report, spec)
    if report.probes is not None:
        yield _probes_sentence(report)
    yield from _chance_warning(report, spec)
    yield _objective_sentence(report, winner, spec.search.objective)
    if report.optimism is not None:
        yield _optimism_sentence(report, spec.search.objective)
    if result.checkpoint is not None:
        yield f"Checkpoint: {path / result.checkpoint} (reloaded, logits bit-equal)."


def _winner_sentence(report: Report, winner: FrontMember, spec: StudySpec) -> str:
    measured = {} if report.latency is None else {"latency": report.latency.ratio}
    ratios = {**winner.cost.ratios, **measured}
    reached = ", ".join(f"{ratios[budget.quantity]:.3f}x {budget.quantity}" for budget in spec.parsed_budgets)
    conditions = winner.cost.conditions
    return (
        f"Winner: trial {winner.trial} at {reached} of the dense model (a batch of {conditions.batch_size} x "
        f"{conditions.seq_len} tokens, {conditions.dtype})."
    )


def latency_sentence(clock: LatencyCheck, conditions: Conditions) -> str:
    """Return what the clock said of a checkpoint."""
    low, high = clock.ratio_range
    return (
        f"Timed in {len(clock.processes)} processes of its own, in turn with the dense model "
        f"({conditions_line(conditions)}): {clock.ms:.2f} ms, {clock.ratio:.3f}x of dense (median; {low:.3f} to "
        f"{high:.3f})."
    )


def recovery_sentence(recovery: RecoveryNote | None) -> str:
    """Return what was done after truncation.

    Example:
        >>> recovery_sentence(None), recovery_sentence(RecoveryNote("refit", 3, "refitted by least squares"))
        ('Nothing was trained.', 'Nothing was trained; 3 layers were refitted by least squares.')
    """
    if recovery is None:
        return "Nothing was trained."
    done = f"{counted(recovery.layers, 'layer')} {'was' if recovery.layers == 1 else 'were'} {recovery.did}."
    return done if recovery.trains else f"Nothing was trained; {done}"


def _headline_sentence(report: Report, spec: StudySpec) -> str:
    task, kind = TASKS.get(spec.task), SCORES.get(report.headline)
    dense, small, gap = (scores[kind.name] for scores in (report.dense, report.compressed, report.differences))
    share = report.share(kind.name) or 0.0
    left = f"{100 * share:.1f} % of dense is kept" if kind.better == "larger" else f"{share:.3f}x of dense"
    return (
        f"On {report.data}, {small.n} {task.noun} {report.unseen}: {task.subject}dense "
        f"{with_unit(kind, dense)}, compressed {with_unit(kind, small)} (standard errors); difference "
        f"{signed(kind, gap.value, gap.stderr)}; {left}."
    )


def _exponential_sentences(report: Report, spec: StudySpec) -> Iterator[str]:
    """Return scores that are stated as exponentials, with the standard errors of the logarithms carried over."""
    for name, values in report.exponentials.items():
        measured = SCORES.get(SCORES.get(name).measured)
        errors = {"dense": report.dense[measured.name].stderr, "compressed": report.compressed[measured.name].stderr}
        shown = ", ".join(f"{which} {value:.3f} ± {value * errors[which]:.3f}" for which, value in values.items())
        gap = report.differences[measured.name]
        yield (
            f"{name.capitalize()} there: {shown} (standard errors over {TASKS.get(spec.task).noun}); {measured.name} "
            f"{signed(measured, gap.value, gap.stderr)}."
        )


def _probes_sentence(report: Report) -> str:
    assert report.probes is not None
    dense, small, gap = report.probes.dense, report.probes.compressed, report.probes.difference
    return (
        f"Probes, mean accuracy over {counted(len(dense.tasks), 'task')}, {dense.mean.n} sentences that nothing was "
        f"chosen on: dense {percent(dense.mean)} %, compressed {percent(small.mean)} %; difference "
        f"{100 * gap.value:+.1f} ± {100 * gap.stderr:.1f} points."
    )


def _chance_warning(report: Report, spec: StudySpec) -> Iterator[str]:
    task = TASKS.get(spec.task)
    dense, small = report.dense[report.headline], report.compressed[report.headline]
    if report.majority is None:
        return
    guess = commonest_sentence(spec.task, report.majority)
    if at_chance(dense, report.majority):
        yield f"Warning: {guess}, and the dense model is not distinguishably better. Check {task.check}."
    elif at_chance(small, report.majority):
        yield f"Warning: {guess}, and the compressed model is not distinguishably better. Raise the budget."


def commonest_sentence(task: str, majority: float) -> str:
    """Return what guessing alone gives.

    Example:
        >>> commonest_sentence("nli", 0.333)
        'always answering the commonest label is right on 33.3 % of them'
    """
    return f"always {TASKS.get(task).commonest} is right on {100 * majority:.1f} % of them"


def _objective_sentence(report: Report, winner: FrontMember, objective: str) -> str:
    """Return the winner's score by which the search went, on each part and before and after a recovery."""
    selection, recovery = winner.selected, winner.variant.recovery
    seen: list[tuple[str, Scores]] = [("search part", winner.scores)]
    if selection.before_recovery is None:
        seen.append(("selection part", selection.scores))
    else:
        seen.append(("selection part", selection.before_recovery))
        if report.search is not None:
            seen.append((f"after {recovery}, search part", report.search))
        seen.append((f"after {recovery}, selection part", selection.scores))
    seen.append(("report part", report.compressed))
    parts = ", ".join(f"{part} {scores[objective].value:.4g}" for part, scores in seen)
    return f"{objective.capitalize()} of the winner: {parts}."


def _optimism_sentence(report: Report, objective: str) -> str:
    assert report.optimism is not None
    kind, gap = SCORES.get(objective), report.optimism[objective]
    scale, unit = (100.0, "points") if kind.unit == SHARE else (1.0, kind.unit)
    value, stderr = scale * gap.value, scale * gap.stderr
    verdict = "no sign that the search part flattered it" if value <= 2 * stderr else "the search part flattered it"
    return (
        f"As exported, what it loses in {objective} against the dense model is {abs(value):.2g} ± {stderr:.2g} "
        f"{unit} {'less' if value < 0 else 'more'} on the report part than on the search part; {verdict}."
    )


def missed_limits(result: StudyResult, spec: StudySpec) -> Iterator[str]:
    """Return each budget and floor that the winner misses, by how much."""
    winner, selection = result.winning, result.winning.selected
    floors = {floor.text: floor for floor in spec.parsed_floors}
    for name, excess in winner.constraints.items():
        if excess > 0 and name not in floors:
            yield f"{name} is missed by {100 * excess:.1f} %"
        elif excess > 0 and not selection.keeps_floors:
            by = SCORES.get(floors[name].score).difference(excess)
            before = "" if selection.before_recovery is None else f", before the {winner.variant.recovery}"
            yield f"{name} is missed by {by} on the search part{before}"
    if not selection.keeps_floors and not any(winner.constraints.get(name, 0.0) > 0 for name in floors):
        yield "a floor is missed on the selection part"
    clock = result.report.latency
    if clock is not None and not clock.within:
        yield f"the checkpoint takes {clock.ratio:.3f}x of the dense model's time"


def next_commands(result: StudyResult, spec: StudySpec, path: Path) -> Iterator[str]:
    """Return the commands to type next."""
    yield command("front", path)
    yield command("export", path, "--trial", result.winner, "--out", _vacant("my-model"))
    if result.checkpoint is not None:
        yield eval_command(spec, path / result.checkpoint)
    yield command("dashboard", path)


def _vacant(name: str) -> str:
    """Return a name of which there is no file or folder here: this one, or with a number after it."""
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(free for free in names if not Path(free).exists())


def eval_command(spec: StudySpec, checkpoint: Path) -> str:
    """Return the command that scores a checkpoint on a file of the same form as the study's data.

    Example:
        >>> from autolr.spec.study import make_spec
        >>> data = {"label_column": "gold", "label_names": ["e", "n"]}
        >>> spec = make_spec({"budgets": ["0.5x-flops"], "data": data}, "")
        >>> eval_command(spec, Path("small"))
        'autolr eval small --task nli --label-column gold --label-names e,n --data FILE'
    """
    task = TASKS.get(spec.task)
    asked = [("data", field) for field in task.options] + [("run", "trust_remote_code")]
    asked += [("run", "seq_len")] if not task.pads else []
    given: list[object] = []
    for option in options_of(StudySpec).values():
        if option.path in asked:
            given += _typed(option, getattr(getattr(spec, option.path[0]), option.path[1]))
    return command("eval", checkpoint, "--task", task.name, *given, "--data", "FILE")


def _typed(option: SpecOption, value: Any) -> list[object]:
    """Return the words by which a value is given; none for the default."""
    if value == option.default or (option.many and not value):
        return []
    if option.kind is bool:
        return [option.flag]
    if option.many and option.option.read is None:
        return [word for one in value for word in (option.flag, one)]
    return [option.flag, ",".join(value) if option.many else value]


def status_lines(status: StudyStatus) -> Iterator[str]:
    """Return a study's state in lines."""
    counts = status.trials
    done = counts["complete"] + counts["stopped"]
    state = "running" if status.running else "finished" if status.finished else "not finished"
    yield f"{status.study}: {state}; budgets {', '.join([*status.budgets, *status.floors])}"
    yield (
        f"trials: {done} of {max(status.wanted, done)}: {counts['complete']} scored in full, "
        f"{counts['stopped']} stopped early by a better one; {counts['failed']} failed, "
        f"{counts['running']} running or interrupted, {status.trial_seconds:.0f} s of work"
    )
    if status.winner is not None and not status.front:
        yield f"no trial meets every budget and floor; the nearest: {status.winner}"
    else:
        winner = "none yet" if status.winner is None else status.winner
        yield f"front: trials {', '.join(map(str, status.front)) or 'none yet'}; winner: {winner}"
    for failure in status.failures:
        yield f"failed: trial {failure.trial}: {failure.reason}"
    if not status.finished and not status.running:
        yield f"go on with: {command('resume', status.study)}"
