"""The tables of README.md from the results of knowledge.py: ``python studies/probing-pitfalls/table.py``."""

import json
from pathlib import Path

from plot import by_layer, score

HERE = Path(__file__).parent


def percent(value: dict) -> str:
    return f"{100 * value['value']:.1f} ± {100 * value['stderr']:.1f}"


def best(task: dict) -> dict:
    """Return the layer at which a task's probe is right most often."""
    return max(task["layers"], key=lambda layer: layer["accuracy"]["value"])


def pairs(row: dict) -> float:
    """Return the share of all minimal pairs that were preferred rightly, in per cent."""
    fields = row["pairs"].values()
    return 100 * sum(field["value"] * field["n"] for field in fields) / sum(field["n"] for field in fields)


def models(rows: list[dict], name: str) -> None:
    print(f"\n| model | FLOPs | {name} | probes, best layers | middle layer | last layer | minimal pairs |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        layers = by_layer(row)
        tops = [100 * best(task)["accuracy"]["value"] for task in row["tasks"].values()]
        cells = [score(row), sum(tops) / len(tops), layers[len(layers) // 2], layers[-1], pairs(row)]
        print(f"| {row['how']} | {row['flops']:.2f} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")


def front(rows: list[dict]) -> None:
    shown = [row for row in rows if row["how"] in ("dense", "searched")]
    names = [row["how"] if row["how"] == "dense" else row["budget"].split("-")[0] for row in shown]
    print("\n| task | layer | " + " | ".join(names) + " |")
    print("|---|---|" + "---|" * len(shown))
    for task in shown[0]["tasks"]:
        for place, of in (("best", best), ("last", lambda one: one["layers"][-1])):
            found = [of(row["tasks"][task]) for row in shown]
            cells = [f"{percent(one['accuracy'])} ({100 * one['selectivity']['value']:.0f})" for one in found]
            print(f"| {task if place == 'best' else ''} | {place} | " + " | ".join(cells) + " |")


def main() -> None:
    encoder, decoder = (json.loads((HERE / f"knowledge-{name}.json").read_text()) for name in ("encoder", "decoder"))
    models(encoder, "NLI, %")
    models(decoder, "perplexity")
    front(encoder)


if __name__ == "__main__":
    main()
