"""The tables of README.md from the results of the other scripts: ``python studies/probing-pitfalls/table.py``."""

import json
from pathlib import Path
from statistics import mean

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


def decoders(rows: list[dict]) -> None:
    """Print the mean perplexity over the seeds of each method, uniform and searched, and what the seeds span."""
    methods = [row["entry"].split()[1] for row in rows if row["entry"].startswith("uniform")]
    methods = list(dict.fromkeys(methods))
    print("\n| | " + " | ".join(methods) + " | kfac, refitted |\n|---|" + "---|" * (len(methods) + 1))
    for budget in dict.fromkeys(row["budget"] for row in rows):
        for how in ("uniform", "searched"):
            cells = []
            for entry in [f"{how} {method}" for method in methods] + ["searched kfac, refitted"] * (how == "searched"):
                found = [row for row in rows if (row["entry"], row["budget"]) == (entry, budget)]
                values = [row["perplexity"] for row in found]
                cells.append(f"{mean(values):.1f} ({min(values):.1f} to {max(values):.1f})")
            print(f"| {how}, {budget} | " + " | ".join(cells) + " |")


def dense(found: dict) -> None:
    """Print what both probes read from the dense encoder."""
    print("\n| task | ridge, best | last layer | selective | logistic, best | last layer | chance | length | n |")
    print("|---|---|---|---|---|---|---|---|---|")
    for task, ridge in found["probes"]["ridge"].items():
        cells = []
        for one in (ridge, found["probes"]["logistic"][task]):
            layers = one["layers"]
            top = best(one)
            cells += [f"{percent(top['accuracy'])} ({layers.index(top)})", percent(layers[-1]["accuracy"])]
            cells += [percent(top["selectivity"])] * (one is ridge)
        cells += [f"{100 * value:.1f}" for value in (ridge["majority"], ridge["length"]["value"])]
        print(f"| {task} | " + " | ".join(cells) + f" | {ridge['length']['n']} |")
    cost = found["cost"]
    print(f"\nA score: {cost['ratio']:.2f} of a pass, {min(cost['ratios']):.2f} to {max(cost['ratios']):.2f}")


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
    names = ("decoder", "dense", "knowledge-encoder", "knowledge-decoder")
    perplexities, probes, encoder, decoder = (json.loads((HERE / f"{name}.json").read_text()) for name in names)
    decoders(perplexities)
    dense(probes)
    models(encoder, "NLI, %")
    models(decoder, "perplexity")
    front(encoder)


if __name__ == "__main__":
    main()
