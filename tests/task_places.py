"""What tests of tasks are given: a classifier with pairs, a decoder with text, and rows of a form of their own."""

import json
from pathlib import Path
from types import SimpleNamespace

from decoder_fixture import write_decoder, write_text
from nli_fixture import write_inputs
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

from autolr.cli.main import app
from autolr.model.padding import ensure_padding
from autolr.spec.study import make_spec


def write_places(folder: Path) -> SimpleNamespace:
    """Write all of them and return where they are."""
    options = write_inputs(folder / "pairs")
    write_decoder(folder / "decoder")
    for part, words in (("train", 3000), ("validation", 3000), ("test", 1500)):
        write_text(folder / f"{part}.txt", words, seed=words + len(part))
    for part in ("train", "validation", "test"):
        rows = [json.loads(line) for line in (folder / f"pairs/{part}.jsonl").read_text().splitlines()]
        lines = [
            json.dumps({"both": [row["premise"], row["hypothesis"]], "weight": 1.0 + (i % 2)})
            for i, row in enumerate(rows)
        ]
        (folder / f"{part}.remarks").write_text("\n".join([*lines, json.dumps({"comment": "no example"})]) + "\n")
    return SimpleNamespace(folder=folder, options=options, model=options["--model"], decoder=str(folder / "decoder"))


def opened(path: str, auto: type = AutoModelForSequenceClassification):
    model, tokenizer = auto.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    ensure_padding(model, tokenizer)
    return model, tokenizer


def spec_of(task: str, places: SimpleNamespace, ending: str = "jsonl", **more: object):
    folder = places.folder / ("pairs" if ending == "jsonl" else "")
    data = {part: str(folder / f"{part}.{ending}") for part in ("train", "validation", "test")}
    return make_spec({"task": task, "budgets": ["0.5x-flops"], "data": data, **more}, "test")


def run(*words: object):
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code in (0, 3), (result.output, result.exception)
    return result
