"""What somebody does in a notebook: the Python API alone, with a model and data in memory, on the embedded example."""

import tempfile
from pathlib import Path

import torch

import autolr
from autolr.data.example import EXAMPLE_MODEL, example_data
from autolr.data.example.scenes import LABELS

where = Path(tempfile.mkdtemp(prefix="autolr-notebook-"))
threads = torch.get_num_threads()

# A model and rows, however they came about.
model, tokenizer = autolr.load(EXAMPLE_MODEL)


def rows(part, count):
    data = example_data(part)
    columns = zip(data.premises[:count], data.hypotheses[:count], data.labels[:count], strict=True)
    return [{"premise": premise, "hypothesis": second, "label": LABELS[label]} for premise, second, label in columns]


train, validation, test = rows("validation", 300), rows("validation", 700)[300:], rows("test", 200)

# What would it take, and what can be reached?
given = {"train": train, "validation": validation, "test": test, "tokenizer": tokenizer}
few = {"search_examples": 100, "selection_examples": 100, "calibration_examples": 200}
guess = autolr.estimate(model, budget=["0.5x-flops", "0.01x-params"], method="svd", **given, **few)
assert [budget.reachable for budget in guess.budgets] == [True, False]
assert guess.seconds["total"] > 0

# Search, and look at what came out.
shown = {"trials": 6, "method": "svd", "refit": False}
study = autolr.search(model, budget="0.6x-flops", study=where / "study", **shown, **given, **few)
assert study.reached
assert study.winner.cost.ratios["flops"] <= 0.6
assert study.winner.trial in {member.trial for member in study.front}
assert study.report.compressed["accuracy"].n == 200
assert study.status.trials["complete"] + study.status.trials["stopped"] == 6
assert autolr.Study(study.path).winner == study.winner

# Go on, as any other process can: the objects are in the study's folder.
study.resume(trials=7)
assert study.status.wanted == 7

# Another budget of the same trials; two formats; loaded again.
smaller = study.select("0.6x-params")
written = study.export(where / "compressed", trial=smaller.trial)
assert written.max_logit_difference == 0.0
study.export(where / "multiplied", format="dense")
compressed, _ = autolr.load(where / "compressed")
assert compressed.num_parameters() < model.num_parameters()

# How good is it, how fast, what does it know?
scored = autolr.evaluate(compressed, test, tokenizer=tokenizer)
assert scored.score.n == 200
assert autolr.evaluate(EXAMPLE_MODEL, test).score.value > scored.majority
timed = autolr.bench(model, where / "compressed", batch_size=2, seq_len=16, precision=0.5, max_seconds=2)
assert [one.ratio > 0 for one in timed.models] == [True, True]
with (where / "length.tsv").open("w") as file:
    for index, row in enumerate(rows("test", 60)):
        split, label = ("tr", "te")[index % 3 == 0], ("short", "long")[len(row["premise"]) > 40]
        file.write(f"{split}\t{label}\t{row['premise']} {index}\n")
probing = autolr.probe(compressed, where / "length.tsv", tokenizer=tokenizer)
assert len(probing.tasks["length"].layers) > 1

# Two ways to search, at equal cost.
one = {"methods": ["svd"], "refit": False}
entries = [{"name": "uniform", "space": "uniform", **one}, {"name": "random", "sampler": "random", **one}]
table = autolr.compare(entries, where / "comparison", model=model, budget="0.6x-flops", trials=2, **given, **few)
assert {outcome.entry for outcome in table.rows} == {"uniform", "random"}

# The process is as it was.
assert torch.get_num_threads() == threads
assert not model.training
print(study)  # noqa: T201
