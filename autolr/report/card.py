"""The model card of an exported checkpoint: what was measured, under which conditions, and how to load it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autolr import __version__

_LOAD = {
    "hf": """```python
import autolr  # registers the low-rank layers with transformers
from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained("path/to/this/directory")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/directory")
```

Without autolr installed, pass `trust_remote_code=True` instead of importing it. Without either, transformers refuses.
""",
    "dense": """```python
from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained("path/to/this/directory")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/directory")
```

The factors are multiplied out into ordinary weights: it loads anywhere, and is neither smaller nor faster than the
dense model.
""",
}
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
    member: Mapping[str, Any],
    report: Mapping[str, Any] | None,
    form: str,
    auto: str,
    objective: str,
    refitted: int,
) -> str:
    """Return the text of a checkpoint's README.md.

    Args:
        source: the dense model: a directory, of which the title shows the last name, or a hub id.
        member: the trial, in the form of front.json.
        report: the scores on the report part, or None.
        form: hf or dense.
        auto: the Auto class to load it with.
        objective: the score the search used.
        refitted: how many layers were refitted.
    """
    lines = ["---", "library_name: transformers", "tags: [autolr, low-rank, compressed]", "---", ""]
    lines += [
        f"# {_last(source)}, compressed by autolr {__version__}",
        "",
    ]
    methods = Counter(choice["method"] for choice in member["candidate"].values())
    summary = ", ".join(f"{count} by {method}" for method, count in sorted(methods.items())) or "none"
    after = f"{refitted} of them refitted by least squares on calibration data. " if refitted else ""
    text = f"Trial {member['trial']} ({member['origin']}). Layers factorized: {summary}. {after}Nothing was trained."
    lines += [text, ""]
    conditions = member["costs"]["conditions"]
    lines += [
        f"Costs of the low-rank form (batch {conditions['batch_size']} of {conditions['seq_len']} tokens, "
        f"{conditions['dtype']}):",
        "",
        "| quantity | amount | ratio to dense |",
        "|---|---|---|",
    ]
    for name, ratio in member["costs"]["ratio"].items():
        amount = member["costs"]["absolute"][name]
        shown = f"{amount:.3f} ms, predicted" if name == "latency" else f"{amount:,}"
        lines.append(f"| {name} | {shown} | {ratio:.4f} |")
    if report is not None and "latency" in report:
        lines += ["", _clock(report["latency"], conditions)]
    lines += [
        "",
        *_scores(member, report, objective, refitted),
        "",
        "## Load",
        "",
        _LOAD[form].format(auto=auto),
        *(_adapters(member["candidate"]) if form == "hf" else ()),
        "## Layers",
        "",
    ]
    return "\n".join([*lines, *_layers(member["candidate"])]) + "\n"


def _adapters(candidate: Mapping[str, Any]) -> Iterator[str]:
    """Yield how adapters are trained on the low-rank layers, with names of two kinds of them; nothing without any."""
    names = list(dict.fromkeys(unit.rpartition(".")[2] for unit, choice in candidate.items() if choice["rank"]))
    if names:
        yield _ADAPT.format(names=names, alternatives="|".join(names[:2]))


def _layers(candidate: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table of the layers; with the number of rows kept dense where a method keeps some."""
    keeps = any(choice["rows"] for choice in candidate.values())
    yield "| layer | method | rank |" + " rows kept dense |" * keeps
    yield "|---|---|---|" + "---|" * keeps
    for unit, choice in candidate.items():
        yield f"| {unit} | {choice['method']} | {choice['rank']} |" + f" {choice['rows'] or 0} |" * keeps


def _clock(clock: Mapping[str, Any], conditions: Mapping[str, Any]) -> str:
    low, high = clock["ratio_range"]
    threads = f", {conditions['threads']} threads" if conditions["threads"] else ""
    return (
        f"Measured in {len(clock['processes'])} processes of its own, in turn with the dense model, on "
        f"{conditions['device']}{threads}: {clock['ms']:.2f} ms, {clock['ratio']:.3f} of dense (median; {low:.3f} to "
        f"{high:.3f})."
    )


def _scores(member: Mapping[str, Any], report: Mapping[str, Any] | None, objective: str, refitted: int) -> list[str]:
    if report is None:
        before = "; they are from before the refit" if refitted else ""
        head = f"Scores ± standard error on the search data, by whose {objective} the search chose, so they flatter"
        columns = {"value": member["scores"]}
        if not member["scores"]:
            return ["No score was measured: it is the knapsack's solution, not a trial. `autolr eval` measures it."]
        head += f"{before}:"
    else:
        head = f"Scores ± standard error on data that nothing was chosen on ({_last(report['data'])}):"
        columns = {name: _all_scores(report, name) for name in ("compressed", "dense")}
    table = [f"| score | {' | '.join(columns)} | examples |", "|---|" + "---|" * (len(columns) + 1)]
    against = {"agreement", "divergence"}  # of the dense model with itself
    for name, score in next(iter(columns.values())).items():
        cells = [
            "" if which == "dense" and name in against else _shown(scores[name]) for which, scores in columns.items()
        ]
        table.append(f"| {name} | {' | '.join(cells)} | {score['n']} |")
    return [head, "", *table]


def _all_scores(report: Mapping[str, Any], which: str) -> dict[str, Any]:
    """Return the scores of one of the two models, with its perplexity and its probes where there are some."""
    scores = dict(report[which])
    if "perplexity" in report:
        value = report["perplexity"][which]
        scores["perplexity"] = {**scores["loss"], "value": value, "stderr": value * scores["loss"]["stderr"]}
    if "probes" in report:
        found = report["probes"][which]
        scores[f"probes, mean accuracy of {len(found['tasks'])}"] = found["mean"]
    return scores


def _shown(score: Mapping[str, Any]) -> str:
    """Return a score to four decimals, a small one to three digits.

    Example:
        >>> _shown({"value": 0.8125, "stderr": 0.01}), _shown({"value": 0.000123456, "stderr": 1.2e-5})
        ('0.8125 ± 0.0100', '0.000123 ± 1.2e-05')
    """
    value, stderr = score["value"], score["stderr"]
    return f"{value:.4f} ± {stderr:.4f}" if abs(value) >= 0.01 else f"{value:.3g} ± {stderr:.2g}"


def _last(name: str) -> str:
    """Return the file's own name where data came from an absolute path.

    Example:
        >>> _last("/data/mnli/dev.jsonl"), _last("nyu-mll/glue:mnli [test]")
        ('dev.jsonl', 'nyu-mll/glue:mnli [test]')
    """
    return Path(name).name if Path(name).is_absolute() else name
