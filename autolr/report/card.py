"""The model card of an exported checkpoint: what was measured, under which conditions, and how to load it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from math import exp
from pathlib import Path

from autolr import __version__
from autolr.checkpoint.runtime.layers import LowRankLinear
from autolr.forms import FORMS
from autolr.forms.layer_table import as_markdown, layer_table
from autolr.records import Candidate, Choice, Score
from autolr.report.sentences import latency_sentence
from autolr.results import FrontMember, RecoveryNote, Report
from autolr.results.scores import Scores
from autolr.scores import SCORES

_ADAPT = """## Adapters

To PEFT a low-rank layer is two linear layers, `left` and `right`. The layer's own name among `target_modules`, such as
`["{names[0]}"]`, is refused as not supported, and so are an architecture's default targets, which are such names. These
work:

```python
LoraConfig(target_modules="all-linear")  # low-rank layers and dense ones
LoraConfig(target_modules=["left", "right"])  # the factors of every low-rank layer
LoraConfig(target_modules=r".*\\b({alternatives})\\.(left|right)")  # of those with these names
```

Merged and saved again, with autolr imported, the model is a checkpoint like this one.
"""


def model_card(
    source: str,
    member: FrontMember,
    report: Report | None,
    recovery: RecoveryNote | None,
    objective: str,
    loading: str,
    keeps_layers: bool,
) -> str:
    """Return the text of a checkpoint's README.md.

    Args:
        source: the dense model: a directory, of which the title shows the last name, or a hub id.
        member: what was exported.
        report: the scores on the report part, or None.
        recovery: what was done after truncation, or None.
        objective: the score the search used.
        loading: Markdown, how the checkpoint is loaded.
        keeps_layers: low-rank layers are low-rank layers in the checkpoint, so that adapters can be trained on them.
    """
    lines = ["---", "library_name: transformers", "tags: [autolr, low-rank, compressed]", "---", ""]
    lines += [f"# {_last(source)}, compressed by autolr {__version__}", ""]
    lines += [_made(member, recovery), "", *_costs(member)]
    if report is not None and report.latency is not None:
        lines += ["", latency_sentence(report.latency, member.cost.conditions)]
    lines += ["", *_scores(member, report, objective, recovery), "", "## Load", "", loading.rstrip(), ""]
    lines += [*(_adapters(member.candidate) if keeps_layers else ()), "## Layers", ""]
    return "\n".join([*lines, *_layers(member.candidate)]) + "\n"


def _made(member: FrontMember, recovery: RecoveryNote | None) -> str:
    methods = Counter(choice.method for _, choice in member.candidate.choices)
    summary = ", ".join(f"{count} by {method}" for method, count in sorted(methods.items())) or "none"
    after = "" if recovery is None else f" {recovery.layers} layers were {recovery.did} on calibration data."
    trained = "" if recovery is not None and recovery.trains else " Nothing was trained."
    return f"Trial {member.trial} ({member.origin}). Compressed: {summary}.{after}{trained}"


def _costs(member: FrontMember) -> Iterator[str]:
    conditions = member.cost.conditions
    yield (
        f"Costs of the compressed form (batch {conditions.batch_size} of {conditions.seq_len} tokens, "
        f"{conditions.dtype}):"
    )
    yield from ("", "| quantity | amount | ratio to dense |", "|---|---|---|")
    for name, ratio in member.cost.ratios.items():
        amount = member.cost.amounts[name]
        shown = f"{amount:.3f} ms, predicted" if name == "latency" else f"{amount:,}"
        yield f"| {name} | {shown} | {ratio:.4f} |"


def _adapters(candidate: Candidate) -> Iterator[str]:
    """Yield how adapters are trained on the low-rank layers, with names of two kinds of them; nothing without any."""
    names = list(dict.fromkeys(unit.rpartition(".")[2] for unit, choice in candidate.choices if _adaptable(choice)))
    if names:
        yield _ADAPT.format(names=names, alternatives="|".join(names[:2]))


def _adaptable(choice: Choice) -> bool:
    return issubclass(FORMS.get(choice.form).layer, LowRankLinear) and choice.get("rank") > 0


def _layers(candidate: Candidate) -> Iterator[str]:
    """Yield the table of the layers."""
    yield from as_markdown(layer_table(candidate))


def _scores(member: FrontMember, report: Report | None, objective: str, recovery: RecoveryNote | None) -> list[str]:
    if report is not None:
        head = f"Scores ± standard error on data {report.unseen} ({_last(report.data)}):"
        compressed = {**report.compressed, **_probes(report, "compressed")}
        return [head, "", *_table({"compressed": compressed, "dense": {**report.dense, **_probes(report, "dense")}})]
    if not member.scores:
        return ["No score was measured: it is the knapsack's solution, not a trial. `autolr eval` measures it."]
    before = "" if recovery is None else f"; they are from before the {recovery.name}"
    head = (
        f"Scores ± standard error on the search data, by whose {objective} the search chose, so they flatter{before}:"
    )
    return [head, "", *_table({"value": member.scores})]


def _probes(report: Report, which: str) -> dict[str, Score]:
    """Return what probes read in one of the two models, under a name that says of how many tasks it is the mean."""
    if report.probes is None:
        return {}
    read = report.probes.dense if which == "dense" else report.probes.compressed
    return {f"probes, mean accuracy of {len(read.tasks)}": read.mean}


def _table(columns: Mapping[str, Scores]) -> Iterator[str]:
    """Yield a line for each score; what compares a model with the dense one has no value of the dense one itself."""
    yield f"| score | {' | '.join(columns)} | examples |"
    yield "|---|" + "---|" * (len(columns) + 1)
    kinds = SCORES.all()
    for name, score in next(iter(columns.values())).items():
        against = name in kinds and kinds[name].against_dense
        cells = ["" if which == "dense" and against else shown(scores[name]) for which, scores in columns.items()]
        yield f"| {name} | {' | '.join(cells)} | {score.n} |"
        for kind in kinds.values():
            if kind.exponential_of == name:
                cells = [shown(_exponential(scores[name])) for scores in columns.values()]
                yield f"| {kind.name} | {' | '.join(cells)} | {score.n} |"


def _exponential(score: Score) -> Score:
    """Return the exponential of a mean, its standard error carried over."""
    value = exp(score.value)
    return Score(value, value * score.stderr, score.n)


def shown(score: Score) -> str:
    """Return a score to four decimals, a small one to three digits.

    Example:
        >>> shown(Score(0.8125, 0.01, 9)), shown(Score(0.000123456, 1.2e-5, 9))
        ('0.8125 ± 0.0100', '0.000123 ± 1.2e-05')
        >>> shown(Score(1.0, 0.0, 100))  # an error of 0 would claim more than 100 examples tell
        '1.0000'
    """
    if abs(score.value) >= 0.01:
        return f"{score.value:.4f} ± {score.stderr:.4f}" if score.stderr else f"{score.value:.4f}"
    return f"{score.value:.3g} ± {score.stderr:.2g}"


def _last(name: str) -> str:
    """Return the file's own name where data came from an absolute path.

    Example:
        >>> _last("/data/mnli/dev.jsonl"), _last("nyu-mll/glue:mnli [test]")
        ('dev.jsonl', 'nyu-mll/glue:mnli [test]')
    """
    return Path(name).name if Path(name).is_absolute() else name
