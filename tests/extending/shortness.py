"""A task from elsewhere: a classifier of pairs that is to say "contradiction" seldom, read from files of its own form.

It has one score of which more is better and one of which less is; the entry point is
``shortness = "shortness:TASK"`` in the group ``autolr.tasks``.
"""

import json
from pathlib import Path

import torch

from autolr.data.examples import ExampleData
from autolr.scores import ScoreKind, TaskKind
from autolr.tasks import ExampleTask


class Shortness(ExampleTask):
    """Lines are ``{"both": [premise, hypothesis], "weight": …}``."""

    def load(self, spec, source, split):
        rows = [json.loads(line) for line in Path(source).read_text().splitlines()]
        return ExampleData(source, tuple(row for row in rows if "both" in row), sum("both" not in row for row in rows))

    def text(self, example):
        return tuple(example["both"])

    def score(self, model, examples):
        texts = [list(column) for column in zip(*map(self.text, examples), strict=True)]
        inputs = self.tokenizer(*texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt")
        p = model(**inputs).logits.double().softmax(-1)
        weight = torch.tensor([row["weight"] for row in examples], dtype=torch.float64)
        return {"calm": 1.0 - p[:, 2], "alarm": weight * p[:, 2] ** 2}

    def majority(self, examples):
        return 1.0 / 3.0


CALM = ScoreKind("calm", "larger", help="probability of no contradiction", unit="share", bounds=(0.0, 1.0))
ALARM = ScoreKind("alarm", "smaller", help="weighted squared probability of a contradiction")
TASK = TaskKind("shortness", build=Shortness, scores=(CALM, ALARM), objective="alarm", headline="calm", noun="remarks")
